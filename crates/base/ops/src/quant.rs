//! Products with quantized weights.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use cupola_kernels::{Q8, dequantize_q8, matmul_q8, quantize_q8};

use crate::host::{HostOp, Output, Saved, apply, erase};

/// A weight of int8 numbers with one scale for each group of neighbours in a row: `w ≈ q · scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Weight {
    /// `[d_out, d_in]`.
    pub q: Arc<[i8]>,
    /// `[d_out, ceil(d_in / group)]`.
    pub scales: Arc<[f32]>,
    /// Rows.
    pub d_out: usize,
    /// Columns.
    pub d_in: usize,
    /// Columns that share a scale.
    pub group: usize,
}

impl Int8Weight {
    /// Rounds a weight `[d_out, d_in]` to the nearest of 255 levels, group by group.
    pub fn quantize(w: &[f32], d_out: usize, d_in: usize, group: usize) -> Self {
        let (q, scales) = quantize_q8(w, d_out, d_in, group);
        Self { q: q.into(), scales: scales.into(), d_out, d_in, group }
    }

    /// The weight as 32-bit floats, `[d_out, d_in]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.d_out * self.d_in];
        dequantize_q8(&self.view(), &mut out);
        out
    }

    fn view(&self) -> Q8<'_> {
        Q8 { q: &self.q, scales: &self.scales, rows: self.d_out, cols: self.d_in, group: self.group }
    }
}

#[derive(Debug)]
struct LinearInt8 {
    weight: Int8Weight,
    rows: usize,
}

impl HostOp<1> for LinearInt8 {
    const KEEP_INPUTS: bool = false;

    fn forward(&self, [x]: [&[f32]; 1], _: bool) -> Output {
        let mut y = vec![0.0; self.rows * self.weight.d_out];
        matmul_q8(x, &self.weight.view(), &mut y);
        Output { shape: vec![self.rows, self.weight.d_out], data: y, saved: vec![] }
    }

    fn backward(&self, _: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        let w = self.weight.dequantize();
        let mut dx = vec![0.0; self.rows * self.weight.d_in];
        let dy = cupola_kernels::Mat::new(grad, self.rows, self.weight.d_out);
        cupola_kernels::matmul(&mut dx, dy, cupola_kernels::Mat::new(&w, self.weight.d_out, self.weight.d_in), false);
        [Some(dx)]
    }
}

/// `y = x·wᵀ` straight on the int8 weight: x `[N, d_in]`, y `[N, d_out]`.
pub fn linear_int8(x: Tensor<2>, weight: &Int8Weight) -> Tensor<2> {
    let [rows, d_in] = x.dims();
    assert_eq!(d_in, weight.d_in, "x has rows of {d_in}, the weight of {}", weight.d_in);
    if !crate::is_host(&x.device()) {
        let shape = [weight.d_out, weight.d_in];
        let w = Tensor::<2>::from_data(TensorData::new(weight.dequantize(), shape), &x.device());
        return crate::linear::composed(x, w, None);
    }
    apply(LinearInt8 { weight: weight.clone(), rows }, [erase(x)])
}
