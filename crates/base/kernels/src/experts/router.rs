//! Which experts a token goes to and with what weights, and the losses that keep the choice even and the logits small.

use crate::simd;
use crate::softmax::{row_lse, row_softmax};
use rayon::prelude::*;

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Over all experts (Shazeer et al. 2017, Mixtral).
    Softmax,
    /// Each expert for itself (DeepSeek-V3, Llama 4).
    Sigmoid,
}

/// Rows per task and per partial sum.
const ROWS: usize = 256;

/// The scores `[N, E]` of logits `[N, E]`.
pub fn router_scores(logits: &[f32], n_experts: usize, how: Scores, scores: &mut [f32]) {
    check("router_scores", n_experts, &[logits.len(), scores.len()]);
    let level = simd::level();
    let tasks = logits.par_chunks(ROWS * n_experts).zip(scores.par_chunks_mut(ROWS * n_experts));
    tasks.for_each(|(logits, scores)| match how {
        Scores::Softmax => {
            scores.copy_from_slice(logits);
            scores.chunks_exact_mut(n_experts).for_each(|row| row_softmax(level, row, row_lse(level, row), 1.0));
        }
        Scores::Sigmoid => scores.iter_mut().zip(logits).for_each(|(y, x)| *y = 1.0 / (1.0 + (-x).exp())),
    });
}

/// The gradient of [`router_scores`] from its result; overwrites `d_logits`.
pub fn router_scores_backward(scores: &[f32], d_scores: &[f32], n_experts: usize, how: Scores, d_logits: &mut [f32]) {
    check("router_scores_backward", n_experts, &[scores.len(), d_scores.len(), d_logits.len()]);
    let len = ROWS * n_experts;
    let tasks = (scores.par_chunks(len), d_scores.par_chunks(len), d_logits.par_chunks_mut(len)).into_par_iter();
    tasks.for_each(|(scores, d_scores, d_logits)| {
        let rows = scores.chunks_exact(n_experts).zip(d_scores.chunks_exact(n_experts));
        for ((p, g), out) in rows.zip(d_logits.chunks_exact_mut(n_experts)) {
            let mean = match how {
                Scores::Softmax => p.iter().zip(g).map(|(p, g)| p * g).sum::<f32>(),
                Scores::Sigmoid => 0.0,
            };
            for ((out, p), g) in out.iter_mut().zip(p).zip(g) {
                let slope = if how == Scores::Sigmoid { p * (1.0 - p) } else { *p };
                *out = slope * (g - mean);
            }
        }
    });
}

/// The `k` experts of the highest score in each row, the highest first; of equal scores the lower number. A NaN counts
/// as highest, so that it reaches the loss. With a bias `[E]` the choice, not the score, is by `score + bias`
/// (DeepSeek-V3's balancing without a loss, equation 16). Gives `[N, k]`.
pub fn top_k(scores: &[f32], n_experts: usize, k: usize, bias: Option<&[f32]>) -> Vec<u32> {
    check("top_k", n_experts, &[scores.len()]);
    assert!(k <= n_experts, "top_k: {k} of {n_experts} experts");
    assert!(bias.is_none_or(|b| b.len() == n_experts), "top_k: the bias does not fit {n_experts} experts");
    let n = scores.len() / n_experts;
    let mut chosen = vec![0; n * k];
    if k > 0 {
        let tasks = chosen.par_chunks_mut(ROWS * k).zip(scores.par_chunks(ROWS * n_experts));
        tasks.for_each(|(chosen, scores)| {
            for (chosen, row) in chosen.chunks_exact_mut(k).zip(scores.chunks_exact(n_experts)) {
                choose(row, bias, chosen);
            }
        });
    }
    chosen
}

/// `score + bias`, and minus infinity outside the best `kept` of `count` equal groups of neighbours, by the sum of their
/// best two (DeepSeek-V3, section 2.1.2): scores and result `[N, E]`. Of equal groups the first counts as better, a NaN as
/// best.
pub fn rank_in_groups(scores: &[f32], n_experts: usize, bias: Option<&[f32]>, [count, kept]: [usize; 2]) -> Vec<f32> {
    check("rank_in_groups", n_experts, &[scores.len()]);
    assert!(count > 0 && n_experts.is_multiple_of(count) && kept <= count, "rank_in_groups: {kept} of {count} groups");
    assert!(bias.is_none_or(|b| b.len() == n_experts), "rank_in_groups: the bias does not fit {n_experts} experts");
    let size = n_experts / count;
    let mut ranks = scores.to_vec();
    ranks.par_chunks_mut(ROWS * n_experts).for_each(|ranks| {
        let (mut sums, mut best) = (vec![0.0; count], vec![0; kept]);
        for row in ranks.chunks_exact_mut(n_experts) {
            row.iter_mut().zip(bias.unwrap_or_default()).for_each(|(rank, b)| *rank += b);
            sums.iter_mut().zip(row.chunks_exact(size)).for_each(|(sum, group)| *sum = best_two(group));
            if kept > 0 {
                choose(&sums, None, &mut best);
            }
            let out = row.chunks_exact_mut(size).enumerate().filter(|(g, _)| !best.contains(&(*g as u32)));
            out.for_each(|(_, group)| group.fill(f32::NEG_INFINITY));
        }
    });
    ranks
}

/// The sum of the two largest; NaN where one is.
fn best_two(group: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &x in group {
        if x.is_nan() {
            return x;
        }
        if x > first {
            (first, second) = (x, first);
        } else if x > second {
            second = x;
        }
    }
    if group.len() < 2 { first } else { first + second }
}

/// Keeps the best so far in order; `k` is small.
fn choose(row: &[f32], bias: Option<&[f32]>, chosen: &mut [u32]) {
    let rank = |e: usize| row[e] + bias.map_or(0.0, |b| b[e]);
    let better = |a: f32, b: f32| a > b || (a.is_nan() && !b.is_nan());
    for e in 0..row.len() {
        let held = e.min(chosen.len());
        let place = (0..held).rev().take_while(|&p| better(rank(e), rank(chosen[p] as usize))).last().unwrap_or(held);
        if place < chosen.len() {
            let end = (held + 1).min(chosen.len());
            chosen[place..end].rotate_right(1);
            chosen[place] = e as u32;
        }
    }
}

/// The chosen experts' scores, divided by their sum with `normalize`: scores `[N, E]`, chosen and weights `[N, k]`.
pub fn pick_forward(scores: &[f32], n_experts: usize, chosen: &[u32], normalize: bool, weights: &mut [f32]) {
    let k = width("pick_forward", scores.len(), n_experts, chosen.len(), weights.len());
    for (i, (chosen, weights)) in chosen.chunks_exact(k).zip(weights.chunks_exact_mut(k)).enumerate() {
        let row = &scores[i * n_experts..][..n_experts];
        weights.iter_mut().zip(chosen).for_each(|(w, &e)| *w = row[e as usize]);
        if normalize {
            let sum = weights.iter().sum::<f32>() + TINY;
            weights.iter_mut().for_each(|w| *w /= sum);
        }
    }
}

/// Keeps a row of zero scores finite.
const TINY: f32 = 1e-20;

/// The gradient of [`pick_forward`] for the gradient `d_weights [N, k]`; overwrites `d_scores [N, E]`.
pub fn pick_backward(
    scores: &[f32],
    n_experts: usize,
    chosen: &[u32],
    normalize: bool,
    d_weights: &[f32],
    d_scores: &mut [f32],
) {
    let k = width("pick_backward", scores.len(), n_experts, chosen.len(), d_weights.len());
    check("pick_backward", n_experts, &[scores.len(), d_scores.len()]);
    d_scores.fill(0.0);
    for (i, (chosen, g)) in chosen.chunks_exact(k).zip(d_weights.chunks_exact(k)).enumerate() {
        let (row, out) = (&scores[i * n_experts..][..n_experts], &mut d_scores[i * n_experts..][..n_experts]);
        let (mut sum, mut dot) = (1.0, 0.0);
        if normalize {
            sum = chosen.iter().map(|&e| row[e as usize]).sum::<f32>() + TINY;
            dot = chosen.iter().zip(g).map(|(&e, g)| g * row[e as usize]).sum::<f32>() / sum;
        }
        chosen.iter().zip(g).for_each(|(&e, g)| out[e as usize] += (g - dot) / sum);
    }
}

fn width(what: &str, scores: usize, n_experts: usize, chosen: usize, weights: usize) -> usize {
    check(what, n_experts, &[scores]);
    let n = scores / n_experts;
    assert_eq!(chosen, weights, "{what}: {chosen} choices, {weights} weights");
    assert!(n == 0 || chosen.is_multiple_of(n), "{what}: {chosen} choices for {n} rows");
    chosen.checked_div(n).unwrap_or(0).max(1)
}

/// The load-balancing loss (Fedus et al. 2021, equation 4, with a factor of 1), `E * sum of f_e P_e`: `f_e` how many
/// choices of expert `e` there are per token, `P_e` its mean score. With several choices per token as in Mixtral,
/// where the `f_e` add up to `k`. Even choices give `k`.
#[derive(Clone, Debug)]
pub struct Balance {
    /// `E * f_e / N` per expert: the gradient of the loss for each score of that expert.
    pub slope: Vec<f32>,
    /// `N`.
    pub tokens: usize,
}

impl Balance {
    /// Counts the choices `[N, k]` of `tokens` tokens.
    pub fn new(chosen: &[u32], n_experts: usize, tokens: usize) -> Self {
        let mut counts = vec![0u64; n_experts];
        chosen.iter().for_each(|&e| counts[e as usize] += 1);
        let n = tokens.max(1) as f64;
        let slope = counts.into_iter().map(|c| (n_experts as f64 * c as f64 / n / n) as f32).collect();
        Balance { slope, tokens }
    }

    /// The loss of scores `[N, E]`.
    pub fn loss(&self, scores: &[f32]) -> f32 {
        let e = self.slope.len();
        assert_eq!(scores.len(), self.tokens * e, "Balance: {} scores for {} x {e}", scores.len(), self.tokens);
        let row = |row: &[f32]| row.iter().zip(&self.slope).map(|(p, s)| f64::from(*p) * f64::from(*s)).sum::<f64>();
        let parts: Vec<f64> =
            scores.par_chunks(ROWS * e.max(1)).map(|p| p.chunks_exact(e).map(row).sum::<f64>()).collect();
        parts.into_iter().sum::<f64>() as f32
    }
}

/// The mean over tokens of the squared log-sum-exp of logits `[N, E]` (Zoph et al. 2022, equation 5); lse `[N]` is
/// kept for the backward pass.
pub fn router_z_loss(logits: &[f32], n_experts: usize, lse: &mut [f32]) -> f32 {
    check("router_z_loss", n_experts, &[logits.len(), lse.len() * n_experts]);
    let level = simd::level();
    let tasks = lse.par_chunks_mut(ROWS).zip(logits.par_chunks(ROWS * n_experts));
    tasks.for_each(|(lse, z)| {
        lse.iter_mut().zip(z.chunks_exact(n_experts)).for_each(|(lse, z)| *lse = row_lse(level, z));
    });
    let sum: f64 = lse.iter().map(|x| f64::from(*x).powi(2)).sum();
    (sum / lse.len().max(1) as f64) as f32
}

/// The gradient of [`router_z_loss`] for the gradient `scale` of its result; overwrites `d_logits`.
pub fn router_z_backward(logits: &[f32], n_experts: usize, lse: &[f32], scale: f32, d_logits: &mut [f32]) {
    check("router_z_backward", n_experts, &[logits.len(), lse.len() * n_experts, d_logits.len()]);
    let (level, n) = (simd::level(), lse.len() as f32);
    d_logits.copy_from_slice(logits);
    d_logits.par_chunks_mut(ROWS * n_experts).zip(lse.par_chunks(ROWS)).for_each(|(z, lse)| {
        let rows = z.chunks_exact_mut(n_experts).zip(lse);
        rows.for_each(|(z, &lse)| row_softmax(level, z, lse, 2.0 * lse * scale / n));
    });
}

fn check(what: &str, n_experts: usize, lens: &[usize]) {
    assert!(n_experts > 0 && lens[0].is_multiple_of(n_experts), "{what}: {} floats, {n_experts} experts", lens[0]);
    assert!(lens.iter().all(|&l| l == lens[0]), "{what}: the slices differ in length: {lens:?}");
}
