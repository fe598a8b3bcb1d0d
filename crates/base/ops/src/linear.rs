//! The linear layer's product.

use burn::tensor::Tensor;
use cupola_kernels::{Mat, matmul};

use crate::host::{HostOp, Output, Saved, apply, erase};

#[derive(Debug)]
struct Linear {
    rows: usize,
    d_in: usize,
    d_out: usize,
}

impl HostOp<2> for Linear {
    fn forward(&self, [x, w]: [&[f32]; 2], _: bool) -> Output {
        let mut y = vec![0.0; self.rows * self.d_out];
        matmul(&mut y, Mat::new(x, self.rows, self.d_in), Mat::new(w, self.d_out, self.d_in).t(), false);
        Output { shape: vec![self.rows, self.d_out], data: y, saved: vec![] }
    }

    fn backward(&self, saved: &Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        let dy = Mat::new(grad, self.rows, self.d_out);
        let dx = saved.needs[0].then(|| {
            let mut dx = vec![0.0; self.rows * self.d_in];
            matmul(&mut dx, dy, Mat::new(saved.inputs[1], self.d_out, self.d_in), false);
            dx
        });
        let dw = saved.needs[1].then(|| {
            let mut dw = vec![0.0; self.d_out * self.d_in];
            matmul(&mut dw, dy.t(), Mat::new(saved.inputs[0], self.rows, self.d_in), false);
            dw
        });
        [dx, dw]
    }
}

/// `y = x·wᵀ`: x `[N, d_in]`, w `[d_out, d_in]`, y `[N, d_out]`.
pub fn linear(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    if !crate::is_host(&x.device()) {
        return composed(x, w);
    }
    let [rows, d_in] = x.dims();
    let [d_out, inner] = w.dims();
    assert_eq!(d_in, inner, "x is [{rows}, {d_in}], but the weight is [{d_out}, {inner}]");
    apply(Linear { rows, d_in, d_out }, [erase(x), erase(w)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    x.matmul(w.transpose())
}
