//! The gradients: a task is a stretch of one key head's keys, which it alone adds to, against all queries of its heads.
//! Where several tasks share queries, each has its own gradient of them; these are added in order.

use super::pack::{FromPanel, RowDots, ToPanels, copy_rows, write_rows};
use super::score::Score;
use super::step::{Block, KEYS, STRIPS, Sizes, Step, Unit};
use super::strip::{Strip, VECTORS};
use super::tile::ROWS;
use super::{AttentionGrads, AttentionSaved, Inputs, overlap};
use crate::gemm::{Mat, Out};
use crate::{map, scratch, simd};
use rayon::prelude::*;
use std::f32::consts::LOG2_E;

/// The keys of a head are split where there would be fewer tasks than this.
const TASKS: usize = 16;
/// Into at most so many: each has its own gradient of the queries.
const SPLITS: usize = 8;
/// At least so many blocks of keys to a task, which prepares all queries for itself.
const BLOCKS: usize = 8;

pub(super) fn backward(inputs: &Inputs, saved: &AttentionSaved, d_out: &[f32], grads: &mut AttentionGrads) {
    let shape = inputs.shape;
    let pairs = shape.batch * shape.n_kv_heads;
    if pairs == 0 {
        return;
    }
    let splits = TASKS.div_ceil(pairs).min(SPLITS).min(shape.seq_k.div_ceil(KEYS * BLOCKS)).max(1);
    let dk = Out::new(grads.dk, shape.n_kv_heads * shape.d_head);
    let dv = Out::new(grads.dv, shape.n_kv_heads * shape.d_value);
    let dq_len = grads.dq.len();
    scratch::with((splits - 1) * dq_len, |others| {
        let (dq, rest) = (Out::new(grads.dq, shape.n_heads * shape.d_head), Out::new(others, dq_len));
        (0..pairs * splits).into_par_iter().with_max_len(1).for_each(|t| {
            let (pair, split) = (t % pairs, t / pairs);
            let (b, kv_head) = (pair / shape.n_kv_heads, pair % shape.n_kv_heads);
            // SAFETY: every split has its own copy of the queries' gradients, in which the queries of this batch row
            // and group are this task's; so are the keys of its stretch.
            unsafe {
                let dq = if split == 0 { dq } else { Out { ptr: rest.offset(split - 1, 0).ptr, ..dq } };
                let part = Part { inputs, saved, d_out, b, kv_head, keys: stretch(inputs, b, split, splits) };
                match inputs.half() {
                    #[cfg(target_arch = "x86_64")]
                    true => super::half::backward(&part, dq, dk, dv),
                    _ => Task { part: &part, sizes: Sizes::new(inputs) }.run(dq, dk, dv),
                }
            }
        });
        for part in others.chunks_exact(dq_len.max(1)) {
            map::map(Add, [part], [&mut *grads.dq]);
        }
    });
}

#[derive(Clone, Copy)]
struct Add;

impl map::Map<1, 1> for Add {
    #[inline(always)]
    fn apply<S: simd::Simd>(self, s: S, [x]: [S::V; 1], [sum]: [S::V; 1]) -> [S::V; 1] {
        [s.add(sum, x)]
    }
}

/// The keys of one of `splits` tasks: whole blocks, which as many queries attend as those of another task.
fn stretch(inputs: &Inputs, b: usize, split: usize, splits: usize) -> (usize, usize) {
    let keys = inputs.shape.seq_k;
    if splits == 1 {
        return (0, keys);
    }
    // How many more queries attend block `j` than block `j - 1`.
    let mut change = vec![0i64; keys.div_ceil(KEYS) + 1];
    for i in 0..inputs.shape.seq_q {
        let (lo, hi) = inputs.span(b, i);
        if lo < hi {
            change[lo / KEYS] += 1;
            change[hi.div_ceil(KEYS)] -= 1;
        }
    }
    change.pop();
    // One more for what a block costs that nobody attends.
    let work: Vec<i64> = change
        .iter()
        .scan(1, |queries, c| {
            *queries += c;
            Some(*queries)
        })
        .collect();
    let total: i64 = work.iter().sum();
    let edge = |split: usize| {
        let mut done = 0;
        let whole = work.iter().take_while(|w| {
            done += **w;
            done * splits as i64 <= total * split as i64
        });
        (whole.count() * KEYS).min(keys)
    };
    (edge(split), if split + 1 == splits { keys } else { edge(split + 1) })
}

/// What a task does.
pub(super) struct Part<'a> {
    pub inputs: &'a Inputs<'a>,
    pub saved: &'a AttentionSaved<'a>,
    pub d_out: &'a [f32],
    pub b: usize,
    pub kv_head: usize,
    /// The keys of the task.
    pub keys: (usize, usize),
}

/// Strips side by side.
pub(super) type Strips = [Strip; STRIPS];

/// Strips and their head.
pub(super) type Units = Vec<(Strips, usize)>;

impl Part<'_> {
    /// The queries of the task's heads: those that attend any of its keys, and the others.
    pub fn units(&self, width: usize) -> (Units, Units) {
        let shape = self.inputs.shape;
        let strips = |first| std::array::from_fn(|n| Strip::new(self.inputs, self.b, first + n * width));
        let all: Vec<Strips> = (0..shape.seq_q).step_by(STRIPS * width).map(strips).collect();
        let heads = self.kv_head * shape.group()..(self.kv_head + 1) * shape.group();
        heads.flat_map(|h| all.iter().map(move |strips| (*strips, h))).partition(|(strips, _)| self.reached(strips))
    }

    fn reached(&self, strips: &Strips) -> bool {
        strips.iter().any(|strip| overlap(strip.keys(), self.keys) != (0, 0))
    }

    /// The gradient of queries that attend none of the keys.
    ///
    /// # Safety
    /// They must be this call's alone.
    pub unsafe fn clear(&self, units: &Units, dq: Out) {
        let width = self.inputs.shape.d_head;
        for (strip, h) in units.iter().flat_map(|(strips, h)| strips.iter().map(move |strip| (strip, h))) {
            for r in 0..strip.rows {
                let query = self.inputs.query(self.b, strip.first + r, *h);
                // SAFETY: the caller's promise.
                unsafe { dq.row(0, query * width, width) }.fill(0.0);
            }
        }
    }

    /// d_out · out of each of `rows` queries of head `h` from `first`, and the log of the sum of the exponentials in
    /// powers of two.
    pub fn rows(&self, (first, rows, h): (usize, usize, usize), delta: &mut [f32], to: &mut [f32]) {
        let (inputs, shape) = (self.inputs, self.inputs.shape);
        let of = |data| inputs.queries(data, inputs.query(self.b, first, h), rows, shape.d_value);
        delta.fill(0.0);
        simd::run(inputs.level, RowDots { a: of(self.saved.out), b: of(self.d_out), sums: delta });
        // A query that attends nothing has no sum; any large one gives probabilities of zero.
        to.fill(f32::MAX);
        let lse = &self.saved.lse[(self.b * shape.n_heads + h) * shape.seq_q + first..][..rows];
        for (to, lse) in to.iter_mut().zip(lse) {
            *to = if *lse == f32::NEG_INFINITY { f32::MAX } else { lse * LOG2_E };
        }
    }
}

struct Task<'a> {
    part: &'a Part<'a>,
    sizes: Sizes,
}

impl Task<'_> {
    /// The gradients of the keys, and what they add to the gradients of the queries.
    ///
    /// # Safety
    /// The queries of this batch row and group in `dq`, and the keys in `dk` and `dv`, must be this call's alone.
    unsafe fn run(&self, dq: Out, dk: Out, dv: Out) {
        let (part, sizes) = (self.part, &self.sizes);
        let shape = part.inputs.shape;
        let (near, far) = part.units(sizes.width);
        scratch::with(sizes.block() + near.len() * sizes.unit(), |room| {
            let (block, units) = room.split_at_mut(sizes.block());
            for ((strips, h), unit) in near.iter().zip(units.chunks_exact_mut(sizes.unit())) {
                self.prepare(strips, *h, Unit::new(sizes, unit));
            }
            for from in (part.keys.0..part.keys.1).step_by(KEYS) {
                let count = KEYS.min(part.keys.1 - from);
                let mut block = Block::new(sizes, block);
                self.block(&near, units, (from, count), &mut block);
                let key = part.inputs.key(part.b, from, part.kv_head);
                // SAFETY: these keys are ours, by the caller's promise.
                unsafe {
                    let (dk, dv) = (dk.offset(0, key * shape.d_head), dv.offset(0, key * shape.d_value));
                    write_rows(block.dk, sizes.k_row, shape.scale, dk, (count, shape.d_head));
                    write_rows(block.dv, sizes.v_row, 1.0, dv, (count, shape.d_value));
                }
            }
            for ((strips, h), unit) in near.iter().zip(units.chunks_exact_mut(sizes.unit())) {
                // SAFETY: these queries are ours, by the caller's promise.
                unsafe { self.finish(strips, *h, Unit::new(sizes, unit).dq, dq) };
            }
        });
        // SAFETY: as above.
        unsafe { part.clear(&far, dq) };
    }

    /// Lays out what the products need of two strips of head `h`.
    fn prepare(&self, strips: &Strips, h: usize, unit: Unit) {
        let Task { part, sizes } = self;
        let (inputs, shape) = (part.inputs, part.inputs.shape);
        let (first, rows) = (strips[0].first, strips.iter().map(|strip| strip.rows).sum());
        let of = |data, width| inputs.queries(data, inputs.query(part.b, first, h), rows, width);
        let (q, d_out) = (of(inputs.q, shape.d_head), of(part.d_out, shape.d_value));
        copy_rows(q, unit.q, sizes.k_row);
        copy_rows(d_out, unit.d_out, sizes.v_row);
        let (width, factor) = (sizes.width, Score::new(shape, h).factor);
        let q = Mat::strided(unit.q, STRIPS * width, shape.d_head, sizes.k_row);
        simd::run(inputs.level, ToPanels { from: q, to: unit.q_lanes, width, factor });
        let d_rows = Mat::strided(unit.d_out, STRIPS * width, shape.d_value, sizes.v_row);
        simd::run(inputs.level, ToPanels { from: d_rows, to: unit.d_out_lanes, width, factor: 1.0 });
        self.part.rows((first, rows, h), unit.delta, unit.lse);
        unit.dq.fill(0.0);
    }

    /// `count` keys from `from` against all queries that attend them.
    fn block(&self, pairs: &[(Strips, usize)], units: &mut [f32], (from, count): (usize, usize), block: &mut Block) {
        let Task { part, sizes } = self;
        let (inputs, shape) = (part.inputs, part.inputs.shape);
        let (key, padded) = (inputs.key(part.b, from, part.kv_head), count.next_multiple_of(ROWS));
        let keys = inputs.keys(inputs.k, key, count, shape.d_head);
        let values = inputs.keys(inputs.v, key, count, shape.d_value);
        copy_rows(keys, &mut block.k[..padded * sizes.k_row], sizes.k_row);
        let to = &mut block.k_panels[..padded * shape.d_head];
        simd::run(inputs.level, ToPanels { from: keys, to, width: ROWS, factor: 1.0 });
        let to = &mut block.v_panels[..padded * shape.d_value];
        simd::run(inputs.level, ToPanels { from: values, to, width: ROWS, factor: 1.0 });
        block.dk.fill(0.0);
        block.dv.fill(0.0);
        for ((strips, h), unit) in pairs.iter().zip(units.chunks_exact_mut(sizes.unit())) {
            let ranges = strips.map(|strip| strip.within(from, count));
            if ranges.as_flattened().iter().any(|(lo, hi)| lo < hi) {
                let (unit, score) = (Unit::new(sizes, unit), Score::new(shape, *h));
                simd::run(inputs.level, Step { sizes, strips, score, from, ranges, block, unit });
            }
        }
    }

    /// Writes the gradients of the queries of two strips of head `h`.
    ///
    /// # Safety
    /// They must be this call's alone.
    unsafe fn finish(&self, strips: &Strips, h: usize, lanes: &mut [f32], dq: Out) {
        let (inputs, shape, width) = (self.part.inputs, self.part.inputs.shape, self.sizes.width);
        let factors = &[shape.scale; VECTORS * simd::MAX_LANES];
        let each = lanes.len() / STRIPS;
        for (strip, from) in strips.iter().zip(lanes.chunks_exact_mut(each)).filter(|(strip, _)| strip.rows > 0) {
            // SAFETY: the caller's promise.
            unsafe {
                let to = dq.offset(0, inputs.query(self.part.b, strip.first, h) * shape.d_head);
                FromPanel { from, width, factors, to, rows: strip.rows, cols: shape.d_head }.run(inputs.level);
            }
        }
    }
}
