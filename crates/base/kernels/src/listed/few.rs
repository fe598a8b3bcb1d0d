//! Blocks of few queries: each query and head reads its keys where they lie.

use super::{Block, Given};
use crate::attention::AttentionGrads;
use crate::scratch;
use crate::simd::{self, Kernel, Simd, each_vector};
use crate::softmax::{row_lse, row_softmax};

pub(super) fn forward(block: &Block<'_>, out: &mut [f32], lse: &mut [f32]) {
    let (shape, rows) = (block.shape, block.of.queries.len());
    scratch::with(block.of.keys.len(), |room| {
        for (i, h) in (0..rows * shape.n_heads).map(|t| (t / shape.n_heads, t % shape.n_heads)) {
            let query = Query::new(block, i, h);
            let scores = query.scores(room);
            let out = &mut out[query.at * shape.d_value..][..shape.d_value];
            let lse = &mut lse[h * rows + i];
            *lse = row_lse(block.level, scores);
            match scores.is_empty() {
                true => out.fill(0.0),
                false => {
                    row_softmax(block.level, scores, *lse, 1.0);
                    simd::run(block.level, Mix { shares: scores, rows: query.values(block.v), to: out });
                }
            }
        }
    });
}

pub(super) fn backward(block: &Block<'_>, given: &Given<'_>, grads: &mut AttentionGrads<'_>) {
    let (shape, rows) = (block.shape, block.of.queries.len());
    grads.dk.fill(0.0);
    grads.dv.fill(0.0);
    scratch::with(block.of.keys.len(), |room| {
        for (i, h) in (0..rows * shape.n_heads).map(|t| (t / shape.n_heads, t % shape.n_heads)) {
            let query = Query::new(block, i, h);
            if query.list.is_empty() {
                grads.dq[query.at * shape.d_head..][..shape.d_head].fill(0.0);
                continue;
            }
            let scores = query.scores(room);
            row_softmax(block.level, scores, given.lse[h * rows + i], 1.0);
            let width = shape.d_value;
            let [out, d_out] = [given.out, given.d_out].map(|x| &x[query.at * width..][..width]);
            let kv = query.kv_head;
            let back = Back {
                query: &query,
                shares: scores,
                out,
                d_out,
                dq: &mut grads.dq[query.at * shape.d_head..][..shape.d_head],
                dk: &mut grads.dk[(query.lo * shape.n_kv_heads + kv) * shape.d_head..],
                dv: &mut grads.dv[(query.lo * shape.n_kv_heads + kv) * width..],
            };
            simd::run(block.level, back);
        }
    });
}

/// Rows of k or v of one head, in the order of a list.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    list: &'a [u32],
    stride: usize,
    offset: usize,
    width: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn each(self) -> impl Iterator<Item = &'a [f32]> {
        self.list.iter().map(move |row| &self.data[*row as usize * self.stride + self.offset..][..self.width])
    }
}

/// A query of one head.
struct Query<'a> {
    block: &'a Block<'a>,
    /// Which of the block's `[queries, H]`.
    at: usize,
    kv_head: usize,
    /// The first entry of the list that it attends.
    lo: usize,
    list: &'a [u32],
}

impl<'a> Query<'a> {
    fn new(block: &'a Block<'a>, i: usize, h: usize) -> Self {
        let (shape, row) = (block.shape, block.of.queries.start + i);
        let (lo, hi) = (block.lists.lo[row] as usize, block.lists.hi[row] as usize);
        let list = if lo < hi { &block.keys()[lo..hi] } else { &[] };
        let kv_head = h / (shape.n_heads / shape.n_kv_heads);
        Query { block, at: i * shape.n_heads + h, kv_head, lo: if lo < hi { lo } else { 0 }, list }
    }

    fn rows(&self, data: &'a [f32], width: usize) -> Rows<'a> {
        let stride = self.block.shape.n_kv_heads * width;
        Rows { data, list: self.list, stride, offset: self.kv_head * width, width }
    }

    fn keys(&self, data: &'a [f32]) -> Rows<'a> {
        self.rows(data, self.block.shape.d_head)
    }

    fn values(&self, data: &'a [f32]) -> Rows<'a> {
        self.rows(data, self.block.shape.d_value)
    }

    fn q(&self) -> &[f32] {
        let d = self.block.shape.d_head;
        &self.block.q()[self.at * d..][..d]
    }

    /// Its scores, at the front of `room`.
    fn scores<'r>(&self, room: &'r mut [f32]) -> &'r mut [f32] {
        let to = &mut room[..self.list.len()];
        let scores = Scores { q: self.q(), keys: self.keys(self.block.k), scale: self.block.shape.scale, to };
        simd::run(self.block.level, scores);
        &mut room[..self.list.len()]
    }
}

#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = s.zero();
    each_vector!(a.len(), W, j => {
        sum = s.fma(s.get::<W>(a, j, 0.0), s.get::<W>(b, j, 0.0), sum);
    });
    s.reduce_sum(sum)
}

/// `to += by · x`
#[inline(always)]
fn add<S: Simd>(s: S, to: &mut [f32], by: f32, x: &[f32]) {
    let by = s.splat(by);
    each_vector!(to.len(), W, j => {
        let sum = s.fma(by, s.get::<W>(x, j, 0.0), s.get::<W>(to, j, 0.0));
        s.set::<W>(to, j, sum);
    });
}

struct Scores<'a> {
    q: &'a [f32],
    keys: Rows<'a>,
    scale: f32,
    to: &'a mut [f32],
}

impl Kernel for Scores<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (to, key) in self.to.iter_mut().zip(self.keys.each()) {
            *to = dot(s, self.q, key) * self.scale;
        }
    }
}

/// `to = Σ shares · rows`
struct Mix<'a> {
    shares: &'a [f32],
    rows: Rows<'a>,
    to: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.to.fill(0.0);
        for (share, row) in self.shares.iter().zip(self.rows.each()) {
            add(s, self.to, *share, row);
        }
    }
}

/// The gradients of one query and head; `dk` and `dv` begin with its first entry and are added to.
struct Back<'a> {
    query: &'a Query<'a>,
    shares: &'a [f32],
    out: &'a [f32],
    d_out: &'a [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

impl Kernel for Back<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (block, q) = (self.query.block, self.query.q());
        let (shape, delta) = (block.shape, dot(s, self.out, self.d_out));
        let strides = [shape.n_kv_heads * shape.d_head, shape.n_kv_heads * shape.d_value];
        self.dq.fill(0.0);
        let rows = self.query.keys(block.k).each().zip(self.query.values(block.v).each());
        for (e, (share, (key, value))) in self.shares.iter().zip(rows).enumerate() {
            let slope = share * (dot(s, self.d_out, value) - delta) * shape.scale;
            add(s, self.dq, slope, key);
            add(s, &mut self.dk[e * strides[0]..][..shape.d_head], slope, q);
            add(s, &mut self.dv[e * strides[1]..][..shape.d_value], *share, self.d_out);
        }
    }
}
