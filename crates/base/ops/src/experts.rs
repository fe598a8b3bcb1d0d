//! Mixtures of experts (Shazeer et al. 2017): small operations of which a mixture layer is built.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_kernels::{
    CombineSaved, ExpertOrder, Precision, expert_combine, expert_combine_backward, expert_gather,
    expert_gather_backward, grouped_input_grad, grouped_matmul, grouped_weight_grad,
};

use crate::embedding::int_tensor;
use crate::host::{HostOp, Output, Saved, apply, erase};

pub(crate) mod router;

#[derive(Debug)]
struct Permute {
    order: Arc<ExpertOrder>,
    d: usize,
}

impl HostOp<1> for Permute {
    const KEEP_INPUTS: bool = false;

    fn forward(&self, [x]: [&[f32]; 1], _: bool) -> Output {
        let rows = self.order.pairs.len();
        let mut y = vec![0.0; rows * self.d];
        expert_gather(x, &self.order, self.d, &mut y);
        Output { shape: vec![rows, self.d], data: y, saved: vec![] }
    }

    fn backward(&self, _: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        let mut dx = vec![0.0; self.order.tokens() * self.d];
        expert_gather_backward(grad, &self.order, self.d, &mut dx);
        [Some(dx)]
    }
}

/// The token of each chosen pair, one expert after another: x `[N, D]`, gives `[N·k, D]`.
pub fn permute(x: Tensor<2>, order: &Arc<ExpertOrder>) -> Tensor<2> {
    let [rows, d] = x.dims();
    assert_eq!(rows, order.tokens(), "{rows} rows, but {} tokens chose experts", order.tokens());
    if !crate::is_host(&x.device()) {
        return composed_permute(x, order);
    }
    apply(Permute { order: Arc::clone(order), d }, [erase(x)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed_permute(x: Tensor<2>, order: &ExpertOrder) -> Tensor<2> {
    let tokens: Vec<u32> = order.pairs.iter().map(|pair| pair / order.k as u32).collect();
    let device = x.device();
    x.select(0, int_tensor(&tokens, &device))
}

#[derive(Debug)]
struct GroupedLinear {
    order: Arc<ExpertOrder>,
    dims: (usize, usize),
    precision: Precision,
}

impl HostOp<2> for GroupedLinear {
    fn forward(&self, [x, w]: [&[f32]; 2], _: bool) -> Output {
        let (rows, d_out) = (self.order.pairs.len(), self.dims.1);
        let mut y = vec![0.0; rows * d_out];
        grouped_matmul(x, w, &self.order, self.dims, self.precision, &mut y);
        Output { shape: vec![rows, d_out], data: y, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        let [x, w] = [saved.inputs[0], saved.inputs[1]];
        let dx = saved.needs[0].then(|| {
            let mut dx = vec![0.0; x.len()];
            grouped_input_grad(grad, w, &self.order, self.dims, self.precision, &mut dx);
            dx
        });
        let dw = saved.needs[1].then(|| {
            let mut dw = vec![0.0; w.len()];
            grouped_weight_grad(grad, x, &self.order, self.dims, self.precision, &mut dw);
            dw
        });
        [dx, dw]
    }
}

/// `y = x·w[e]ᵀ` for the rows of each expert e: x `[N·k, d_in]` in the order's rows, w `[E, d_out, d_in]`, y
/// `[N·k, d_out]`.
pub fn grouped_linear(x: Tensor<2>, w: Tensor<3>, order: &Arc<ExpertOrder>, precision: Precision) -> Tensor<2> {
    let ([rows, d_in], [experts, d_out, inner]) = (x.dims(), w.dims());
    assert_eq!(d_in, inner, "x is [{rows}, {d_in}], but the weights are [{experts}, {d_out}, {inner}]");
    assert_eq!(rows, order.pairs.len(), "x has {rows} rows, the order {}", order.pairs.len());
    assert_eq!(experts, order.n_experts(), "{experts} weights for {} experts", order.n_experts());
    if !crate::is_host(&x.device()) {
        return composed_linear(x, w, order);
    }
    let (order, dims) = (Arc::clone(order), (d_in, d_out));
    apply(GroupedLinear { order, dims, precision }, [erase(x), erase(w)])
}

/// The same from the tensor library's operations, expert by expert.
pub(crate) fn composed_linear(x: Tensor<2>, w: Tensor<3>, order: &ExpertOrder) -> Tensor<2> {
    let [_, d_out, d_in] = w.dims();
    let spans = order.offsets.windows(2).enumerate().filter(|(_, o)| o[0] < o[1]);
    let parts: Vec<Tensor<2>> = spans
        .map(|(e, o)| {
            let w = w.clone().narrow(0, e, 1).reshape([d_out, d_in]);
            crate::linear::composed(x.clone().narrow(0, o[0], o[1] - o[0]), w, None)
        })
        .collect();
    Tensor::cat(parts, 0)
}

#[derive(Debug)]
struct Combine {
    order: Arc<ExpertOrder>,
    d: usize,
}

impl HostOp<2> for Combine {
    fn forward(&self, [rows, weights]: [&[f32]; 2], _: bool) -> Output {
        let mut y = vec![0.0; self.order.tokens() * self.d];
        expert_combine(rows, weights, &self.order, self.d, &mut y);
        Output { shape: vec![self.order.tokens(), self.d], data: y, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        let [rows, weights] = [saved.inputs[0], saved.inputs[1]];
        let (mut d_rows, mut d_weights) = (vec![0.0; rows.len()], vec![0.0; weights.len()]);
        let kept = CombineSaved { rows, weights, dy: grad };
        expert_combine_backward(&kept, &self.order, self.d, &mut d_rows, &mut d_weights);
        [saved.needs[0].then_some(d_rows), saved.needs[1].then_some(d_weights)]
    }
}

/// The sum of each token's rows, weighted: rows `[N·k, D]` in the order's rows, weights `[N, k]`, gives `[N, D]`.
pub fn combine(rows: Tensor<2>, weights: Tensor<2>, order: &Arc<ExpertOrder>) -> Tensor<2> {
    let [count, d] = rows.dims();
    assert_eq!(count, order.pairs.len(), "{count} rows, the order has {}", order.pairs.len());
    assert_eq!(weights.dims(), [order.tokens(), order.k], "one weight for each of a token's experts");
    if !crate::is_host(&rows.device()) {
        return composed_combine(rows, weights, order);
    }
    apply(Combine { order: Arc::clone(order), d }, [erase(rows), erase(weights)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed_combine(rows: Tensor<2>, weights: Tensor<2>, order: &ExpertOrder) -> Tensor<2> {
    let ([_, d], [n, k], device) = (rows.dims(), weights.dims(), rows.device());
    let by_pair: Tensor<3> = rows.select(0, int_tensor(&order.rows, &device)).reshape([n, k, d]);
    let weighted: Tensor<3> = by_pair * weights.reshape([n, k, 1]);
    weighted.sum_dim(1).reshape([n, d])
}

/// The weights of all experts of a layer.
#[derive(Clone, Debug)]
pub struct ExpertWeights {
    /// `[E, F, D]`.
    pub gate: Tensor<3>,
    /// `[E, F, D]`.
    pub up: Tensor<3>,
    /// `[E, D, F]`.
    pub down: Tensor<3>,
}

/// Each token through its experts' gated feed-forward layers and their weighted sum (Jiang et al. 2024, Mixtral):
/// `sum over j of weights[i, j] · down_e(f(gate_e(x_i)) · up_e(x_i))`: x `[N, D]`, weights `[N, k]`.
pub fn experts_gated(
    f: crate::Activation,
    x: Tensor<2>,
    weights: Tensor<2>,
    w: ExpertWeights,
    order: &Arc<ExpertOrder>,
    precision: Precision,
) -> Tensor<2> {
    let x = permute(x, order);
    let hidden =
        crate::gated(f, grouped_linear(x.clone(), w.gate, order, precision), grouped_linear(x, w.up, order, precision));
    combine(grouped_linear(hidden, w.down, order, precision), weights, order)
}
