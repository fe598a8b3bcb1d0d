//! The output layer and the cross-entropy loss in one operation: the logits of the whole batch never exist.

use std::sync::Arc;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Tensor, TensorData};
use cupola_kernels::{
    LinearLoss, Precision, linear_cross_entropy as fused, linear_nll_backward, linear_nll_forward, room,
};

use rayon::prelude::*;

pub use cupola_kernels::LossForm;

use crate::embedding::int_tensor;
use crate::host::{HostOp, Output, Saved, apply, erase};

/// The label of a position without a loss.
pub const IGNORE: i32 = -100;

#[derive(Clone, Copy, Debug)]
struct Sizes {
    d_model: usize,
    vocab: usize,
    precision: Precision,
}

impl Sizes {
    fn problem<'a>(&self, x: &'a [f32], w: &'a [f32], targets: &'a [i32], form: LossForm) -> LinearLoss<'a> {
        LinearLoss { x, w, targets, d_model: self.d_model, vocab: self.vocab, form, precision: self.precision }
    }
}

#[derive(Debug)]
struct WeightedLoss {
    sizes: Sizes,
    targets: Arc<[i32]>,
    weights: Arc<[f32]>,
    form: LossForm,
}

impl HostOp<2> for WeightedLoss {
    const KEEP_INPUTS: bool = false;

    fn forward(&self, [x, w]: [&[f32]; 2], track: bool) -> Output {
        let problem = self.sizes.problem(x, w, &self.targets, self.form);
        let mut nll = vec![0.0; self.targets.len()];
        let saved = if track {
            let (mut dx, mut dw) = (room(x.len()), room(w.len()));
            fused(&problem, &self.weights, &mut nll, &mut dx, &mut dw);
            vec![dx, dw]
        } else {
            let mut lse = vec![0.0; nll.len()];
            linear_nll_forward(&problem, &mut nll, &mut lse);
            vec![]
        };
        let loss: f64 = nll.iter().zip(self.weights.iter()).map(|(n, w)| f64::from(*n) * f64::from(*w)).sum();
        Output { shape: vec![1], data: vec![loss as f32], saved }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        let mut scaled = |i: usize| {
            saved.needs[i].then(|| {
                let mut g = std::mem::take(&mut saved.saved[i]);
                if grad[0] != 1.0 {
                    g.par_iter_mut().for_each(|v| *v *= grad[0]);
                }
                g
            })
        };
        [scaled(0), scaled(1)]
    }
}

/// `sum_i weights[i] · nll_i` of the logits `x·wᵀ`, shape `[1]`: x `[N, D]`, w `[V, D]`, targets and weights `[N]`;
/// a target of [`IGNORE`] counts nothing; with `form`'s smoothing and penalty. The gradients are computed in the same
/// pass.
pub fn linear_cross_entropy(
    x: Tensor<2>,
    w: Tensor<2>,
    targets: &Arc<[i32]>,
    weights: &Arc<[f32]>,
    form: LossForm,
    precision: Precision,
) -> Tensor<1> {
    if !crate::is_host(&x.device()) {
        let n = targets.len();
        let weights = Tensor::<1>::from_data(TensorData::new(weights.to_vec(), [n]), &x.device());
        return (composed(x, w, targets, form) * weights).sum();
    }
    let sizes = sizes(&x, &w, targets, precision);
    let op = WeightedLoss { sizes, targets: Arc::clone(targets), weights: Arc::clone(weights), form };
    apply(op, [erase(x), erase(w)])
}

#[derive(Debug)]
struct TokenNll {
    sizes: Sizes,
    targets: Arc<[i32]>,
}

impl HostOp<2> for TokenNll {
    fn forward(&self, [x, w]: [&[f32]; 2], _: bool) -> Output {
        let (mut nll, mut lse) = (vec![0.0; self.targets.len()], vec![0.0; self.targets.len()]);
        linear_nll_forward(&self.sizes.problem(x, w, &self.targets, LossForm::default()), &mut nll, &mut lse);
        Output { shape: vec![nll.len()], data: nll, saved: vec![lse] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        let (x, w) = (saved.inputs[0], saved.inputs[1]);
        let (mut dx, mut dw) = (room(x.len()), room(w.len()));
        let problem = self.sizes.problem(x, w, &self.targets, LossForm::default());
        linear_nll_backward(&problem, &saved.saved[0], grad, &mut dx, &mut dw);
        [saved.needs[0].then_some(dx), saved.needs[1].then_some(dw)]
    }
}

/// The negative log-likelihood of each target under the logits `x·wᵀ`, `[N]`; 0 where the target is [`IGNORE`].
pub fn linear_nll(x: Tensor<2>, w: Tensor<2>, targets: &Arc<[i32]>, precision: Precision) -> Tensor<1> {
    if !crate::is_host(&x.device()) {
        return composed(x, w, targets, LossForm::default());
    }
    let sizes = sizes(&x, &w, targets, precision);
    apply(TokenNll { sizes, targets: Arc::clone(targets) }, [erase(x), erase(w)])
}

fn sizes(x: &Tensor<2>, w: &Tensor<2>, targets: &[i32], precision: Precision) -> Sizes {
    let ([rows, d_model], [vocab, inner]) = (x.dims(), w.dims());
    assert_eq!(rows, targets.len(), "{rows} rows, but {} targets", targets.len());
    assert_eq!(d_model, inner, "x has rows of {d_model}, the output layer of {inner}");
    if let Some(bad) = targets.iter().find(|t| **t != IGNORE && (**t < 0 || **t as usize >= vocab)) {
        panic!("target {bad} is outside the vocabulary of {vocab}");
    }
    Sizes { d_model, vocab, precision }
}

/// The same from the tensor library's operations.
pub(crate) fn composed(x: Tensor<2>, w: Tensor<2>, targets: &[i32], form: LossForm) -> Tensor<1> {
    let (n, device) = (targets.len(), x.device());
    let index: Vec<u32> = targets.iter().map(|t| if *t == IGNORE { 0 } else { *t as u32 }).collect();
    let counted: Vec<f32> = targets.iter().map(|t| f32::from(*t != IGNORE)).collect();
    let logits = x.matmul(w.transpose());
    let logp = log_softmax(logits.clone(), 1);
    let picked = logp.clone().gather(1, int_tensor(&index, &device).reshape([n, 1])).reshape([n]);
    let mut loss = -picked;
    if form.label_smoothing != 0.0 {
        let all = -logp.clone().mean_dim(1).reshape([n]);
        loss = loss.mul_scalar(1.0 - form.label_smoothing) + all.mul_scalar(form.label_smoothing);
    }
    if form.z_loss != 0.0 {
        let lse: Tensor<1> = (logits - logp).mean_dim(1).reshape([n]);
        loss = loss + lse.powi_scalar(2).mul_scalar(form.z_loss);
    }
    loss * Tensor::<1>::from_data(TensorData::new(counted, [n]), &device)
}
