//! The linear layer's product.

use burn::tensor::Tensor;
use cupola_kernels::{How, Mat, Precision, column_sums, matmul_with, room};

use crate::host::{HostOp, Output, Saved, apply, erase};

#[derive(Clone, Copy, Debug)]
struct Linear {
    rows: usize,
    d_in: usize,
    d_out: usize,
    precision: Precision,
}

impl Linear {
    fn forward(&self, [x, w]: [&[f32]; 2], bias: Option<&[f32]>) -> Output {
        let mut y = room(self.rows * self.d_out);
        let how = How { bias, precision: self.precision, ..How::default() };
        matmul_with(&mut y, Mat::new(x, self.rows, self.d_in), Mat::new(w, self.d_out, self.d_in).t(), how);
        Output { shape: vec![self.rows, self.d_out], data: y, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        let dy = Mat::new(grad, self.rows, self.d_out);
        let how = How { precision: self.precision, ..How::default() };
        let dx = saved.needs[0].then(|| {
            let mut dx = room(self.rows * self.d_in);
            matmul_with(&mut dx, dy, Mat::new(saved.inputs[1], self.d_out, self.d_in), how);
            dx
        });
        let dw = saved.needs[1].then(|| {
            let mut dw = room(self.d_out * self.d_in);
            matmul_with(&mut dw, dy.t(), Mat::new(saved.inputs[0], self.rows, self.d_in), how);
            dw
        });
        [dx, dw]
    }
}

impl HostOp<2> for Linear {
    fn forward(&self, inputs: [&[f32]; 2], _: bool) -> Output {
        self.forward(inputs, None)
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        self.backward(saved, grad)
    }
}

impl HostOp<3> for Linear {
    fn forward(&self, [x, w, bias]: [&[f32]; 3], _: bool) -> Output {
        self.forward([x, w], Some(bias))
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 3] {
        let [dx, dw] = self.backward(saved, grad);
        let db = saved.needs[2].then(|| {
            let mut db = room(self.d_out);
            column_sums(grad, &mut db);
            db
        });
        [dx, dw, db]
    }
}

/// `y = x·wᵀ + bias`: x `[N, d_in]`, w `[d_out, d_in]`, bias `[d_out]`, y `[N, d_out]`. On the CPU the products of more
/// than 64 rows, and those of the backward pass, multiply in `precision`.
pub fn linear(x: Tensor<2>, w: Tensor<2>, bias: Option<Tensor<1>>, precision: Precision) -> Tensor<2> {
    if !crate::is_host(&x.device()) {
        return composed(x, w, bias);
    }
    let [rows, d_in] = x.dims();
    let [d_out, inner] = w.dims();
    assert_eq!(d_in, inner, "x is [{rows}, {d_in}], but the weight is [{d_out}, {inner}]");
    let op = Linear { rows, d_in, d_out, precision };
    match bias {
        None => apply::<2, 2>(op, [erase(x), erase(w)]),
        Some(bias) => apply::<3, 2>(op, [erase(x), erase(w), erase(bias)]),
    }
}

/// The same from the tensor library's operations.
pub(crate) fn composed(x: Tensor<2>, w: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(w.transpose());
    match bias {
        Some(bias) => y + bias.unsqueeze::<2>(),
        None => y,
    }
}
