//! Orders of a matrix's rows.

use cupola_artifact::{Error, HostTensor, Result};

/// In what order the rows of a projection stand, seen from Hugging Face's files.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rows {
    /// Queries: number i of a head turns with number i + half there, with its neighbour here.
    PairedQueries,
    /// Keys alike.
    PairedKeys,
    /// Queries, keys and values head by head, or group by group, there; all queries, all keys, all values here.
    Grouped,
}

/// The heads of a model.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Of queries.
    pub queries: usize,
    /// Of keys and values.
    pub keys: usize,
}

impl Rows {
    /// Which row there each row here is.
    fn order(self, heads: Heads, count: usize) -> Option<Vec<usize>> {
        match self {
            Self::PairedQueries => paired(heads.queries, count),
            Self::PairedKeys => paired(heads.keys, count),
            Self::Grouped => grouped(heads, count),
        }
    }

    /// The tensor in the other order.
    ///
    /// # Errors
    /// When the heads do not divide its rows.
    pub fn change(self, tensor: &HostTensor, heads: Heads, to_gguf: bool) -> Result<HostTensor> {
        let count = tensor.shape.first().copied().unwrap_or(1);
        let order = self.order(heads, count).ok_or_else(|| {
            Error::failed(format!("{count} rows are none of {} and {} heads", heads.queries, heads.keys))
                .with_hint("the settings disagree with the weights")
        })?;
        let width = tensor.bytes.len() / count.max(1);
        let mut bytes = vec![0; tensor.bytes.len()];
        for (here, there) in order.into_iter().enumerate() {
            let (to, from) = if to_gguf { (here, there) } else { (there, here) };
            bytes[to * width..][..width].copy_from_slice(&tensor.bytes[from * width..][..width]);
        }
        Ok(HostTensor { shape: tensor.shape.clone(), dtype: tensor.dtype, bytes })
    }
}

fn paired(heads: usize, count: usize) -> Option<Vec<usize>> {
    if heads == 0 || !count.is_multiple_of(2 * heads) {
        return None;
    }
    let size = count / heads;
    Some((0..count).map(|row| row / size * size + row % 2 * (size / 2) + row % size / 2).collect())
}

fn grouped(heads: Heads, count: usize) -> Option<Vec<usize>> {
    let all = heads.queries.checked_add(heads.keys.checked_mul(2)?)?;
    if heads.keys == 0 || !count.is_multiple_of(all) || !heads.queries.is_multiple_of(heads.keys) {
        return None;
    }
    let (size, share) = (count / all, heads.queries / heads.keys);
    let head = |group: usize, within: usize| (0..size).map(move |d| (group * (share + 2) + within) * size + d);
    let queries = (0..heads.queries).flat_map(|h| head(h / share, h % share));
    let keys = (0..heads.keys).flat_map(|group| head(group, share));
    let values = (0..heads.keys).flat_map(|group| head(group, share + 1));
    Some(queries.chain(keys).chain(values).collect())
}

/// A matrix on its side.
pub fn transpose(tensor: &HostTensor) -> HostTensor {
    let &[n, m] = tensor.shape.as_slice() else { return tensor.clone() };
    let size = tensor.dtype.size();
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for column in 0..m {
        for row in 0..n {
            bytes.extend(&tensor.bytes[(row * m + column) * size..][..size]);
        }
    }
    HostTensor { shape: vec![m, n], dtype: tensor.dtype, bytes }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn orders_are_what_they_say_and_go_both_ways() {
        let heads = Heads { queries: 4, keys: 2 };
        assert_eq!(Rows::PairedKeys.order(heads, 8).unwrap(), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(Rows::Grouped.order(heads, 8).unwrap(), [0, 1, 4, 5, 2, 6, 3, 7]);
        let tensor = HostTensor::from_f32([16, 3], &(0..48).map(|v| v as f32).collect::<Vec<_>>());
        for rows in [Rows::PairedQueries, Rows::PairedKeys, Rows::Grouped] {
            let changed = rows.change(&tensor, heads, true).unwrap();
            assert_ne!(changed, tensor, "{rows:?}");
            assert_eq!(rows.change(&changed, heads, false).unwrap(), tensor, "{rows:?}");
            let odd = HostTensor::from_f32([3, 1], &[0.0; 3]);
            assert!(rows.change(&odd, heads, true).is_err());
            assert!(rows.change(&tensor, Heads { queries: 0, keys: 0 }, true).is_err());
        }
        assert_eq!(transpose(&tensor).shape, [3, 16]);
        assert_eq!(transpose(&transpose(&tensor)), tensor);
    }
}
