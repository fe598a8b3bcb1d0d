//! Modules of a file that hold several of the model's, or lie on their side.

use cupola_artifact::{DType, Error, HostTensor, Result, StateDict};

/// A linear layer as a file has it, where that is not one `[d_out, d_in]` matrix for each of the model's layers.
///
/// The rows of the parts stand in `groups` equal shares: with one group, all of the first part, then all of the second
/// (GPT-2, Phi-3); with as many groups as heads, the first head of each part, then the second (GPT-NeoX, BLOOM), and
/// with as many as key-value heads, the first's queries, key and value (Falcon).
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    /// Its name in the file, without `.weight`.
    pub module: String,
    /// The model's layers in it, and the rows of each; one part is a layer that only lies on its side.
    pub parts: Vec<(String, usize)>,
    /// Equal shares of each part, which take turns.
    pub groups: usize,
    /// Whether the file has `[d_in, d_out]`.
    pub transposed: bool,
}

impl Fused {
    /// Replaces the file's tensors by the model's. What the file already has in parts stays, and so do quantized layers.
    ///
    /// # Errors
    /// A tensor whose shape does not divide into the parts.
    pub fn unpack(&self, state: &mut StateDict) -> Result<()> {
        if state.get(&format!("{}.weight", self.module)).is_some_and(|tensor| tensor.dtype == DType::I8) {
            return Ok(());
        }
        for kind in ["weight", "bias"] {
            let name = format!("{}.{kind}", self.module);
            let Some(mut tensor) = state.remove(&name) else { continue };
            let matrix = kind == "weight";
            if matrix && tensor.shape.len() != 2 {
                return Err(Error::failed(format!("{name} is {:?}, not a matrix", tensor.shape)));
            }
            if matrix && self.transposed {
                tensor = transposed(&tensor);
            }
            let rows = self.parts.iter().map(|p| p.1).sum::<usize>();
            if tensor.shape[0] != rows {
                let message = format!("{name} has {} outputs, but config.json implies {rows}", tensor.shape[0]);
                return Err(Error::failed(message)
                    .with_hint("config.json disagrees with the checkpoint; one of them is another model's"));
            }
            for ((module, rows), bytes) in self.parts.iter().zip(self.split(&tensor)) {
                let shape = [&[*rows], &tensor.shape[1..]].concat();
                state.insert(format!("{module}.{kind}"), HostTensor { shape, dtype: tensor.dtype, bytes });
            }
        }
        Ok(())
    }

    /// Replaces the model's tensors by the file's. Quantized layers stay as they are: their scales belong to rows of
    /// `[d_out, d_in]`.
    pub fn pack(&self, state: &mut StateDict) {
        let names = |kind: &str| self.parts.iter().map(|p| format!("{}.{kind}", p.0)).collect::<Vec<_>>();
        let whole = |name: &String| state.get(name).is_some_and(|tensor| tensor.dtype != DType::I8);
        if !names("weight").iter().all(whole) {
            return;
        }
        for kind in ["weight", "bias"] {
            let parts: Vec<HostTensor> = names(kind).iter().filter_map(|name| state.remove(name)).collect();
            let Some(first) = parts.first() else { continue };
            let shape = [&[self.parts.iter().map(|p| p.1).sum()], &first.shape[1..]].concat();
            let mut tensor = HostTensor { shape, dtype: first.dtype, bytes: self.join(&parts) };
            if kind == "weight" && self.transposed {
                tensor = transposed(&tensor);
            }
            state.insert(format!("{}.{kind}", self.module), tensor);
        }
    }

    fn split(&self, tensor: &HostTensor) -> Vec<Vec<u8>> {
        let row = tensor.bytes.len() / tensor.shape[0].max(1);
        let mut out: Vec<Vec<u8>> = self.parts.iter().map(|p| Vec::with_capacity(p.1 * row)).collect();
        let mut rest = tensor.bytes.as_slice();
        for _ in 0..self.groups {
            for (part, out) in self.parts.iter().zip(&mut out) {
                let (share, after) = rest.split_at(part.1 / self.groups * row);
                out.extend_from_slice(share);
                rest = after;
            }
        }
        out
    }

    fn join(&self, parts: &[HostTensor]) -> Vec<u8> {
        let mut out = Vec::with_capacity(parts.iter().map(|p| p.bytes.len()).sum());
        for group in 0..self.groups {
            for part in parts {
                let share = part.bytes.len() / self.groups;
                out.extend_from_slice(&part.bytes[group * share..][..share]);
            }
        }
        out
    }
}

/// The transpose of a matrix of whatever elements.
fn transposed(tensor: &HostTensor) -> HostTensor {
    let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
    let size = tensor.bytes.len() / (rows * cols).max(1);
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for j in 0..cols {
        for i in 0..rows {
            bytes.extend_from_slice(&tensor.bytes[(i * cols + j) * size..][..size]);
        }
    }
    HostTensor { shape: vec![cols, rows], dtype: tensor.dtype, bytes }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fused(groups: usize, transposed: bool) -> Fused {
        let parts = vec![("q".into(), 4), ("k".into(), 2), ("v".into(), 2)];
        Fused { module: "qkv".into(), parts, groups, transposed }
    }

    /// A file whose output row i holds the number i in each of its three columns.
    fn file(transposed: bool) -> StateDict {
        let rows = |i: usize| if transposed { i % 8 } else { i / 3 };
        let values: Vec<f32> = (0..24).map(|i| rows(i) as f32).collect();
        let shape = if transposed { [3, 8] } else { [8, 3] };
        let bias: Vec<f32> = (0..8u8).map(f32::from).collect();
        [("qkv.weight", HostTensor::from_f32(shape, &values)), ("qkv.bias", HostTensor::from_f32([8], &bias))]
            .map(|(name, tensor)| (name.to_string(), tensor))
            .into()
    }

    #[test]
    fn rows_go_to_their_parts_by_groups_and_come_back() {
        for (groups, q, k, v) in
            [(1, vec![0., 1., 2., 3.], [4., 5.], [6., 7.]), (2, vec![0., 1., 4., 5.], [2., 6.], [3., 7.])]
        {
            for transposed in [false, true] {
                let mut state = file(transposed);
                fused(groups, transposed).unpack(&mut state).unwrap();
                for (name, rows) in [("q", &q[..]), ("k", &k[..]), ("v", &v[..])] {
                    assert_eq!(state[&format!("{name}.bias")].to_f32().unwrap(), rows);
                    let weight = &state[&format!("{name}.weight")];
                    assert_eq!(weight.shape, [rows.len(), 3]);
                    assert_eq!(weight.to_f32().unwrap(), rows.iter().flat_map(|r| [*r; 3]).collect::<Vec<_>>());
                }
                assert_eq!(state.len(), 6);
                fused(groups, transposed).pack(&mut state);
                assert_eq!(state, file(transposed));
            }
        }
    }

    #[test]
    fn what_is_in_parts_already_stays() {
        let mut state: StateDict = [("q.weight".to_string(), HostTensor::from_f32([4, 3], &[1.0; 12]))].into();
        let before = state.clone();
        fused(1, true).unpack(&mut state).unwrap();
        assert_eq!(state, before);
    }

    #[test]
    fn a_file_of_another_width_is_named() {
        let mut state: StateDict = [("qkv.weight".to_string(), HostTensor::from_f32([9, 3], &[1.0; 27]))].into();
        let error = fused(1, false).unpack(&mut state).unwrap_err();
        assert!(error.to_string().contains("qkv.weight has 9 outputs, but config.json implies 8"), "{error}");
    }
}
