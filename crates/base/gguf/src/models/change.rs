//! How a tensor of a file differs from the model's.

use cupola_artifact::{DType, Error, HostTensor, Result};

use super::rows::{Heads, Rows, transpose};
use crate::value::Metadata;

/// How a tensor differs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Not at all.
    Same,
    /// Its rows stand in another order.
    Rows(Rows),
    /// A matrix is on its side; vectors are the same.
    Transposed,
    /// A norm's weight counts from 0 here and from 1 there.
    OneMore,
    /// The experts' matrices lie on each other.
    Stacked,
    /// The filters of a convolution stand in a stack of matrices of one row each, `[D, 1, K]`, and `[D, K]` there.
    Squeezed,
    /// The logarithms of decay rates, and minus the rates there.
    Decay,
    /// The same, and a vector is a column there.
    DecayColumn,
    /// A vector is a column there.
    Column,
    /// A vector lies there in as many rows as states have groups.
    Grouped,
    /// The rows before the first position that a text has are left out.
    Positions,
    /// Scaled by the width's root: an output layer that is the embedding, whose inputs the model divides.
    Scaled,
    /// Of the matrix that makes keys and values of latents, head by head, the keys' rows, on their side.
    LatentKeys,
    /// The same, the values' rows.
    LatentValues,
}

/// The numbers that changes need.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The heads.
    pub heads: Heads,
    /// The groups of a state space's heads.
    groups: usize,
    /// The numbers of a key that are made of latents, and those of a value.
    latent: [usize; 2],
    /// The width of the embedding.
    width: usize,
    /// The rows of the table of positions before the first.
    pub unused: usize,
}

impl Sizes {
    /// The sizes that metadata names.
    pub fn read(metadata: &Metadata, arch: &str) -> Result<Self> {
        let size = |key: &str| Ok(metadata.size(&format!("{arch}.{key}"))?.unwrap_or(0));
        let rotated = size("rope.dimension_count")?;
        Ok(Self {
            heads: super::settings::heads(metadata, arch)?,
            groups: size("ssm.group_count")?,
            latent: [size("attention.key_length_mla")?.saturating_sub(rotated), size("attention.value_length_mla")?],
            width: size("embedding_length")?,
            unused: 0,
        })
    }

    /// What an output layer is multiplied by that is the embedding.
    fn scale(&self) -> f32 {
        (self.width as f64).powf(-0.5) as f32
    }
}

impl Change {
    /// The shape that a tensor of the model has in the file; of one expert's, the shape of all `experts`.
    pub fn shape(self, shape: &[usize], experts: usize, sizes: &Sizes) -> Vec<usize> {
        let heads = sizes.heads.queries;
        let [keys, values] = sizes.latent;
        match (self, shape) {
            (Self::Transposed, shape) => shape.iter().rev().copied().collect(),
            (Self::Stacked, shape) => std::iter::once(experts).chain(shape.iter().copied()).collect(),
            (Self::Squeezed, &[d, 1, k]) => vec![d, k],
            (Self::DecayColumn | Self::Column, &[n]) => vec![n, 1],
            (Self::Grouped, &[n]) if sizes.groups > 0 => vec![sizes.groups, n / sizes.groups],
            (Self::Positions, &[rows, d]) => vec![rows.saturating_sub(sizes.unused), d],
            (Self::LatentKeys, &[_, rank]) => vec![heads, rank, keys],
            (Self::LatentValues, &[_, rank]) => vec![heads, values, rank],
            (_, shape) => shape.to_vec(),
        }
    }

    /// The tensor as the file has it.
    ///
    /// # Errors
    /// When its rows are not what the settings say.
    pub fn write(self, tensor: &HostTensor, sizes: &Sizes) -> Result<HostTensor> {
        let reshaped = || HostTensor { shape: self.shape(&tensor.shape, 1, sizes), ..tensor.clone() };
        Ok(match self {
            Self::Same | Self::Stacked => tensor.clone(),
            Self::Rows(rows) => rows.change(tensor, sizes.heads, true)?,
            Self::Transposed => transpose(tensor),
            Self::OneMore => each(tensor, |v| v + 1.0)?,
            Self::Squeezed | Self::Column | Self::Grouped => reshaped(),
            Self::Decay | Self::DecayColumn => each(&reshaped(), |v| -v.exp())?,
            Self::Scaled => each(tensor, |v| v * sizes.scale())?,
            Self::Positions => {
                let row = tensor.bytes.len() / tensor.shape.first().copied().unwrap_or(1).max(1);
                let bytes = tensor.bytes.get(sizes.unused * row..).unwrap_or_default().to_vec();
                HostTensor { bytes, ..reshaped() }
            }
            Self::LatentKeys | Self::LatentValues => self.part_of_latent(tensor, sizes)?,
        })
    }

    /// The tensor as Hugging Face's files have it; of a part of one, what [`joined`] makes it of.
    ///
    /// # Errors
    /// When its rows are not what the settings say.
    pub fn read(self, tensor: HostTensor, sizes: &Sizes) -> Result<HostTensor> {
        let shape = tensor.shape.clone();
        let reshaped = |shape: Vec<usize>, tensor: HostTensor| HostTensor { shape, ..tensor };
        Ok(match (self, shape.as_slice()) {
            (Self::Rows(rows), _) => rows.change(&tensor, sizes.heads, false)?,
            (Self::Transposed, _) => transpose(&tensor),
            (Self::OneMore, _) => each(&tensor, |v| v - 1.0)?,
            (Self::Squeezed, &[d, k]) => reshaped(vec![d, 1, k], tensor),
            (Self::Column, _) | (Self::Grouped, &[_, _]) => reshaped(vec![shape.iter().product()], tensor),
            (Self::Decay, _) => each(&tensor, |v| (-v).ln())?,
            (Self::DecayColumn, _) => each(&reshaped(vec![shape.iter().product()], tensor), |v| (-v).ln())?,
            _ => tensor,
        })
    }

    /// The keys' or the values' rows of each head, `[H (K + V), R]` to `[H, R, K]` or `[H, V, R]`.
    fn part_of_latent(self, tensor: &HostTensor, sizes: &Sizes) -> Result<HostTensor> {
        let (heads, [keys, values]) = (sizes.heads.queries, sizes.latent);
        let &[rows, rank] = tensor.shape.as_slice() else { return Err(no_latents(&tensor.shape, sizes)) };
        if heads.checked_mul(keys + values) != Some(rows) {
            return Err(no_latents(&tensor.shape, sizes));
        }
        let row = tensor.bytes.len() / rows.max(1);
        let part = |head: usize| match self {
            Self::LatentKeys => {
                let first = head * (keys + values);
                let bytes = tensor.bytes[first * row..(first + keys) * row].to_vec();
                transpose(&HostTensor { shape: vec![keys, rank], dtype: tensor.dtype, bytes }).bytes
            }
            _ => tensor.bytes[(head * (keys + values) + keys) * row..(head + 1) * (keys + values) * row].to_vec(),
        };
        let shape = self.shape(&tensor.shape, 1, sizes);
        Ok(HostTensor { shape, dtype: tensor.dtype, bytes: (0..heads).flat_map(part).collect() })
    }
}

/// The matrix that makes keys and values of latents, of its two parts.
///
/// # Errors
/// Parts that do not fit each other.
pub fn joined(keys: &HostTensor, values: &HostTensor, sizes: &Sizes) -> Result<HostTensor> {
    let (&[heads, rank, d_key], &[n, d_value, r]) = (keys.shape.as_slice(), values.shape.as_slice()) else {
        return Err(no_latents(&keys.shape, sizes));
    };
    let (keys, values) = (keys.to_f32()?, values.to_f32()?);
    if heads != n || rank != r || keys.is_empty() || values.is_empty() {
        return Err(no_latents(&[n, d_value, r], sizes));
    }
    let mut all = Vec::with_capacity(keys.len() + values.len());
    for (keys, values) in keys.chunks_exact(rank * d_key).zip(values.chunks_exact(d_value * rank)) {
        all.extend((0..d_key * rank).map(|at| keys[at % rank * d_key + at / rank]));
        all.extend(values);
    }
    Ok(HostTensor::from_f32([heads * (d_key + d_value), rank], &all))
}

fn no_latents(shape: &[usize], sizes: &Sizes) -> Error {
    let (heads, [keys, values]) = (sizes.heads.queries, sizes.latent);
    Error::failed(format!("{shape:?} are not {heads} heads of {keys} numbers of a key and {values} of a value"))
        .with_hint("the settings disagree with the weights")
}

/// The tensor with each number changed, in 32 bits.
fn each(tensor: &HostTensor, change: impl Fn(f32) -> f32) -> Result<HostTensor> {
    let values: Vec<f32> = tensor.to_f32()?.into_iter().map(change).collect();
    HostTensor::from_f32(tensor.shape.clone(), &values).to_float(DType::F32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sizes() -> Sizes {
        Sizes { heads: Heads { queries: 3, keys: 3 }, groups: 2, latent: [4, 2], width: 16, unused: 2 }
    }

    fn counted(shape: &[usize]) -> HostTensor {
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|v| v as f32 / 8.0).collect();
        HostTensor::from_f32(shape, &values)
    }

    #[test]
    fn changes_have_the_shape_that_they_say_and_go_both_ways() {
        for (change, shape) in [
            (Change::Same, &[6, 4][..]),
            (Change::Transposed, &[6, 4]),
            (Change::OneMore, &[6]),
            (Change::Squeezed, &[6, 1, 4]),
            (Change::Decay, &[6, 4]),
            (Change::DecayColumn, &[6]),
            (Change::Column, &[6]),
            (Change::Grouped, &[6]),
        ] {
            let tensor = counted(shape);
            let written = change.write(&tensor, &sizes()).unwrap();
            assert_eq!(written.shape, change.shape(shape, 1, &sizes()), "{change:?}");
            let again = change.read(written, &sizes()).unwrap();
            assert_eq!(again.shape, tensor.shape, "{change:?}");
            let (a, b) = (again.to_f32().unwrap(), tensor.to_f32().unwrap());
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6), "{change:?}: {a:?}");
        }
        let rows = Change::Positions.write(&counted(&[5, 2]), &sizes()).unwrap();
        assert_eq!((rows.shape.as_slice(), rows.to_f32().unwrap()[0]), (&[3, 2][..], 0.5));
        let scaled = Change::Scaled.write(&counted(&[1, 3]), &sizes()).unwrap();
        assert_eq!(scaled.to_f32().unwrap(), [0.0, 0.125 / 4.0, 0.25 / 4.0]);
    }

    #[test]
    fn parts_of_latents_join_to_the_whole() {
        let whole = counted(&[18, 5]);
        let keys = Change::LatentKeys.write(&whole, &sizes()).unwrap();
        let values = Change::LatentValues.write(&whole, &sizes()).unwrap();
        assert_eq!((keys.shape.as_slice(), values.shape.as_slice()), (&[3, 5, 4][..], &[3, 2, 5][..]));
        // The second head's first key: row 6 of the whole, number 1 of the latent.
        assert_eq!(keys.to_f32().unwrap()[5 * 4 + 4], whole.to_f32().unwrap()[6 * 5 + 1]);
        assert_eq!(joined(&keys, &values, &sizes()).unwrap(), whole);
        assert!(Change::LatentKeys.write(&counted(&[17, 5]), &sizes()).is_err());
        assert!(joined(&keys, &keys, &sizes()).is_err());
    }
}
