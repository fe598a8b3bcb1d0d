//! Attention over whole sequences, for training and evaluation.

use std::sync::Arc;

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use cupola_kernels::{
    AttentionGrads, AttentionSaved, AttentionShape, Spans, attention_backward, attention_forward, room,
};

use crate::host::{HostOp, Output, Saved, apply, erase};

/// Which keys each query attends: those from `lo` to before `hi` in its own row of the batch. An interval expresses
/// causal and full attention, sliding windows, packed documents and padding.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// `[B · T]`.
    pub lo: Arc<[u32]>,
    /// `[B · T]`.
    pub hi: Arc<[u32]>,
}

impl Mask {
    /// Each query attends itself and what precedes it, in `batch` rows of `seq`.
    pub fn causal(batch: usize, seq: usize) -> Self {
        let hi = (0..batch).flat_map(|_| 1..=seq as u32).collect();
        Self { lo: vec![0; batch * seq].into(), hi }
    }

    /// Causal attention within segments: neighbours with equal segment numbers belong together.
    pub fn causal_segments(segments: &[u32], seq: usize) -> Self {
        let mut lo = Vec::with_capacity(segments.len());
        for row in segments.chunks(seq) {
            let mut start = 0;
            for (i, segment) in row.iter().enumerate() {
                if i > 0 && row[i - 1] != *segment {
                    start = i as u32;
                }
                lo.push(start);
            }
        }
        let hi = (0..segments.len()).map(|i| (i % seq) as u32 + 1).collect();
        Self { lo: lo.into(), hi }
    }
}

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

#[derive(Debug)]
struct Attention {
    heads: Heads,
    mask: Mask,
}

impl Attention {
    fn shape(&self) -> AttentionShape {
        let Heads { batch, n_heads, n_kv_heads, d_head } = self.heads;
        let seq = self.mask.lo.len() / batch;
        AttentionShape {
            batch,
            seq_q: seq,
            seq_k: seq,
            n_heads,
            n_kv_heads,
            d_head,
            scale: self.heads.scale(),
            soft_cap: None,
        }
    }

    fn spans(&self) -> Spans<'_> {
        Spans { lo: &self.mask.lo, hi: &self.mask.hi }
    }
}

impl HostOp<3> for Attention {
    const KEEP_OUTPUT: bool = true;

    fn forward(&self, [q, k, v]: [&[f32]; 3], _: bool) -> Output {
        let rows = self.mask.lo.len();
        let (mut out, mut lse) = (room(q.len()), room(rows * self.heads.n_heads));
        attention_forward(q, k, v, &mut out, &mut lse, &self.shape(), &self.spans());
        Output { shape: vec![rows, self.heads.n_heads * self.heads.d_head], data: out, saved: vec![lse] }
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
    if !crate::is_host(&q.device()) {
        return composed(q, k, v, heads, mask);
    }
    apply(Attention { heads, mask: mask.clone() }, [erase(q), erase(k), erase(v)])
}

/// The same from the tensor library's operations, with the whole T x T matrix.
pub(crate) fn composed(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: Heads, mask: &Mask) -> Tensor<2> {
    let Heads { batch, n_heads, n_kv_heads, d_head } = heads;
    let seq = mask.lo.len() / batch;
    let groups = n_heads / n_kv_heads;
    let device = q.device();
    let split = |t: Tensor<2>, h: usize| t.reshape([batch, seq, h, d_head]).swap_dims(1, 2); // [B, h, T, dh]
    let expand = |t: Tensor<4>| {
        let t: Tensor<5> = t.reshape([batch, n_kv_heads, 1, seq, d_head]);
        t.repeat_dim(2, groups).reshape([batch, n_heads, seq, d_head])
    };
    let (q, k, v) = (split(q, n_heads), expand(split(k, n_kv_heads)), expand(split(v, n_kv_heads)));
    let hidden = hidden_mask(mask, batch, seq, &device);
    let scores = q.matmul(k.transpose()).mul_scalar(heads.scale()).mask_fill(hidden, -1.0e30);
    let out = softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([batch * seq, n_heads * d_head]);
    // A query that attends nothing gives zero, not the mean of all values.
    let empty = mask.lo.iter().zip(mask.hi.iter()).map(|(lo, hi)| f32::from(lo < hi)).collect::<Vec<_>>();
    let keep = Tensor::<2>::from_data(TensorData::new(empty, [batch * seq, 1]), &device);
    out * keep
}

/// True where a query does not attend a key: `[B, 1, T, T]`.
fn hidden_mask(mask: &Mask, batch: usize, seq: usize, device: &Device) -> Tensor<4, Bool> {
    let hidden: Vec<bool> = mask
        .lo
        .iter()
        .zip(mask.hi.iter())
        .flat_map(|(lo, hi)| (0..seq as u32).map(move |j| j < *lo || j >= *hi))
        .collect();
    Tensor::from_data(TensorData::new(hidden, [batch, 1, seq, seq]), device)
}
