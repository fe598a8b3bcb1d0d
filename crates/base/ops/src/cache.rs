//! Attention with a key-value cache, for generation.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use cupola_kernels::{AttentionShape, Spans, attention_forward};
use rayon::prelude::*;

use crate::attention::Heads;
use crate::host::{erase, flex, slice};

/// One layer's keys and values of one sequence.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    host_k: Vec<f32>,
    host_v: Vec<f32>,
    device: Option<(Tensor<2>, Tensor<2>)>,
}

impl LayerCache {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let device = self.device.as_ref().map_or(0, |(k, _)| 2 * k.dims().iter().product::<usize>());
        (self.host_k.len() + self.host_v.len() + device) * size_of::<f32>()
    }
}

/// What one sequence brings to a step.
pub struct Span<'a> {
    /// Its cache; the new keys and values are appended.
    pub cache: &'a mut LayerCache,
    /// How many of the step's rows are its own.
    pub rows: usize,
}

/// Causal attention of new rows against each sequence's cache: q `[N, H·dh]`, k and v `[N, Hkv·dh]`, the rows of one
/// sequence after those of another, in the order of `spans`. Gives `[N, H·dh]`. `heads.batch` is not read.
/// There is no backward pass: the tensors have no tape.
pub fn attention_cached(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: Heads, spans: &mut [Span<'_>]) -> Tensor<2> {
    let rows: usize = spans.iter().map(|s| s.rows).sum();
    assert_eq!(q.dims()[0], rows, "the sequences' rows do not add up to the step's");
    if crate::is_host(&q.device()) { host(q, k, v, heads, spans) } else { composed(q, k, v, heads, spans) }
}

fn host(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: Heads, spans: &mut [Span<'_>]) -> Tensor<2> {
    let (shape, device) = (q.dims(), q.device());
    let (q_width, kv_width) = (heads.n_heads * heads.d_head, heads.n_kv_heads * heads.d_head);
    let (q, k, v) = (flex(erase(q)), flex(erase(k)), flex(erase(v)));
    let (q, mut k, mut v) = (slice(&q), slice(&k), slice(&v));
    let mut out = vec![0.0; q.len()];
    let mut jobs = Vec::with_capacity(spans.len());
    let (mut q_rest, mut out_rest) = (q, out.as_mut_slice());
    for span in spans.iter_mut() {
        let (k_new, v_new);
        (k_new, k) = k.split_at(span.rows * kv_width);
        (v_new, v) = v.split_at(span.rows * kv_width);
        span.cache.host_k.extend_from_slice(k_new);
        span.cache.host_v.extend_from_slice(v_new);
        let (q_own, q_next) = q_rest.split_at(span.rows * q_width);
        let (out_own, out_next) = std::mem::take(&mut out_rest).split_at_mut(span.rows * q_width);
        (q_rest, out_rest) = (q_next, out_next);
        jobs.push((q_own, &*span.cache, out_own, span.rows));
    }
    jobs.into_par_iter().for_each(|(q, cache, out, rows)| {
        let total = cache.host_k.len() / kv_width;
        let lo = vec![0; rows];
        let hi: Vec<u32> = (0..rows).map(|i| (total - rows + i + 1) as u32).collect();
        let of = [heads.n_heads, heads.n_kv_heads];
        let shape = AttentionShape { seq_k: total, ..AttentionShape::new(1, rows, of, heads.d_head) };
        let mut lse = vec![0.0; rows * heads.n_heads];
        attention_forward(q, &cache.host_k, &cache.host_v, out, &mut lse, &shape, &Spans { lo: &lo, hi: &hi });
    });
    crate::from_vec(out, shape, &device)
}

/// The same from the tensor library's operations, sequence by sequence.
fn composed(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: Heads, spans: &mut [Span<'_>]) -> Tensor<2> {
    let Heads { n_heads, n_kv_heads, d_head, .. } = heads;
    let device = q.device();
    let mut at = 0;
    let mut outs = Vec::with_capacity(spans.len());
    for span in spans.iter_mut() {
        let rows = span.rows;
        let (k_new, v_new) = (k.clone().narrow(0, at, rows), v.clone().narrow(0, at, rows));
        let (k_all, v_all) = match span.cache.device.take() {
            Some((k_old, v_old)) => (Tensor::cat(vec![k_old, k_new], 0), Tensor::cat(vec![v_old, v_new], 0)),
            None => (k_new, v_new),
        };
        span.cache.device = Some((k_all.clone(), v_all.clone()));
        let total = k_all.dims()[0];
        let expand = |t: Tensor<2>| {
            let t: Tensor<4> = t.reshape([total, n_kv_heads, 1, d_head]);
            t.repeat_dim(2, n_heads / n_kv_heads).reshape([total, n_heads, d_head]).swap_dims(0, 1) // [H, total, dh]
        };
        let q_own: Tensor<3> = q.clone().narrow(0, at, rows).reshape([rows, n_heads, d_head]).swap_dims(0, 1);
        let mut scores = q_own.matmul(expand(k_all).transpose()).mul_scalar(heads.scale());
        if rows > 1 {
            let hidden: Vec<bool> = (0..rows).flat_map(|i| (0..total).map(move |j| j > total - rows + i)).collect();
            let hidden = Tensor::<3, burn::tensor::Bool>::from_data(
                burn::tensor::TensorData::new(hidden, [1, rows, total]),
                &device,
            );
            scores = scores.mask_fill(hidden, -1.0e30);
        }
        outs.push(softmax(scores, 2).matmul(expand(v_all)).swap_dims(0, 1).reshape([rows, n_heads * d_head]));
        at += rows;
    }
    Tensor::cat(outs, 0)
}
