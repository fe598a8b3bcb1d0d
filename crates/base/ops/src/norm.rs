//! RMSNorm (Zhang and Sennrich 2019, equation 4).

use burn::tensor::Tensor;
use cupola_kernels::{rms_norm_backward, rms_norm_forward, room};

use crate::host::{HostOp, Output, Saved, apply, erase};

#[derive(Debug)]
struct RmsNorm {
    rows: usize,
    d: usize,
    eps: f32,
}

impl HostOp<2> for RmsNorm {
    fn forward(&self, [x, w]: [&[f32]; 2], _: bool) -> Output {
        let (mut y, mut rstd) = (room(x.len()), room(self.rows));
        rms_norm_forward(x, w, self.eps, &mut y, &mut rstd);
        Output { shape: vec![self.rows, self.d], data: y, saved: vec![rstd] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        let (mut dx, mut dw) = (room(grad.len()), room(self.d));
        rms_norm_backward(saved.inputs[0], saved.inputs[1], &saved.saved[0], grad, &mut dx, &mut dw);
        [saved.needs[0].then_some(dx), saved.needs[1].then_some(dw)]
    }
}

/// `y = w · x / sqrt(mean(x²) + eps)`, row by row: x `[N, D]`, w `[D]`.
pub fn rms_norm(x: Tensor<2>, w: Tensor<1>, eps: f32) -> Tensor<2> {
    if !crate::is_host(&x.device()) {
        return composed(x, w, eps);
    }
    let [rows, d] = x.dims();
    assert_eq!(w.dims(), [d], "the norm's weight does not fit rows of {d}");
    apply(RmsNorm { rows, d, eps }, [erase(x), w])
}

/// The same from the tensor library's operations.
pub(crate) fn composed(x: Tensor<2>, w: Tensor<1>, eps: f32) -> Tensor<2> {
    let rstd = x.clone().powi_scalar(2).mean_dim(1).add_scalar(eps).sqrt().recip();
    x * rstd * w.unsqueeze::<2>()
}
