//! Rows of a table by token id.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use cupola_kernels::{embedding_backward, embedding_forward, room};

use crate::host::{HostOp, Output, Saved, apply, erase};

#[derive(Debug)]
struct Embedding {
    ids: Arc<[u32]>,
    vocab: usize,
    d: usize,
}

impl HostOp<1> for Embedding {
    const KEEP_INPUTS: bool = false;

    fn forward(&self, [table]: [&[f32]; 1], _: bool) -> Output {
        let mut y = room(self.ids.len() * self.d);
        embedding_forward(table, &self.ids, self.d, &mut y);
        Output { shape: vec![self.ids.len(), self.d], data: y, saved: vec![] }
    }

    fn backward(&self, _: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        let mut dtable = room(self.vocab * self.d);
        embedding_backward(grad, &self.ids, self.d, &mut dtable);
        [Some(dtable)]
    }
}

/// Row `ids[i]` of the table `[V, D]` as row i of the result `[N, D]`. Every id must be below V.
pub fn embedding(table: Tensor<2>, ids: &Arc<[u32]>) -> Tensor<2> {
    let [vocab, d] = table.dims();
    if let Some(bad) = ids.iter().find(|id| **id as usize >= vocab) {
        panic!("token id {bad} is outside the vocabulary of {vocab}");
    }
    if !crate::is_host(&table.device()) {
        return composed(table, ids);
    }
    apply(Embedding { ids: Arc::clone(ids), vocab, d }, [erase(table)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed(table: Tensor<2>, ids: &[u32]) -> Tensor<2> {
    let device = table.device();
    table.select(0, int_tensor(ids, &device))
}

/// Unsigned numbers as an integer tensor.
pub(crate) fn int_tensor(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|v| *v as i32).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}
