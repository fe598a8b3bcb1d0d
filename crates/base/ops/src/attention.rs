//! Attention over whole sequences, for training and evaluation.

use std::sync::Arc;

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use cupola_kernels::{
    AttentionGrads, AttentionSaved, AttentionShape, Precision, Spans, attention_backward, attention_forward, room,
};

use crate::host::{HostOp, Output, Saved, apply, erase};
use crate::mask::Mask;

/// The sizes of an attention operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Rows of the batch.
    pub batch: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; a divisor of `n_heads` (grouped queries, Ainslie et al. 2023).
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
}

impl Heads {
    /// `1 / sqrt(d_head)`.
    pub fn scale(&self) -> f32 {
        (self.d_head as f32).powf(-0.5)
    }
}

/// What attention may do besides the plain `softmax(q·kᵀ / sqrt(d_head))·v`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionOptions {
    /// Width of a head of v and of the result, where it is not that of q and k.
    pub d_value: Option<usize>,
    /// What scores are multiplied by instead of `1 / sqrt(d_head)`.
    pub scale: Option<f32>,
    /// With `c` a score `s` becomes `c * tanh(s / c)` (Gemma 2).
    pub soft_cap: Option<f32>,
    /// ALiBi (Press et al. 2022), `[n_heads]`: adds `slope * (key - query)` to a score. See [`alibi_slopes`].
    pub slopes: Option<Arc<[f32]>>,
    /// What the products multiply on the CPU; see [`AttentionShape::precision`].
    pub precision: Precision,
}

/// The slopes of Press et al. (2022): for a power of two the geometric series from `2^(-8 / n)` with that ratio, for
/// other numbers of heads filled up with every second slope of the next larger power of two.
pub fn alibi_slopes(n_heads: usize) -> Arc<[f32]> {
    let series = |n: usize| (1..=n).map(move |h| (-8.0 * h as f32 / n as f32).exp2());
    let whole = if n_heads.is_power_of_two() { n_heads } else { n_heads.next_power_of_two() / 2 };
    series(whole).chain(series(2 * whole).step_by(2)).take(n_heads).collect()
}

#[derive(Debug)]
struct Attention {
    heads: Heads,
    seq_k: usize,
    mask: Mask,
    options: AttentionOptions,
}

impl AttentionOptions {
    /// What the kernel is told of `seq_q` queries attending `seq_k` keys.
    pub(crate) fn shape(&self, heads: Heads, [seq_q, seq_k]: [usize; 2]) -> AttentionShape<'_> {
        let Heads { batch, n_heads, n_kv_heads, d_head } = heads;
        AttentionShape {
            seq_k,
            d_value: self.d_value.unwrap_or(d_head),
            scale: self.scale.unwrap_or(heads.scale()),
            soft_cap: self.soft_cap,
            slopes: self.slopes.as_deref(),
            precision: self.precision,
            ..AttentionShape::new(batch, seq_q, [n_heads, n_kv_heads], d_head)
        }
    }
}

impl Attention {
    fn shape(&self) -> AttentionShape<'_> {
        self.options.shape(self.heads, [self.mask.lo.len() / self.heads.batch, self.seq_k])
    }

    fn spans(&self) -> Spans<'_> {
        Spans { lo: &self.mask.lo, hi: &self.mask.hi }
    }
}

impl HostOp<3> for Attention {
    const KEEP_OUTPUT: bool = true;

    fn forward(&self, [q, k, v]: [&[f32]; 3], _: bool) -> Output {
        let (rows, shape) = (self.mask.lo.len(), self.shape());
        let width = self.heads.n_heads * shape.d_value;
        let (mut out, mut lse) = (room(rows * width), room(rows * self.heads.n_heads));
        attention_forward(q, k, v, &mut out, &mut lse, &shape, &self.spans());
        Output { shape: vec![rows, width], data: out, saved: vec![lse] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 3] {
        let [q, k, v] = [saved.inputs[0], saved.inputs[1], saved.inputs[2]];
        let (mut dq, mut dk, mut dv) = (room(q.len()), room(k.len()), room(v.len()));
        let kept = AttentionSaved { q, k, v, out: saved.output, lse: &saved.saved[0] };
        let mut grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        attention_backward(&kept, grad, &mut grads, &self.shape(), &self.spans());
        [saved.needs[0].then_some(dq), saved.needs[1].then_some(dk), saved.needs[2].then_some(dv)]
    }
}

/// `softmax(q·kᵀ / sqrt(d_head))·v` under a mask (Vaswani et al. 2017), never storing T x T: q `[B·T, H·dh]`, k and v
/// `[B·T, Hkv·dh]`.
pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: Heads, mask: &Mask) -> Tensor<2> {
    attention_with(q, k, v, heads, mask, &AttentionOptions::default())
}

/// [`attention`] with further options: v `[B·Tk, Hkv·dv]`, result `[B·T, H·dv]`. There may be another number of keys than
/// of queries; the mask counts keys.
pub fn attention_with(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    heads: Heads,
    mask: &Mask,
    options: &AttentionOptions,
) -> Tensor<2> {
    if !crate::is_host(&q.device()) {
        return composed([q, k, v], heads, mask, options);
    }
    let seq_k = k.dims()[0] / heads.batch;
    apply(Attention { heads, seq_k, mask: mask.clone(), options: options.clone() }, [erase(q), erase(k), erase(v)])
}

/// [`attention_with`] where numbers are added to the scores: `bias` `[1, H, Tq, Tk]`, the same for all rows of the batch,
/// such as T5's relative positions. On every device it is composed of the tensor library's operations, with the whole
/// T x T matrix, which is how the bias gets its gradient; `options.precision` is not read.
pub fn attention_biased(
    qkv: [Tensor<2>; 3],
    heads: Heads,
    mask: &Mask,
    options: &AttentionOptions,
    bias: Tensor<4>,
) -> Tensor<2> {
    composed_biased(qkv, heads, mask, options, Some(bias))
}

/// The same from the tensor library's operations, with the whole T x T matrix.
pub(crate) fn composed(qkv: [Tensor<2>; 3], heads: Heads, mask: &Mask, options: &AttentionOptions) -> Tensor<2> {
    composed_biased(qkv, heads, mask, options, None)
}

pub(crate) fn composed_biased(
    [q, k, v]: [Tensor<2>; 3],
    heads: Heads,
    mask: &Mask,
    options: &AttentionOptions,
    added: Option<Tensor<4>>,
) -> Tensor<2> {
    let Heads { batch, n_heads, n_kv_heads, d_head } = heads;
    let (seq_q, seq_k) = (mask.lo.len() / batch, k.dims()[0] / batch);
    let d_value = options.d_value.unwrap_or(d_head);
    let device = q.device();
    let split = |t: Tensor<2>, seq: usize, h: usize, d: usize| t.reshape([batch, seq, h, d]).swap_dims(1, 2); // [B, h, T, d]
    let expand = |t: Tensor<2>, d: usize| {
        let t: Tensor<5> = split(t, seq_k, n_kv_heads, d).reshape([batch, n_kv_heads, 1, seq_k, d]);
        t.repeat_dim(2, n_heads / n_kv_heads).reshape([batch, n_heads, seq_k, d])
    };
    let (q, k, v) = (split(q, seq_q, n_heads, d_head), expand(k, d_head), expand(v, d_value));
    let mut scores = q.matmul(k.transpose()).mul_scalar(options.scale.unwrap_or(heads.scale()));
    if let Some(cap) = options.soft_cap {
        scores = scores.div_scalar(cap).tanh().mul_scalar(cap);
    }
    if let Some(slopes) = &options.slopes {
        scores = scores + bias(slopes, [seq_q, seq_k], &device);
    }
    if let Some(added) = added {
        scores = scores + added;
    }
    let scores = scores.mask_fill(hidden_mask(mask, [batch, seq_q, seq_k], &device), -1.0e30);
    let out = softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([batch * seq_q, n_heads * d_value]);
    // A query that attends nothing gives zero, not the mean of all values.
    let empty = mask.lo.iter().zip(mask.hi.iter()).map(|(lo, hi)| f32::from(lo < hi)).collect::<Vec<_>>();
    let keep = Tensor::<2>::from_data(TensorData::new(empty, [batch * seq_q, 1]), &device);
    out * keep
}

/// ALiBi: `slope * (key - query)`, the last query standing at the last key, `[1, H, Tq, Tk]`.
fn bias(slopes: &[f32], [seq_q, seq_k]: [usize; 2], device: &Device) -> Tensor<4> {
    let distances = || (0..seq_q).flat_map(|i| (0..seq_k).map(move |j| (j + seq_q) as f32 - (i + seq_k) as f32));
    let bias: Vec<f32> = slopes.iter().flat_map(|slope| distances().map(move |d| slope * d)).collect();
    Tensor::from_data(TensorData::new(bias, [1, slopes.len(), seq_q, seq_k]), device)
}

/// True where a query does not attend a key: `[B, 1, Tq, Tk]`.
fn hidden_mask(mask: &Mask, [batch, seq_q, seq_k]: [usize; 3], device: &Device) -> Tensor<4, Bool> {
    let hidden: Vec<bool> = mask
        .lo
        .iter()
        .zip(mask.hi.iter())
        .flat_map(|(lo, hi)| (0..seq_k as u32).map(move |j| j < *lo || j >= *hi))
        .collect();
    Tensor::from_data(TensorData::new(hidden, [batch, 1, seq_q, seq_k]), device)
}
