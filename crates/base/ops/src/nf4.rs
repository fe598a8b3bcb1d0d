//! Products with weights in four bits.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use cupola_kernels::{How, Mat, Nf4Parts, Precision, dequantize_nf4, matmul_with, quantize_nf4, room};

use crate::host::{HostOp, Output, Saved, apply, erase};

/// A weight of NF4 numbers in blocks of 64 along its rows, whose scales are in eight bits; see [`cupola_kernels::Nf4`].
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4Weight {
    /// The numbers.
    pub parts: Arc<Nf4Parts>,
    /// Rows.
    pub d_out: usize,
    /// Columns.
    pub d_in: usize,
}

impl Nf4Weight {
    /// Rounds a weight `[d_out, d_in]`.
    pub fn quantize(w: &[f32], [d_out, d_in]: [usize; 2]) -> Self {
        Self { parts: Arc::new(quantize_nf4(w)), d_out, d_in }
    }

    /// `[d_out, d_in]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.d_out, self.d_in]
    }

    /// The weight as 32-bit floats, `[d_out, d_in]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let len = self.d_out * self.d_in;
        let mut out = room(len);
        dequantize_nf4(&self.parts.view(len), &mut out);
        out
    }
}

#[derive(Debug)]
struct LinearNf4 {
    weight: Nf4Weight,
    rows: usize,
    precision: Precision,
}

impl HostOp<1> for LinearNf4 {
    const KEEP_INPUTS: bool = false;

    fn forward(&self, [x]: [&[f32]; 1], _: bool) -> Output {
        let [d_out, d_in] = self.weight.shape();
        let (w, mut y) = (self.weight.dequantize(), room(self.rows * d_out));
        let how = How { precision: self.precision, ..How::default() };
        matmul_with(&mut y, Mat::new(x, self.rows, d_in), Mat::new(&w, d_out, d_in).t(), how);
        Output { shape: vec![self.rows, d_out], data: y, saved: vec![] }
    }

    fn backward(&self, _: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        let [d_out, d_in] = self.weight.shape();
        let (w, mut dx) = (self.weight.dequantize(), room(self.rows * d_in));
        let how = How { precision: self.precision, ..How::default() };
        matmul_with(&mut dx, Mat::new(grad, self.rows, d_out), Mat::new(&w, d_out, d_in), how);
        [Some(dx)]
    }
}

/// `y = x·wᵀ` with a weight in four bits, which becomes floats for the time of the product: x `[N, d_in]`, y `[N, d_out]`. The
/// weight has no gradient.
pub fn linear_nf4(x: Tensor<2>, weight: &Nf4Weight, precision: Precision) -> Tensor<2> {
    let [rows, d_in] = x.dims();
    assert_eq!(d_in, weight.d_in, "x has rows of {d_in}, the weight of {}", weight.d_in);
    if !crate::is_host(&x.device()) {
        let device = x.device().without_autodiff();
        let w = Tensor::<2>::from_data(TensorData::new(weight.dequantize(), weight.shape()), &device);
        let w = if x.is_autodiff() { Tensor::from_inner(w) } else { w };
        return crate::linear::composed(x, w, None);
    }
    apply(LinearNf4 { weight: weight.clone(), rows, precision }, [erase(x)])
}
