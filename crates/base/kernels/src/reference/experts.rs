//! Experts, token by token.

use super::sigmoid;
use crate::{CombineSaved, Scores};

/// A mixture's products straight from the choices, without an order: `y[i] = sum over j of weights[i, j] w[e] x[i]`
/// with `e = experts[i, j]`: x `[N, d_in]`, w `[E, d_out, d_in]`, experts and weights `[N, k]`, y `[N, d_out]`.
pub fn mixture(x: &[f32], w: &[f32], experts: &[u32], weights: &[f32], (d_in, d_out): (usize, usize)) -> Vec<f32> {
    let n = x.len() / d_in;
    let k = experts.len() / n;
    let mut y = vec![0.0f64; n * d_out];
    for (pair, &e) in experts.iter().enumerate() {
        let x = &x[pair / k * d_in..][..d_in];
        for o in 0..d_out {
            let w = &w[(e as usize * d_out + o) * d_in..][..d_in];
            let dot: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            y[pair / k * d_out + o] += f64::from(weights[pair]) * dot;
        }
    }
    y.into_iter().map(|y| y as f32).collect()
}

/// The gradient of each weight of [`crate::expert_combine`], `[N, k]`, from the row of each pair.
pub fn combine_weight_grad(saved: &CombineSaved, rows: &[u32], d: usize) -> Vec<f32> {
    let k = rows.len() * d / saved.dy.len();
    let dot = |(pair, &row): (usize, &u32)| -> f64 {
        let (row, dy) = (&saved.rows[row as usize * d..][..d], &saved.dy[pair / k * d..][..d]);
        row.iter().zip(dy).map(|(r, g)| f64::from(*r) * f64::from(*g)).sum()
    };
    rows.iter().enumerate().map(|pair| dot(pair) as f32).collect()
}

/// See [`crate::router_scores`].
pub fn router_scores(logits: &[f32], n_experts: usize, how: Scores, scores: &mut [f32]) {
    for (z, p) in logits.chunks(n_experts).zip(scores.chunks_mut(n_experts)) {
        let max = z.iter().fold(f64::NEG_INFINITY, |m, &z| m.max(f64::from(z)));
        let sum: f64 = z.iter().map(|&z| (f64::from(z) - max).exp()).sum();
        for (p, &z) in p.iter_mut().zip(z) {
            *p = match how {
                Scores::Softmax => (f64::from(z) - max).exp() / sum,
                Scores::Sigmoid => sigmoid(f64::from(z)),
            } as f32;
        }
    }
}

/// See [`crate::top_k`], by a stable sort; for scores without NaN.
pub fn top_k(scores: &[f32], n_experts: usize, k: usize, bias: Option<&[f32]>) -> Vec<u32> {
    let row = |row: &[f32]| {
        let rank = |e: u32| row[e as usize] + bias.map_or(0.0, |b| b[e as usize]);
        let mut order: Vec<u32> = (0..n_experts as u32).collect();
        order.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)));
        order.truncate(k);
        order
    };
    scores.chunks(n_experts).flat_map(row).collect()
}

/// See [`crate::rank_in_groups`]; for scores without NaN.
pub fn rank_in_groups(scores: &[f32], n_experts: usize, bias: &[f32], [count, kept]: [usize; 2]) -> Vec<f32> {
    let size = n_experts / count;
    let row = |row: &[f32]| {
        let ranks: Vec<f32> = row.iter().zip(bias).map(|(score, b)| score + b).collect();
        let sums: Vec<f32> = ranks
            .chunks(size)
            .map(|group| {
                let mut sorted = group.to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                sorted.iter().take(2).sum()
            })
            .collect();
        let best = top_k(&sums, count, kept, None);
        let rank = |(e, rank): (usize, f32)| if best.contains(&((e / size) as u32)) { rank } else { f32::NEG_INFINITY };
        ranks.into_iter().enumerate().map(rank).collect::<Vec<f32>>()
    };
    scores.chunks(n_experts).flat_map(row).collect()
}

/// See [`crate::Balance`].
pub fn balance_loss(scores: &[f32], chosen: &[u32], n_experts: usize) -> f64 {
    let n = (scores.len() / n_experts) as f64;
    let share = |e: usize| chosen.iter().filter(|c| **c as usize == e).count() as f64 / n;
    let mean = |e: usize| scores.iter().skip(e).step_by(n_experts).map(|p| f64::from(*p)).sum::<f64>() / n;
    n_experts as f64 * (0..n_experts).map(|e| share(e) * mean(e)).sum::<f64>()
}

/// See [`crate::router_z_loss`].
pub fn router_z_loss(logits: &[f32], n_experts: usize) -> f64 {
    let rows = logits.chunks(n_experts).map(|z| z.iter().map(|&z| f64::from(z).exp()).sum::<f64>().ln().powi(2));
    rows.sum::<f64>() / (logits.len() / n_experts) as f64
}
