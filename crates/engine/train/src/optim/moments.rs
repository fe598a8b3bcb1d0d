//! What a rule remembers, in 32 or 16 bits.

use cupola_artifact::{DType, HostTensor};
use serde::{Deserialize, Serialize};

/// What the numbers of an optimizer's state are stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateType {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16, rounded so that the mean over steps is right ([`cupola_kernels::Moment`]).
    Bf16,
}

impl StateType {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// One moment of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Moments {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// The bits of bfloat16 numbers.
    Bf16(Vec<u16>),
}

impl Moments {
    /// The state that everything begins with.
    pub fn zeros(dtype: StateType, len: usize) -> Self {
        match dtype {
            StateType::F32 => Self::F32(vec![0.0; len]),
            StateType::Bf16 => Self::Bf16(vec![0; len]),
        }
    }

    /// What a checkpoint stores its numbers as.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::Bf16(_) => DType::BF16,
        }
    }

    /// As a checkpoint holds it.
    pub fn to_host(&self) -> HostTensor {
        match self {
            Self::F32(data) => HostTensor::from_f32(vec![data.len()], data),
            Self::Bf16(bits) => {
                let bytes = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
                HostTensor { shape: vec![bits.len()], dtype: DType::BF16, bytes }
            }
        }
    }

    /// From a checkpoint, bit for bit; `None` when it is of another length or type.
    pub fn from_host(tensor: &HostTensor, dtype: StateType, len: usize) -> Option<Self> {
        match (dtype, tensor.dtype) {
            (StateType::F32, DType::F32) => {
                let data = tensor.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                Some(Self::F32(data))
            }
            (StateType::Bf16, DType::BF16) => {
                let bits = tensor.bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
                Some(Self::Bf16(bits))
            }
            _ => None,
        }
        .filter(|found| found.len() == len)
    }

    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(bits) => bits.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
