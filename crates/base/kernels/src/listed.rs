//! Attention to listed keys: a block of queries attends the keys of its own list, whichever rows those are. The cost is that
//! of the lists and not of all pairs (Child et al. 2019, *Sparse Transformers*; Zaheer et al. 2020, *BigBird*); lists of
//! single queries are the edges of a graph (Veličković et al. 2018).
//!
//! A block of many queries gathers its keys and goes to [`crate::attention_forward`]; one of few reads them where they lie.

use std::ops::Range;

use rayon::prelude::*;

use crate::attention::{AttentionGrads, AttentionSaved, AttentionShape, Spans, attention_backward, attention_forward};
use crate::gemm::Precision;
use crate::scratch;
use crate::simd::{self, Level};

mod few;
mod scatter;

/// Blocks of up to this many queries read keys where they lie.
const FEW: usize = 8;
/// Queries of a task, about, where blocks are small.
const TASK: usize = 64;
/// Listed keys whose gradients wait at once for being added up, about.
const WAITING: usize = 1 << 14;

/// The sizes of attention to listed keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ListedShape {
    pub n_heads: usize,
    /// Divides `n_heads`; query head `h` uses key head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Width of a head of q and k.
    pub d_head: usize,
    /// Width of a head of v and out.
    pub d_value: usize,
    /// What products are multiplied by.
    pub scale: f32,
    /// What the products of blocks of many queries multiply; see [`AttentionShape::precision`].
    pub precision: Precision,
}

/// Who attends whom. The queries of a block follow one another, and so do the blocks.
#[derive(Clone, Copy, Debug)]
pub struct KeyLists<'a> {
    /// Queries of each block, `[blocks]`.
    pub queries: &'a [u32],
    /// Where each block's list ends in `keys`, `[blocks]`.
    pub ends: &'a [u32],
    /// Rows of k and v, list after list.
    pub keys: &'a [u32],
    /// Per query: it attends the entries `lo..hi` of its block's list, `[Tq]`.
    pub lo: &'a [u32],
    /// As `lo`.
    pub hi: &'a [u32],
}

/// What the forward pass took and gave: q `[Tq, H, dh]`, k `[Tk, Hkv, dh]`, v `[Tk, Hkv, dv]`, out `[Tq, H, dv]`, and lse
/// `[H, queries]` block after block.
#[derive(Clone, Copy)]
pub struct ListedSaved<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub out: &'a [f32],
    pub lse: &'a [f32],
}

/// Where the gradients go, shaped as `q`, `k` and `v`; overwritten.
pub struct ListedGrads<'a> {
    pub dq: &'a mut [f32],
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
}

/// `softmax(scale · q · k) · v` over the listed keys: out `[Tq, H, dv]`, and lse, the log of the sum of the exponentials of
/// each query's scores, `[H, queries]` block after block. A query that attends nothing gives zero and minus infinity.
pub fn listed_attention_forward(
    [q, k, v]: [&[f32]; 3],
    out: &mut [f32],
    lse: &mut [f32],
    shape: &ListedShape,
    lists: &KeyLists,
) {
    check("listed_attention_forward", [q.len(), k.len(), v.len(), out.len(), lse.len()], shape, lists);
    let level = simd::level();
    let blocks = blocks(lists);
    let (outs, lses) = (cut(out, &blocks, shape.out_width()), cut(lse, &blocks, shape.n_heads));
    let at_once = at_once(lists);
    blocks.into_par_iter().zip(outs).zip(lses).with_min_len(at_once).for_each(|((block, out), lse)| {
        let block = Block { level, shape, lists, q, k, v, of: block };
        match block.of.queries.len() <= FEW {
            true => few::forward(&block, out, lse),
            false => block.many_forward(out, lse),
        }
    });
}

/// The gradients of [`listed_attention_forward`] for the gradient `d_out` of its output. A key's gradient is summed in the order
/// of the lists.
pub fn listed_attention_backward(
    saved: &ListedSaved,
    d_out: &[f32],
    grads: &mut ListedGrads,
    shape: &ListedShape,
    lists: &KeyLists,
) {
    let ListedSaved { q, k, v, out, lse } = *saved;
    let what = "listed_attention_backward";
    check(what, [q.len(), k.len(), v.len(), out.len(), lse.len()], shape, lists);
    check(what, [grads.dq.len(), grads.dk.len(), grads.dv.len(), d_out.len(), lse.len()], shape, lists);
    let (level, widths) = (simd::level(), [shape.k_width(), shape.v_width()]);
    grads.dk.fill(0.0);
    grads.dv.fill(0.0);
    let blocks = blocks(lists);
    let mut dqs = cut(grads.dq, &blocks, shape.q_width()).into_iter();
    for group in groups(&blocks) {
        let keys = group[0].keys.start..group[group.len() - 1].keys.end;
        let (mut dk, mut dv) = (crate::room(keys.len() * widths[0]), crate::room(keys.len() * widths[1]));
        let own: Vec<Of> = group.iter().map(|of| of.of_keys()).collect();
        let (dks, dvs) = (cut(&mut dk, &own, widths[0]), cut(&mut dv, &own, widths[1]));
        let dqs: Vec<&mut [f32]> = dqs.by_ref().take(group.len()).collect();
        let tasks = group.par_iter().zip(dqs).zip(dks).zip(dvs).with_min_len(at_once(lists));
        tasks.for_each(|(((of, dq), dk), dv)| {
            let block = Block { level, shape, lists, q, k, v, of: of.clone() };
            let rows = &of.queries;
            let part = |x, width: usize| -> &[f32] { &<[f32]>::as_ref(x)[rows.start * width..rows.end * width] };
            let given = Given {
                out: part(out, shape.out_width()),
                lse: part(lse, shape.n_heads),
                d_out: part(d_out, shape.out_width()),
            };
            let mut grads = AttentionGrads { dq, dk, dv };
            match rows.len() <= FEW {
                true => few::backward(&block, &given, &mut grads),
                false => block.many_backward(&given, &mut grads),
            }
        });
        let order = scatter::Order::new(&lists.keys[keys]);
        order.add(&dk, grads.dk, widths[0]);
        order.add(&dv, grads.dv, widths[1]);
    }
}

impl ListedShape {
    /// Heads `[H, Hkv]` of one width, scores scaled by `1 / sqrt(d_head)`.
    pub fn new([n_heads, n_kv_heads]: [usize; 2], d_head: usize) -> Self {
        let scale = (d_head as f32).sqrt().recip();
        Self { n_heads, n_kv_heads, d_head, d_value: d_head, scale, precision: Precision::F32 }
    }

    fn q_width(&self) -> usize {
        self.n_heads * self.d_head
    }

    fn k_width(&self) -> usize {
        self.n_kv_heads * self.d_head
    }

    fn v_width(&self) -> usize {
        self.n_kv_heads * self.d_value
    }

    fn out_width(&self) -> usize {
        self.n_heads * self.d_value
    }
}

/// Which queries and which entries of the lists are a block's.
#[derive(Clone)]
struct Of {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Of {
    /// The same, its keys taken for rows.
    fn of_keys(&self) -> Of {
        Of { queries: self.keys.clone(), keys: self.keys.clone() }
    }
}

fn blocks(lists: &KeyLists) -> Vec<Of> {
    let (mut query, mut key) = (0, 0);
    let all = lists.queries.iter().zip(lists.ends).map(|(queries, end)| {
        let of = Of { queries: query..query + *queries as usize, keys: key..*end as usize };
        (query, key) = (of.queries.end, of.keys.end);
        of
    });
    all.collect()
}

/// The rows of each block, `width` floats each.
fn cut<'a>(data: &'a mut [f32], blocks: &[Of], width: usize) -> Vec<&'a mut [f32]> {
    let mut rest = data;
    let all = blocks.iter().map(|of| {
        let (own, next) = std::mem::take(&mut rest).split_at_mut(of.queries.len() * width);
        rest = next;
        own
    });
    all.collect()
}

/// Blocks of a task, at least.
fn at_once(lists: &KeyLists) -> usize {
    (TASK * lists.queries.len() / lists.lo.len().max(1)).clamp(1, TASK)
}

/// Neighbouring blocks that have about [`WAITING`] keys together.
fn groups(blocks: &[Of]) -> impl Iterator<Item = &[Of]> {
    let mut rest = blocks;
    std::iter::from_fn(move || {
        let first = rest.first()?.keys.start;
        let count = rest.iter().take_while(|of| of.keys.end - first <= WAITING).count().max(1);
        let (group, next) = rest.split_at(count);
        rest = next;
        Some(group)
    })
}

/// What a block's backward pass is given besides the inputs, the block's rows alone.
struct Given<'a> {
    out: &'a [f32],
    lse: &'a [f32],
    d_out: &'a [f32],
}

/// A block of queries.
struct Block<'a> {
    level: Level,
    shape: &'a ListedShape,
    lists: &'a KeyLists<'a>,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    of: Of,
}

impl Block<'_> {
    /// The block's own queries.
    fn q(&self) -> &[f32] {
        let width = self.shape.q_width();
        &self.q[self.of.queries.start * width..self.of.queries.end * width]
    }

    fn keys(&self) -> &[u32] {
        &self.lists.keys[self.of.keys.clone()]
    }

    fn spans(&self) -> Spans<'_> {
        let rows = self.of.queries.clone();
        Spans { lo: &self.lists.lo[rows.clone()], hi: &self.lists.hi[rows] }
    }

    /// Calls `f` with the listed keys and values side by side.
    fn gathered<R>(&self, f: impl FnOnce(&[f32], &[f32], &AttentionShape<'_>) -> R) -> R {
        let (keys, s) = (self.keys(), self.shape);
        let plain = AttentionShape::new(1, self.of.queries.len(), [s.n_heads, s.n_kv_heads], s.d_head);
        let (seq_k, d_value, scale, precision) = (keys.len(), s.d_value, s.scale, s.precision);
        let shape = AttentionShape { seq_k, d_value, scale, precision, ..plain };
        let widths = [s.k_width(), s.v_width()];
        scratch::with(keys.len() * (widths[0] + widths[1]), |room| {
            let (k, v) = room.split_at_mut(keys.len() * widths[0]);
            for (to, from, width) in [(&mut *k, self.k, widths[0]), (&mut *v, self.v, widths[1])] {
                for (to, row) in to.chunks_exact_mut(width).zip(keys) {
                    to.copy_from_slice(&from[*row as usize * width..][..width]);
                }
            }
            f(k, v, &shape)
        })
    }

    fn many_forward(&self, out: &mut [f32], lse: &mut [f32]) {
        self.gathered(|k, v, shape| attention_forward(self.q(), k, v, out, lse, shape, &self.spans()));
    }

    fn many_backward(&self, given: &Given<'_>, grads: &mut AttentionGrads<'_>) {
        self.gathered(|k, v, shape| {
            let saved = AttentionSaved { q: self.q(), k, v, out: given.out, lse: given.lse };
            attention_backward(&saved, given.d_out, grads, shape, &self.spans());
        });
    }
}

/// Checks the lists and the lengths of q, k, v, out and lse (or of their gradients).
fn check(what: &str, lengths: [usize; 5], s: &ListedShape, lists: &KeyLists) {
    let (heads, kv) = (s.n_heads, s.n_kv_heads);
    assert!(kv > 0 && heads.is_multiple_of(kv), "{what}: {heads} heads cannot share {kv} key heads evenly");
    assert!(s.d_head > 0 && s.d_value > 0, "{what}: a head of width 0 in {s:?}");
    let (queries, ends) = (lists.queries.len(), lists.ends.len());
    assert_eq!(queries, ends, "{what}: {queries} blocks of queries, but {ends} lists");
    let rows: usize = lists.queries.iter().map(|n| *n as usize).sum();
    let (lo, hi) = (lists.lo.len(), lists.hi.len());
    assert!(lo == rows && hi == rows, "{what}: {rows} queries, but spans of {lo} and {hi}");
    let (entries, last) = (lists.keys.len(), lists.ends.last().map_or(0, |end| *end as usize));
    assert!(lists.ends.is_sorted() && last == entries, "{what}: lists end at {last}, but there are {entries} entries");
    for of in blocks(lists) {
        let end = lists.hi[of.queries].iter().max().map_or(0, |end| *end as usize);
        assert!(end <= of.keys.len(), "{what}: a span ends at {end}, but the list has {} entries", of.keys.len());
    }
    let keys = lengths[1] / s.k_width();
    let far = lists.keys.iter().max().map_or(0, |row| *row as usize + 1);
    assert!(far <= keys, "{what}: a list names row {}, but there are {keys} keys", far.wrapping_sub(1));
    let want = [rows * s.q_width(), keys * s.k_width(), keys * s.v_width(), rows * s.out_width(), rows * s.n_heads];
    for ((name, len), want) in ["q", "k", "v", "out", "lse"].iter().zip(lengths).zip(want) {
        assert_eq!(len, want, "{what}: {name} has {len} floats, {s:?} implies {want}");
    }
}
