//! The router of a mixture: scores, the choice of experts, their weights, and the losses on them.

use std::sync::Arc;

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Tensor, TensorData};
use cupola_kernels::{
    Balance, Scores, pick_backward, pick_forward, rank_in_groups, router_scores as scores_of, router_scores_backward,
    router_z_backward, router_z_loss as z_loss, top_k as top_k_of,
};

use crate::embedding::int_tensor;
use crate::host::{HostOp, Output, Saved, apply, erase};

#[derive(Debug)]
struct RouterScores {
    shape: [usize; 2],
    how: Scores,
}

impl HostOp<1> for RouterScores {
    const KEEP_INPUTS: bool = false;
    const KEEP_OUTPUT: bool = true;

    fn forward(&self, [logits]: [&[f32]; 1], _: bool) -> Output {
        let mut scores = vec![0.0; logits.len()];
        scores_of(logits, self.shape[1], self.how, &mut scores);
        Output { shape: self.shape.to_vec(), data: scores, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        let mut d = vec![0.0; grad.len()];
        router_scores_backward(saved.output, grad, self.shape[1], self.how, &mut d);
        [Some(d)]
    }
}

/// Scores of all experts from logits, both `[N, E]`.
pub fn router_scores(logits: Tensor<2>, how: Scores) -> Tensor<2> {
    if !crate::is_host(&logits.device()) {
        return composed_scores(logits, how);
    }
    apply(RouterScores { shape: logits.dims(), how }, [erase(logits)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed_scores(logits: Tensor<2>, how: Scores) -> Tensor<2> {
    match how {
        Scores::Softmax => softmax(logits, 1),
        Scores::Sigmoid => sigmoid(logits),
    }
}

/// The `k` experts of each token with the highest `score + bias`, the highest first, of equals the lower number: scores
/// `[N, E]`, bias `[E]`, gives `[N·k]`. Without a gradient.
pub fn choose_experts(scores: &Tensor<2>, k: usize, bias: Option<&[f32]>) -> Arc<[u32]> {
    top_k_of(&crate::to_vec(scores), scores.dims()[1], k, bias).into()
}

/// The same where a token may choose from the best `groups[1]` of `groups[0]` equal groups alone, those whose best two
/// experts have the highest sum (DeepSeek-V3).
pub fn choose_in_groups(scores: &Tensor<2>, k: usize, bias: Option<&[f32]>, groups: [usize; 2]) -> Arc<[u32]> {
    let n_experts = scores.dims()[1];
    let ranks = rank_in_groups(&crate::to_vec(scores), n_experts, bias, groups);
    top_k_of(&ranks, n_experts, k, None).into()
}

#[derive(Debug)]
struct Pick {
    chosen: Arc<[u32]>,
    shape: [usize; 2],
    normalize: bool,
}

impl HostOp<1> for Pick {
    fn forward(&self, [scores]: [&[f32]; 1], _: bool) -> Output {
        let [n, e] = self.shape;
        let mut weights = vec![0.0; self.chosen.len()];
        pick_forward(scores, e, &self.chosen, self.normalize, &mut weights);
        Output { shape: vec![n, self.chosen.len() / n], data: weights, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        let mut d = vec![0.0; saved.inputs[0].len()];
        pick_backward(saved.inputs[0], self.shape[1], &self.chosen, self.normalize, grad, &mut d);
        [Some(d)]
    }
}

/// The chosen experts' scores, with `normalize` divided by their sum: scores `[N, E]`, chosen `[N·k]`, gives `[N, k]`.
pub fn expert_weights(scores: Tensor<2>, chosen: &Arc<[u32]>, normalize: bool) -> Tensor<2> {
    if !crate::is_host(&scores.device()) {
        return composed_weights(scores, chosen, normalize);
    }
    let shape = scores.dims();
    apply(Pick { chosen: Arc::clone(chosen), shape, normalize }, [erase(scores)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed_weights(scores: Tensor<2>, chosen: &[u32], normalize: bool) -> Tensor<2> {
    let (n, device) = (scores.dims()[0], scores.device());
    let weights = scores.gather(1, int_tensor(chosen, &device).reshape([n, chosen.len() / n]));
    if normalize { weights.clone() / weights.sum_dim(1).add_scalar(1e-20) } else { weights }
}

#[derive(Debug)]
struct BalanceLoss(Balance);

impl HostOp<1> for BalanceLoss {
    const KEEP_INPUTS: bool = false;

    fn forward(&self, [scores]: [&[f32]; 1], _: bool) -> Output {
        Output { shape: vec![1], data: vec![self.0.loss(scores)], saved: vec![] }
    }

    fn backward(&self, _: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        let row: Vec<f32> = self.0.slope.iter().map(|s| s * grad[0]).collect();
        [Some(row.repeat(self.0.tokens))]
    }
}

/// The load-balancing loss `E · sum over e of f_e · P_e` (Fedus et al. 2021, equation 4, without its factor α), `[1]`:
/// scores `[N, E]`, chosen `[N·k]`. With `k` choices per token as in Mixtral, where even choices give `k`.
pub fn balance_loss(scores: Tensor<2>, chosen: &[u32]) -> Tensor<1> {
    let [n, e] = scores.dims();
    let balance = Balance::new(chosen, e, n);
    if !crate::is_host(&scores.device()) {
        return composed_balance(scores, &balance);
    }
    apply(BalanceLoss(balance), [erase(scores)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed_balance(scores: Tensor<2>, balance: &Balance) -> Tensor<1> {
    let shape = [1, balance.slope.len()];
    let slope = Tensor::<2>::from_data(TensorData::new(balance.slope.clone(), shape), &scores.device());
    (scores * slope).sum()
}

#[derive(Debug)]
struct ZLoss {
    shape: [usize; 2],
}

impl HostOp<1> for ZLoss {
    fn forward(&self, [logits]: [&[f32]; 1], _: bool) -> Output {
        let mut lse = vec![0.0; self.shape[0]];
        let loss = z_loss(logits, self.shape[1], &mut lse);
        Output { shape: vec![1], data: vec![loss], saved: vec![lse] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        let mut d = vec![0.0; saved.inputs[0].len()];
        router_z_backward(saved.inputs[0], self.shape[1], &saved.saved[0], grad[0], &mut d);
        [Some(d)]
    }
}

/// The mean over tokens of the squared log-sum-exp of the logits `[N, E]` (Zoph et al. 2022, equation 5), `[1]`.
pub fn router_z_loss(logits: Tensor<2>) -> Tensor<1> {
    if !crate::is_host(&logits.device()) {
        return composed_z_loss(logits);
    }
    apply(ZLoss { shape: logits.dims() }, [erase(logits)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed_z_loss(logits: Tensor<2>) -> Tensor<1> {
    let top = logits.clone().detach().max_dim(1);
    let lse = (logits - top.clone()).exp().sum_dim(1).log() + top; // [N, 1]
    lse.powi_scalar(2).mean()
}
