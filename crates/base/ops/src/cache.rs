//! Attention with a key-value cache, for generation.

use burn::tensor::Tensor;
use cupola_kernels::{AttentionShape, Precision, Spans, attention_forward, listed_attention_forward};
use rayon::prelude::*;

use crate::attention::{AttentionOptions, Heads};
use crate::host::{erase, flex, slice};
use crate::listed::KeyLists;
use crate::mask::Mask;

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
        let device =
            self.device.as_ref().map_or(0, |(k, v)| [k, v].iter().map(|t| t.dims().iter().product::<usize>()).sum());
        (self.host_k.len() + self.host_v.len() + device) * size_of::<f32>()
    }

    /// Appends rows `[N, Dk]` and `[N, Dv]`, and gives all of them, for attention that makes its keys and values of what is
    /// kept. The tensors have no tape.
    pub fn extend(&mut self, k: Tensor<2>, v: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let (widths, device) = ([k.dims()[1], v.dims()[1]], k.device());
        if !crate::is_host(&device) {
            let (k, v) = match self.device.take() {
                Some((k_old, v_old)) => (Tensor::cat(vec![k_old, k], 0), Tensor::cat(vec![v_old, v], 0)),
                None => (k, v),
            };
            self.device = Some((k.clone(), v.clone()));
            return (k, v);
        }
        crate::read(k, |k| self.host_k.extend_from_slice(k));
        crate::read(v, |v| self.host_v.extend_from_slice(v));
        let all =
            |numbers: &[f32], width: usize| crate::from_vec(numbers.to_vec(), [numbers.len() / width, width], &device);
        (all(&self.host_k, widths[0]), all(&self.host_v, widths[1]))
    }
}

/// What one sequence brings to a step.
pub struct Span<'a> {
    /// Its cache; the new keys and values are appended.
    pub cache: &'a mut LayerCache,
    /// How many of the step's rows are its own.
    pub rows: usize,
}

/// Rows that a cache holds at most between steps, where tokens attend `before` tokens before themselves. The rest is
/// dropped, not at each step but when the cache has grown to twice what is needed.
pub fn cached_rows(before: usize) -> usize {
    2 * (before + 1)
}

/// Causal attention of new rows against each sequence's cache: q `[N, H·dh]`, k and v `[N, Hkv·dh]`, the rows of one
/// sequence after those of another, in the order of `spans`; with `before` each attends so many rows before itself.
/// Gives `[N, H·dh]`. `heads.batch` is not read. There is no backward pass: the tensors have no tape.
pub fn attention_cached(
    [q, k, v]: [Tensor<2>; 3],
    heads: Heads,
    options: &AttentionOptions,
    before: Option<usize>,
    spans: &mut [Span<'_>],
) -> Tensor<2> {
    let rows: usize = spans.iter().map(|s| s.rows).sum();
    assert_eq!(q.dims()[0], rows, "the sequences' rows do not add up to the step's");
    let y = match crate::is_host(&q.device()) {
        true => host([q, k, v], heads, options, before, spans),
        false => composed([q, k, v], heads, options, before, spans, None),
    };
    if let Some(before) = before {
        let widths = [heads.d_head, options.d_value.unwrap_or(heads.d_head)].map(|d| heads.n_kv_heads * d);
        spans.iter_mut().for_each(|span| span.cache.trim(before, widths));
    }
    y
}

/// What is added to the scores of the last `rows` of `total` tokens: `[1, H, rows, total]`.
pub type StepBias<'a> = &'a dyn Fn(usize, usize) -> Tensor<4>;

/// [`attention_cached`] where numbers are added to the scores; see [`crate::attention_biased`].
pub fn attention_cached_biased(
    qkv: [Tensor<2>; 3],
    heads: Heads,
    options: &AttentionOptions,
    spans: &mut [Span<'_>],
    bias: StepBias<'_>,
) -> Tensor<2> {
    composed(qkv, heads, options, None, spans, Some(bias))
}

/// What the last `rows` of `total` rows of a sequence attend.
pub type StepLists<'a> = &'a dyn Fn(usize, usize) -> KeyLists;

/// [`attention_cached`] where the new rows attend the rows that `lists` names, counted from the sequence's first; only those
/// are read. See [`crate::attention_listed`].
pub fn attention_cached_listed(
    [q, k, v]: [Tensor<2>; 3],
    heads: Heads,
    precision: Precision,
    spans: &mut [Span<'_>],
    lists: StepLists<'_>,
) -> Tensor<2> {
    let (device, host) = (q.device(), crate::is_host(&q.device()));
    let widths = [heads.d_head, v.dims()[1] / heads.n_kv_heads];
    let (mut at, mut outs) = (0, Vec::with_capacity(spans.len()));
    for span in spans.iter_mut() {
        let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(0, at, span.rows));
        at += span.rows;
        if !host {
            let (k, v) = span.cache.extend(k, v);
            let lists = lists(span.rows, k.dims()[0]);
            outs.push(crate::listed::composed([q, k, v], heads, &lists));
            continue;
        }
        crate::read(k, |k| span.cache.host_k.extend_from_slice(k));
        crate::read(v, |v| span.cache.host_v.extend_from_slice(v));
        let lists = lists(span.rows, span.cache.host_k.len() / (heads.n_kv_heads * widths[0]));
        let shape = crate::listed::shape(heads, widths[1], precision);
        let mut out = vec![0.0; span.rows * heads.n_heads * widths[1]];
        let mut lse = vec![0.0; span.rows * heads.n_heads];
        let (k, v) = (&span.cache.host_k, &span.cache.host_v);
        crate::read(q, |q| listed_attention_forward([q, k, v], &mut out, &mut lse, &shape, &lists.slices()));
        outs.push(crate::from_vec(out, [span.rows, heads.n_heads * widths[1]], &device));
    }
    Tensor::cat(outs, 0)
}

impl LayerCache {
    /// Drops what lies too far back.
    fn trim(&mut self, before: usize, [k_width, v_width]: [usize; 2]) {
        let rows = self.host_k.len() / k_width;
        if rows > cached_rows(before) {
            self.host_k.drain(..(rows - before) * k_width);
            self.host_v.drain(..(rows - before) * v_width);
        }
        if let Some((k, v)) = self.device.take_if(|(k, _)| k.dims()[0] > cached_rows(before)) {
            let last = |t: Tensor<2>| {
                let rows = t.dims()[0];
                t.narrow(0, rows - before, before)
            };
            self.device = (before > 0).then(|| (last(k), last(v)));
        }
    }
}

/// The keys that each of the last `rows` of `total` rows attends.
fn reach(rows: usize, total: usize, before: Option<usize>) -> (Vec<u32>, Vec<u32>) {
    let at = |i: usize| total - rows + i;
    let lo = (0..rows).map(|i| before.map_or(0, |before| at(i).saturating_sub(before)) as u32);
    (lo.collect(), (0..rows).map(|i| at(i) as u32 + 1).collect())
}

fn host(
    [q, k, v]: [Tensor<2>; 3],
    heads: Heads,
    options: &AttentionOptions,
    before: Option<usize>,
    spans: &mut [Span<'_>],
) -> Tensor<2> {
    let (rows, device) = (q.dims()[0], q.device());
    let plain = options.shape(heads, [1, 1]);
    let (q_width, out_width) = (heads.n_heads * heads.d_head, heads.n_heads * plain.d_value);
    let (k_width, v_width) = (heads.n_kv_heads * heads.d_head, heads.n_kv_heads * plain.d_value);
    let (q, k, v) = (flex(erase(q)), flex(erase(k)), flex(erase(v)));
    let (q, mut k, mut v) = (slice(&q), slice(&k), slice(&v));
    let mut out = vec![0.0; rows * out_width];
    let mut jobs = Vec::with_capacity(spans.len());
    let (mut q_rest, mut out_rest) = (q, out.as_mut_slice());
    for span in spans.iter_mut() {
        let (k_new, v_new);
        (k_new, k) = k.split_at(span.rows * k_width);
        (v_new, v) = v.split_at(span.rows * v_width);
        span.cache.host_k.extend_from_slice(k_new);
        span.cache.host_v.extend_from_slice(v_new);
        let (q_own, q_next) = q_rest.split_at(span.rows * q_width);
        let (out_own, out_next) = std::mem::take(&mut out_rest).split_at_mut(span.rows * out_width);
        (q_rest, out_rest) = (q_next, out_next);
        jobs.push((q_own, &*span.cache, out_own, span.rows));
    }
    jobs.into_par_iter().for_each(|(q, cache, out, rows)| {
        let total = cache.host_k.len() / k_width;
        let (lo, hi) = reach(rows, total, before);
        let shape = AttentionShape { batch: 1, seq_q: rows, seq_k: total, ..plain };
        let mut lse = vec![0.0; rows * heads.n_heads];
        attention_forward(q, &cache.host_k, &cache.host_v, out, &mut lse, &shape, &Spans { lo: &lo, hi: &hi });
    });
    crate::from_vec(out, [rows, out_width], &device)
}

/// The same from the tensor library's operations, sequence by sequence.
fn composed(
    [q, k, v]: [Tensor<2>; 3],
    heads: Heads,
    options: &AttentionOptions,
    before: Option<usize>,
    spans: &mut [Span<'_>],
    bias: Option<StepBias<'_>>,
) -> Tensor<2> {
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
        let (lo, hi) = reach(rows, total, before);
        let mask = Mask { lo: lo.into(), hi: hi.into() };
        let heads = Heads { batch: 1, ..heads };
        let (q, added) = (q.clone().narrow(0, at, rows), bias.map(|bias| bias(rows, total)));
        outs.push(crate::attention::composed_biased([q, k_all, v_all], heads, &mask, options, added));
        at += rows;
    }
    Tensor::cat(outs, 0)
}
