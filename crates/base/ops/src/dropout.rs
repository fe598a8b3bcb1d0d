//! Dropout (Srivastava et al. 2014).

use burn::tensor::Tensor;
use cupola_kernels::{dropout as mask, room};

use crate::host::{HostOp, Output, Saved, apply, erase};

pub use cupola_kernels::Dropout;

#[derive(Debug)]
struct Op {
    dropout: Dropout,
    shape: [usize; 2],
}

impl Op {
    fn masked(&self, x: &[f32]) -> Vec<f32> {
        let mut y = room(x.len());
        mask(&self.dropout, x, &mut y);
        y
    }
}

impl HostOp<1> for Op {
    const KEEP_INPUTS: bool = false;

    fn forward(&self, [x]: [&[f32]; 1], _: bool) -> Output {
        Output { shape: self.shape.to_vec(), data: self.masked(x), saved: vec![] }
    }

    fn backward(&self, _: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        [Some(self.masked(grad))]
    }
}

/// x `[N, D]` with each number dropped with probability `p` and the others divided by `1 - p`. The same seed, stream and
/// shape drop the same numbers on every device.
pub fn dropout(x: Tensor<2>, dropout: &Dropout) -> Tensor<2> {
    if dropout.p == 0.0 {
        return x;
    }
    if !crate::is_host(&x.device()) {
        return composed(x, dropout);
    }
    apply(Op { dropout: *dropout, shape: x.dims() }, [erase(x)])
}

/// The same from the tensor library's operations; the mask is made on the host.
pub(crate) fn composed(x: Tensor<2>, dropout: &Dropout) -> Tensor<2> {
    let shape = x.dims();
    let mut scales = vec![0.0; shape[0] * shape[1]];
    mask(dropout, &vec![1.0; scales.len()], &mut scales);
    let scales = crate::from_vec(scales, shape, &x.device());
    x * scales
}
