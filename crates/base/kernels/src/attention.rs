//! Exact attention in blocks: the scores of a whole sequence against itself never exist (Dao et al. 2022).
//!
//! Each query attends an interval of its batch row's keys ([`Spans`]), which expresses causal, full, sliding-window,
//! packed and padded attention alike. Keys that no query of a strip attends are skipped.
//!
//! Scores are kept transposed, `[keys, queries]`: the queries of a strip lie in the lanes of a vector, so that maxima,
//! sums and probabilities need no work across lanes, and a block of probabilities is at once a factor of the next
//! product, without being rearranged.

use crate::gemm::{Format, Mat, Precision};
use crate::simd;

mod ahead;
mod backward;
mod decode;
mod forward;
#[cfg(target_arch = "x86_64")]
mod half;
mod pack;
mod score;
mod softmax;
mod step;
mod strip;
mod tile;

/// Sizes and the score function: `softmax(cap(scale * q · k) + slope * distance) · v`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape<'a> {
    pub batch: usize,
    pub seq_q: usize,
    pub seq_k: usize,
    pub n_heads: usize,
    /// Divides `n_heads`; query head `h` uses key head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Width of a head of q and k.
    pub d_head: usize,
    /// Width of a head of v and out.
    pub d_value: usize,
    pub scale: f32,
    /// With `Some(c)` a score `s` becomes `c * tanh(s / c)` (Gemma 2).
    pub soft_cap: Option<f32>,
    /// ALiBi (Press et al. 2022), `[n_heads]`: adds `slope * (key - query)` to a score, where the last query stands at
    /// the last key.
    pub slopes: Option<&'a [f32]>,
    /// What the products multiply. In [`Precision::F16`] their factors are rounded to float16, scaled by a power of two
    /// for each block of 64 keys or queries, and summed in float16 over runs of at most 64; everything else is in
    /// 32-bit floats, and so is attention of a few queries (generation) and that of processors without such products.
    /// bfloat16 is multiplied as 32-bit floats, which is more exact and, where its products are slow, faster.
    pub precision: Precision,
}

/// Per query `[batch * seq_q]`: it attends the keys `lo..hi` of its own batch row. An empty span gives output 0 and a
/// log-sum-exp of minus infinity.
#[derive(Clone, Copy)]
pub struct Spans<'a> {
    pub lo: &'a [u32],
    pub hi: &'a [u32],
}

/// What the forward pass took and gave: q `[B, Tq, H, dh]`, k `[B, Tk, Hkv, dh]`, v `[B, Tk, Hkv, dv]`,
/// out `[B, Tq, H, dv]`, lse `[B, H, Tq]`.
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

/// Attention of q `[B, Tq, H, dh]` over k `[B, Tk, Hkv, dh]` and v `[B, Tk, Hkv, dv]`: out `[B, Tq, H, dv]`, and lse
/// `[B, H, Tq]`, the log of the sum of the exponentials of each query's scores.
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
    shape.check_lengths(what, [q.len(), k.len(), v.len(), out.len(), lse.len()]);
    let inputs = Inputs { q, k, v, shape, spans, level: simd::level() };
    if shape.seq_q <= decode::MAX_QUERIES {
        decode::forward(&inputs, out, lse);
        return;
    }
    match inputs.half() {
        #[cfg(target_arch = "x86_64")]
        true => half::forward(&inputs, out, lse),
        _ => forward::forward(&inputs, out, lse),
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
    let AttentionSaved { q, k, v, out, lse } = *saved;
    shape.check_lengths(what, [q.len(), k.len(), v.len(), out.len(), lse.len()]);
    shape.check_lengths(what, [grads.dq.len(), grads.dk.len(), grads.dv.len(), d_out.len(), lse.len()]);
    let inputs = Inputs { q, k, v, shape, spans, level: simd::level() };
    backward::backward(&inputs, saved, d_out, grads);
}

impl AttentionShape<'_> {
    /// Self-attention of `batch` rows of `seq` with heads `[H, Hkv]` of one width, scores scaled by `1 / sqrt(d_head)`.
    pub fn new(batch: usize, seq: usize, [n_heads, n_kv_heads]: [usize; 2], d_head: usize) -> Self {
        AttentionShape {
            batch,
            seq_q: seq,
            seq_k: seq,
            n_heads,
            n_kv_heads,
            d_head,
            d_value: d_head,
            scale: (d_head as f32).sqrt().recip(),
            soft_cap: None,
            slopes: None,
            precision: Precision::F32,
        }
    }

    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// The slope of head `h`; 0 without ALiBi.
    fn slope(&self, h: usize) -> f32 {
        self.slopes.map_or(0.0, |slopes| slopes[h])
    }

    /// The key at whose place query `i` stands.
    pub(crate) fn position(&self, i: usize) -> f32 {
        i as f32 + (self.seq_k as f32 - self.seq_q as f32)
    }

    fn check(&self, what: &str, spans: &Spans) {
        let (heads, kv) = (self.n_heads, self.n_kv_heads);
        assert!(kv > 0 && heads.is_multiple_of(kv), "{what}: {heads} heads cannot share {kv} key heads evenly");
        assert!(self.d_head > 0 && self.d_value > 0, "{what}: a head of width 0 in {self:?}");
        // Positions are compared as floats.
        assert!(self.seq_k < 1 << 24, "{what}: {} keys are too many", self.seq_k);
        let slopes = self.slopes.map_or(heads, <[f32]>::len);
        assert_eq!(slopes, heads, "{what}: {slopes} slopes for {heads} heads");
        let (queries, lo, hi) = (self.batch * self.seq_q, spans.lo.len(), spans.hi.len());
        assert!(lo == queries && hi == queries, "{what}: {queries} queries, but spans of {lo} and {hi}");
        let end = spans.hi.iter().copied().max().unwrap_or(0) as usize;
        assert!(end <= self.seq_k, "{what}: a span ends at {end}, but there are {} keys", self.seq_k);
    }

    /// Checks the lengths of q, k, v, out and lse (or of their gradients).
    fn check_lengths(&self, what: &str, lengths: [usize; 5]) {
        let (queries, keys) = (self.batch * self.seq_q * self.n_heads, self.batch * self.seq_k * self.n_kv_heads);
        let (d, dv) = (self.d_head, self.d_value);
        let want = [queries * d, keys * d, keys * dv, queries * dv, queries];
        for ((name, len), want) in ["q", "k", "v", "out", "lse"].iter().zip(lengths).zip(want) {
            assert_eq!(len, want, "{what}: {name} has {len} floats, {self:?} implies {want}");
        }
    }
}

/// What every pass reads.
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    shape: &'a AttentionShape<'a>,
    spans: &'a Spans<'a>,
    level: simd::Level,
}

impl Inputs<'_> {
    /// Whether products are in float16.
    fn half(&self) -> bool {
        Format::new(self.level, self.shape.precision) == Format::F16
    }

    /// Which query of all batch rows and heads `[B, Tq, H]` is query `i` of batch row `b` and head `h`.
    fn query(&self, b: usize, i: usize, h: usize) -> usize {
        (b * self.shape.seq_q + i) * self.shape.n_heads + h
    }

    /// Which key of all `[B, Tk, Hkv]` is key `j` of batch row `b` and key head `h`.
    fn key(&self, b: usize, j: usize, h: usize) -> usize {
        (b * self.shape.seq_k + j) * self.shape.n_kv_heads + h
    }

    /// `rows` queries of one head from `query`, `width` floats each.
    fn queries<'d>(&self, data: &'d [f32], query: usize, rows: usize, width: usize) -> Mat<'d> {
        Mat::strided(&data[query * width..], rows, width, self.shape.n_heads * width)
    }

    /// `rows` keys of one head from `key`, `width` floats each.
    fn keys<'d>(&self, data: &'d [f32], key: usize, rows: usize, width: usize) -> Mat<'d> {
        Mat::strided(&data[key * width..], rows, width, self.shape.n_kv_heads * width)
    }

    fn span(&self, b: usize, i: usize) -> (usize, usize) {
        let at = b * self.shape.seq_q + i;
        (self.spans.lo[at] as usize, self.spans.hi[at] as usize)
    }
}

/// The smallest interval around two, of which an empty one does not count.
fn hull(a: (usize, usize), b: (usize, usize)) -> (usize, usize) {
    match (a.0 < a.1, b.0 < b.1) {
        (true, true) => (a.0.min(b.0), a.1.max(b.1)),
        (true, false) => a,
        _ => b,
    }
}

/// What two intervals share, `(0, 0)` for nothing.
fn overlap(a: (usize, usize), b: (usize, usize)) -> (usize, usize) {
    let both = (a.0.max(b.0), a.1.min(b.1));
    if both.0 < both.1 { both } else { (0, 0) }
}
