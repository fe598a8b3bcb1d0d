//! Softmax over rows.

use burn::tensor::Tensor;
use cupola_kernels::{room, softmax_rows, softmax_rows_backward};

use crate::host::{HostOp, Output, Saved, apply, erase};

#[derive(Debug)]
struct Softmax {
    shape: [usize; 2],
}

impl HostOp<1> for Softmax {
    const KEEP_INPUTS: bool = false;
    const KEEP_OUTPUT: bool = true;

    fn forward(&self, [x]: [&[f32]; 1], _: bool) -> Output {
        let mut y = room(x.len());
        softmax_rows(x, self.shape[1], &mut y);
        Output { shape: self.shape.to_vec(), data: y, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        let mut dx = room(grad.len());
        softmax_rows_backward(saved.output, grad, self.shape[1], &mut dx);
        [Some(dx)]
    }
}

/// `exp(x) / sum(exp(x))`, row by row, `[N, E]`.
pub fn softmax(x: Tensor<2>) -> Tensor<2> {
    if !crate::is_host(&x.device()) {
        return composed(x);
    }
    apply(Softmax { shape: x.dims() }, [erase(x)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed(x: Tensor<2>) -> Tensor<2> {
    burn::tensor::activation::softmax(x, 1)
}
