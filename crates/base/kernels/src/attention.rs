//! Exact attention in blocks: the scores of a whole sequence against itself never exist.
//!
//! Each query attends an interval of its batch row's keys ([`Spans`]), which expresses causal, full, sliding-window,
//! packed and padded attention alike. Blocks that no query of a block attends are skipped.

use crate::gemm::Mat;
use crate::simd;

mod backward;
mod decode;
mod forward;
mod softmax;

/// Sizes and the score function: `softmax(cap(scale * q · k)) · v`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub batch: usize,
    pub seq_q: usize,
    pub seq_k: usize,
    pub n_heads: usize,
    /// Divides `n_heads`; query head `h` uses key head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    pub d_head: usize,
    pub scale: f32,
    /// With `Some(c)` a score `s` becomes `c * tanh(s / c)`.
    pub soft_cap: Option<f32>,
}

/// Per query `[batch * seq_q]`: it attends the keys `lo..hi` of its own batch row. An empty span gives output 0 and a
/// log-sum-exp of minus infinity.
#[derive(Clone, Copy)]
pub struct Spans<'a> {
    pub lo: &'a [u32],
    pub hi: &'a [u32],
}

/// What the forward pass took and gave: q, out `[B, Tq, H, dh]`, k, v `[B, Tk, Hkv, dh]`, lse `[B, H, Tq]`.
#[derive(Clone, Copy)]
pub struct AttentionSaved<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub out: &'a [f32],
    pub lse: &'a [f32],
}

/// Where the gradients go, shaped as `q`, `k` and `v`; overwritten.
pub struct AttentionGrads<'a> {
    pub dq: &'a mut [f32],
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
}

/// Attention of q `[B, Tq, H, dh]` over k, v `[B, Tk, Hkv, dh]`: out as q, and lse `[B, H, Tq]`, the log of the sum of
/// the exponentials of each query's scores.
pub fn attention_forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
    shape: &AttentionShape,
    spans: &Spans,
) {
    let what = "attention_forward";
    shape.check(what, spans);
    shape.check_queries(what, &[("q", q.len()), ("out", out.len())]);
    shape.check_keys(what, &[("k", k.len()), ("v", v.len())]);
    assert_eq!(lse.len(), shape.lse_len(), "{what}: lse has {} floats, shape implies {}", lse.len(), shape.lse_len());
    let inputs = Inputs { q, k, v, shape, spans, level: simd::level() };
    if shape.seq_q <= decode::MAX_QUERIES {
        decode::forward(&inputs, out, lse);
    } else {
        forward::forward(&inputs, out, lse);
    }
}

/// The gradients of [`attention_forward`] for the gradient `d_out` of its output.
pub fn attention_backward(
    saved: &AttentionSaved,
    d_out: &[f32],
    grads: &mut AttentionGrads,
    shape: &AttentionShape,
    spans: &Spans,
) {
    let what = "attention_backward";
    shape.check(what, spans);
    let (q, out) = (("q", saved.q.len()), ("out", saved.out.len()));
    shape.check_queries(what, &[q, out, ("d_out", d_out.len()), ("dq", grads.dq.len())]);
    let (k, v) = (("k", saved.k.len()), ("v", saved.v.len()));
    shape.check_keys(what, &[k, v, ("dk", grads.dk.len()), ("dv", grads.dv.len())]);
    let (lse, want) = (saved.lse.len(), shape.lse_len());
    assert_eq!(lse, want, "{what}: lse has {lse} floats, shape implies {want}");
    let inputs = Inputs { q: saved.q, k: saved.k, v: saved.v, shape, spans, level: simd::level() };
    backward::backward(&inputs, saved, d_out, grads);
}

impl AttentionShape {
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    fn lse_len(&self) -> usize {
        self.batch * self.n_heads * self.seq_q
    }

    fn check(&self, what: &str, spans: &Spans) {
        let (heads, kv) = (self.n_heads, self.n_kv_heads);
        assert!(kv > 0 && heads.is_multiple_of(kv), "{what}: {heads} heads cannot share {kv} key heads evenly");
        assert!(self.d_head > 0, "{what}: d_head is 0");
        let (queries, lo, hi) = (self.batch * self.seq_q, spans.lo.len(), spans.hi.len());
        assert!(lo == queries && hi == queries, "{what}: {queries} queries, but spans of {lo} and {hi}");
        let end = spans.hi.iter().copied().max().unwrap_or(0) as usize;
        assert!(end <= self.seq_k, "{what}: a span ends at {end}, but there are {} keys", self.seq_k);
    }

    fn check_queries(&self, what: &str, slices: &[(&str, usize)]) {
        let want = self.batch * self.seq_q * self.n_heads * self.d_head;
        for (name, len) in slices {
            assert_eq!(*len, want, "{what}: {name} has {len} floats, [B, Tq, H, dh] = {self:?} implies {want}");
        }
    }

    fn check_keys(&self, what: &str, slices: &[(&str, usize)]) {
        let want = self.batch * self.seq_k * self.n_kv_heads * self.d_head;
        for (name, len) in slices {
            assert_eq!(*len, want, "{what}: {name} has {len} floats, [B, Tk, Hkv, dh] = {self:?} implies {want}");
        }
    }
}

/// What every pass reads.
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    shape: &'a AttentionShape,
    spans: &'a Spans<'a>,
    level: simd::Level,
}

impl Inputs<'_> {
    /// Where query `i` of batch row `b` and head `h` starts in q, out and their gradients.
    fn query_at(&self, b: usize, i: usize, h: usize) -> usize {
        ((b * self.shape.seq_q + i) * self.shape.n_heads + h) * self.shape.d_head
    }

    /// Where key `j` of batch row `b` and key head `h` starts in k, v and their gradients.
    fn key_at(&self, b: usize, j: usize, h: usize) -> usize {
        ((b * self.shape.seq_k + j) * self.shape.n_kv_heads + h) * self.shape.d_head
    }

    /// Floats from one query of a head to the next.
    fn query_stride(&self) -> usize {
        self.shape.n_heads * self.shape.d_head
    }

    fn key_stride(&self) -> usize {
        self.shape.n_kv_heads * self.shape.d_head
    }

    /// `rows` queries of one head from float `at` of `data`.
    fn queries<'d>(&self, data: &'d [f32], at: usize, rows: usize) -> Mat<'d> {
        Mat::strided(&data[at..], rows, self.shape.d_head, self.query_stride())
    }

    fn keys<'d>(&self, data: &'d [f32], at: usize, rows: usize) -> Mat<'d> {
        Mat::strided(&data[at..], rows, self.shape.d_head, self.key_stride())
    }

    fn span(&self, b: usize, i: usize) -> (usize, usize) {
        let at = b * self.shape.seq_q + i;
        (self.spans.lo[at] as usize, self.spans.hi[at] as usize)
    }
}

/// Queries that are worked on together, and the keys that any of them attends.
#[derive(Clone, Copy)]
struct QueryBlock {
    b: usize,
    first: usize,
    rows: usize,
    keys: (usize, usize),
}

/// Queries per block: enough to pay for packing the keys, few enough that causal blocks waste little.
const QUERIES: usize = 48;
/// Keys per block.
const KEYS: usize = 256;

impl QueryBlock {
    fn new(inputs: &Inputs, b: usize, first: usize) -> Self {
        let rows = QUERIES.min(inputs.shape.seq_q - first);
        let spans = (first..first + rows).map(|i| inputs.span(b, i)).filter(|(lo, hi)| lo < hi);
        let keys = spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, 0));
        QueryBlock { b, first, rows, keys }
    }

    /// The blocks of keys: first key and count.
    fn key_blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (from, to) = self.keys;
        (from..to).step_by(KEYS).map(move |j| (j, KEYS.min(to - j)))
    }

    /// Each query's span within `keys` keys from `first_key`; `(0, 0)` where it attends none of them.
    fn bounds(&self, inputs: &Inputs, first_key: usize, keys: usize) -> [(usize, usize); QUERIES] {
        let mut bounds = [(0, 0); QUERIES];
        for r in 0..self.rows {
            bounds[r] = clip(inputs.span(self.b, self.first + r), first_key, keys);
        }
        bounds
    }
}

/// The part of a span within `keys` keys from `first`, counted from there.
fn clip((lo, hi): (usize, usize), first: usize, keys: usize) -> (usize, usize) {
    let (lo, hi) = (lo.max(first) - first, hi.clamp(first, first + keys) - first);
    if lo < hi { (lo, hi) } else { (0, 0) }
}
