//! Attention to listed keys: a block of queries attends the rows that its own list names.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor, TensorData};
use cupola_kernels::{
    ListedGrads, ListedSaved, ListedShape, Precision, listed_attention_backward, listed_attention_forward, room,
};

use crate::attention::Heads;
use crate::host::{HostOp, Output, Saved, apply, erase};

/// Who attends whom: blocks of queries, one after another, and a list of rows of k and v for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyLists {
    queries: Vec<u32>,
    ends: Vec<u32>,
    keys: Vec<u32>,
    lo: Vec<u32>,
    hi: Vec<u32>,
}

impl KeyLists {
    /// A further block: its list, and for each of its queries which entries of the list it attends.
    pub fn push(&mut self, keys: impl IntoIterator<Item = u32>, spans: impl IntoIterator<Item = Range<u32>>) {
        let before = self.lo.len();
        self.keys.extend(keys);
        for span in spans {
            self.lo.push(span.start);
            self.hi.push(span.end);
        }
        self.ends.push(self.keys.len() as u32);
        self.queries.push((self.lo.len() - before) as u32);
    }

    /// A further query alone, which attends all of its list.
    pub fn push_one(&mut self, keys: impl IntoIterator<Item = u32>) {
        let before = self.keys.len() as u32;
        self.keys.extend(keys);
        let end = self.keys.len() as u32;
        (self.lo.push(0), self.hi.push(end - before), self.ends.push(end), self.queries.push(1));
    }

    /// Queries of all blocks.
    pub fn queries(&self) -> usize {
        self.lo.len()
    }

    /// The pairs of a query and a key that it attends.
    pub fn pairs(&self) -> usize {
        self.lo.iter().zip(&self.hi).map(|(lo, hi)| hi.saturating_sub(*lo) as usize).sum()
    }

    /// The same for the kernels.
    pub(crate) fn slices(&self) -> cupola_kernels::KeyLists<'_> {
        cupola_kernels::KeyLists {
            queries: &self.queries,
            ends: &self.ends,
            keys: &self.keys,
            lo: &self.lo,
            hi: &self.hi,
        }
    }
}

/// The sizes as the kernels take them.
pub(crate) fn shape(heads: Heads, d_value: usize, precision: Precision) -> ListedShape {
    let Heads { n_heads, n_kv_heads, d_head, .. } = heads;
    ListedShape { d_value, precision, ..ListedShape::new([n_heads, n_kv_heads], d_head) }
}

#[derive(Debug)]
struct Listed {
    shape: ListedShape,
    lists: Arc<KeyLists>,
}

impl HostOp<3> for Listed {
    const KEEP_OUTPUT: bool = true;

    fn forward(&self, inputs: [&[f32]; 3], _: bool) -> Output {
        let (rows, s) = (self.lists.queries(), &self.shape);
        let width = s.n_heads * s.d_value;
        let (mut out, mut lse) = (room(rows * width), room(rows * s.n_heads));
        listed_attention_forward(inputs, &mut out, &mut lse, s, &self.lists.slices());
        Output { shape: vec![rows, width], data: out, saved: vec![lse] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 3] {
        let [q, k, v] = [saved.inputs[0], saved.inputs[1], saved.inputs[2]];
        let (mut dq, mut dk, mut dv) = (room(q.len()), room(k.len()), room(v.len()));
        let kept = ListedSaved { q, k, v, out: saved.output, lse: &saved.saved[0] };
        let mut grads = ListedGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        listed_attention_backward(&kept, grad, &mut grads, &self.shape, &self.lists.slices());
        [saved.needs[0].then_some(dq), saved.needs[1].then_some(dk), saved.needs[2].then_some(dv)]
    }
}

/// `softmax(q·kᵀ / sqrt(d_head))·v` over the listed keys alone: q `[Tq, H·dh]`, k `[Tk, Hkv·dh]` and v `[Tk, Hkv·dv]`, rows of
/// whatever sequences the lists tell apart; gives `[Tq, H·dv]`. `heads.batch` is not read. A query without keys gives zero.
pub fn attention_listed(
    [q, k, v]: [Tensor<2>; 3],
    heads: Heads,
    lists: &Arc<KeyLists>,
    precision: Precision,
) -> Tensor<2> {
    if !crate::is_host(&q.device()) {
        return composed([q, k, v], heads, lists);
    }
    let shape = shape(heads, v.dims()[1] / heads.n_kv_heads, precision);
    apply(Listed { shape, lists: Arc::clone(lists) }, [erase(q), erase(k), erase(v)])
}

/// The same from the tensor library's operations: all blocks as long as the longest.
pub(crate) fn composed([q, k, v]: [Tensor<2>; 3], heads: Heads, lists: &KeyLists) -> Tensor<2> {
    let Heads { n_heads, n_kv_heads, d_head, .. } = heads;
    let (device, d_value) = (q.device(), v.dims()[1] / n_kv_heads);
    let starts = [0].iter().chain(&lists.ends);
    let lengths: Vec<u32> = lists.ends.iter().zip(starts).map(|(end, start)| end - start).collect();
    let most = |counts: &[u32]| counts.iter().max().map_or(0, |n| *n as usize).max(1);
    let (blocks, rows, keys) = (lists.queries.len(), most(&lists.queries), most(&lengths));
    if blocks == 0 || k.dims()[0] == 0 {
        return Tensor::zeros([lists.queries(), n_heads * d_value], &device);
    }
    // Which row each place holds, any where it holds none.
    let (mut of_q, mut of_k) = (vec![0; blocks * rows], vec![0; blocks * keys]);
    let (mut hidden, mut back, mut seen) = (vec![true; blocks * rows * keys], vec![], vec![]);
    let (mut query, mut entry) = (0, 0);
    for (b, (own, length)) in lists.queries.iter().zip(&lengths).enumerate() {
        for i in 0..*own as usize {
            of_q[b * rows + i] = query as u32;
            back.push((b * rows + i) as u32);
            let (lo, hi) = (lists.lo[query] as usize, lists.hi[query] as usize);
            (lo..hi).for_each(|e| hidden[(b * rows + i) * keys + e] = false);
            seen.push(f32::from(lo < hi));
            query += 1;
        }
        of_k[b * keys..][..*length as usize].copy_from_slice(&lists.keys[entry..entry + *length as usize]);
        entry += *length as usize;
    }
    let split = |x: Tensor<2>, of: &[u32], n: usize, h: usize, d: usize| -> Tensor<4> {
        crate::embedding::composed(x, of).reshape([blocks, n, h, d]).swap_dims(1, 2)
    };
    let expand = |x: Tensor<2>, d: usize| {
        let x: Tensor<5> = split(x, &of_k, keys, n_kv_heads, d).reshape([blocks, n_kv_heads, 1, keys, d]);
        x.repeat_dim(2, n_heads / n_kv_heads).reshape([blocks, n_heads, keys, d])
    };
    let (q, k, v) = (split(q, &of_q, rows, n_heads, d_head), expand(k, d_head), expand(v, d_value));
    let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [blocks, 1, rows, keys]), &device);
    let scores = q.matmul(k.transpose()).mul_scalar(heads.scale());
    let scores = scores.mask_fill(hidden.expand([blocks, n_heads, rows, keys]), -1.0e30);
    let mixed: Tensor<2> = softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([blocks * rows, n_heads * d_value]);
    let count = seen.len();
    let seen = Tensor::<2>::from_data(TensorData::new(seen, [count, 1]), &device);
    crate::embedding::composed(mixed, &back) * seen
}
