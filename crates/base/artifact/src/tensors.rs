//! Tensors in main memory, as files hold them: a shape, an element type, little-endian bytes.

use std::collections::BTreeMap;

use half::{bf16, f16};

use crate::{Error, Result};

/// Tensors by name.
pub type StateDict = BTreeMap<String, HostTensor>;

/// An element type.
#[expect(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    F32,
    F16,
    BF16,
    I8,
    U8,
    I32,
    I64,
    F64,
    Bool,
}

impl DType {
    /// The size of an element in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// Its name in safetensors files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::I32 => "I32",
            Self::I64 => "I64",
            Self::F64 => "F64",
            Self::Bool => "BOOL",
        }
    }
}

/// A tensor in main memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// The shape; empty for a single number.
    pub shape: Vec<usize>,
    /// The element type.
    pub dtype: DType,
    /// The elements, little-endian.
    pub bytes: Vec<u8>,
}

/// Declares a constructor; the number of values must be that of the shape.
macro_rules! from_values {
    ($(#[$doc:meta])* $name:ident, $type:ty, $dtype:expr) => {
        $(#[$doc])*
        ///
        /// # Panics
        /// When the number of values is not that of the shape.
        pub fn $name(shape: impl Into<Vec<usize>>, values: &[$type]) -> Self {
            let shape = shape.into();
            assert_eq!(shape.iter().product::<usize>(), values.len(), "{shape:?} does not hold that many values");
            Self { shape, dtype: $dtype, bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
        }
    };
}

impl HostTensor {
    from_values!(/// A tensor of 32-bit floats.
        from_f32, f32, DType::F32);
    from_values!(/// A tensor of signed bytes.
        from_i8, i8, DType::I8);
    from_values!(/// A tensor of unsigned bytes.
        from_u8, u8, DType::U8);
    from_values!(/// A tensor of 64-bit integers.
        from_i64, i64, DType::I64);

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements of a float tensor as 32-bit floats.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.check()?;
        Ok(match self.dtype {
            DType::F32 => self.map(f32::from_le_bytes),
            DType::F16 => self.map(|b| f16::from_le_bytes(b).to_f32()),
            DType::BF16 => self.map(|b| bf16::from_le_bytes(b).to_f32()),
            DType::F64 => self.map(|b| f64::from_le_bytes(b) as f32),
            _ => return Err(self.is_not("a float tensor")),
        })
    }

    /// The elements of a tensor of signed bytes.
    pub fn to_i8(&self) -> Result<Vec<i8>> {
        self.check()?;
        match self.dtype {
            DType::I8 => Ok(self.map(i8::from_le_bytes)),
            _ => Err(self.is_not("a tensor of signed bytes")),
        }
    }

    /// The elements of an integer (or truth value) tensor as 64-bit integers.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        self.check()?;
        Ok(match self.dtype {
            DType::I64 => self.map(i64::from_le_bytes),
            DType::I32 => self.map(|b| i32::from_le_bytes(b).into()),
            DType::I8 => self.map(|b| i8::from_le_bytes(b).into()),
            DType::U8 | DType::Bool => self.map(|b| u8::from_le_bytes(b).into()),
            _ => return Err(self.is_not("an integer tensor")),
        })
    }

    /// The same values in another float type, rounded to nearest.
    pub fn to_float(&self, dtype: DType) -> Result<Self> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let values = self.to_f32()?;
        let bytes = match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            DType::F64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
            _ => return Err(Error::failed(format!("{} is no float type", dtype.name()))),
        };
        Ok(Self { shape: self.shape.clone(), dtype, bytes })
    }

    /// The elements, one after the other; alignment does not matter.
    fn map<const N: usize, T>(&self, read: impl Fn([u8; N]) -> T) -> Vec<T> {
        self.bytes.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
    }

    fn check(&self) -> Result<()> {
        let expected = self.shape.iter().try_fold(self.dtype.size(), |product, dim| product.checked_mul(*dim));
        if expected == Some(self.bytes.len()) {
            return Ok(());
        }
        Err(Error::failed(format!(
            "a {} tensor of shape {:?} cannot have {} bytes",
            self.dtype.name(),
            self.shape,
            self.bytes.len()
        )))
    }

    fn is_not(&self, what: &str) -> Error {
        Error::failed(format!("the tensor is {} and not {what}", self.dtype.name()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn float_types_convert_to_f32() {
        let values = [0.0, 1.0, -2.5, 65504.0];
        let tensor = HostTensor::from_f32([2, 2], &values);
        for dtype in [DType::F32, DType::F16, DType::F64] {
            let other = tensor.to_float(dtype).unwrap();
            assert_eq!((other.bytes.len(), other.to_f32().unwrap()), (4 * dtype.size(), values.to_vec()));
        }
        assert_eq!(tensor.to_float(DType::BF16).unwrap().to_f32().unwrap(), [0.0, 1.0, -2.5, 65536.0]);
        assert!(tensor.to_i8().is_err() && tensor.to_i64().is_err() && tensor.to_float(DType::I8).is_err());
    }

    #[test]
    fn integer_types_keep_their_sign() {
        assert_eq!(HostTensor::from_i8([3], &[-128, 0, 127]).to_i8().unwrap(), [-128, 0, 127]);
        assert_eq!(HostTensor::from_i8([1], &[-1]).to_i64().unwrap(), [-1]);
        assert_eq!(HostTensor::from_i64([2], &[i64::MIN, 7]).to_i64().unwrap(), [i64::MIN, 7]);
    }

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_an_error() {
        let tensor = HostTensor { shape: vec![usize::MAX, 2], dtype: DType::F32, bytes: vec![0; 7] };
        assert!(tensor.to_f32().unwrap_err().to_string().contains("7 bytes"));
    }
}
