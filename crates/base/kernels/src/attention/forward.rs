//! Many queries: a task is some strips of the heads that share a key head, against one block of keys after another.

use super::ahead::Ahead;
use super::pack::{FromPanel, ToPanels, copy_rows};
use super::score::{Score, exp2};
use super::strip::{Strip, VECTORS};
use super::tile::{Left, ROWS, Right, product, product_over};
use super::{Inputs, hull};
use crate::gemm::Out;
use crate::scratch;
use crate::simd::{self, Kernel, Simd};
use rayon::prelude::*;
use std::f32::consts::LN_2;

/// Keys per block: what a strip needs of them stays in the first cache while it is used.
const KEYS: usize = 128;
/// Strips per task: enough to pay for copying the keys, few enough for the second cache.
const STRIPS: usize = 16;
/// Tasks are made smaller, down to four strips, where there would be fewer than this.
const TASKS: usize = 32;

pub(super) fn forward(inputs: &Inputs, out: &mut [f32], lse: &mut [f32]) {
    let sizes = Sizes::new(inputs);
    each_task::<1>(inputs, out, lse, |task, ahead, out, lse| {
        // SAFETY: the rows of these strips and heads in `out` and `lse` are this task's.
        scratch::with(sizes.keys() + task.units.len() * sizes.unit(), |room| unsafe {
            task.run(sizes, room, ahead, out, lse);
        });
    });
}

/// Calls `run` for every task, whose rows of out and lse no other task touches. `N` strips are a unit of work.
pub(super) fn each_task<const N: usize>(
    inputs: &Inputs,
    out: &mut [f32],
    lse: &mut [f32],
    run: impl Fn(&Task<N>, &mut Ahead, Out, Out) + Sync,
) {
    let shape = inputs.shape;
    let width = VECTORS * simd::lanes(inputs.level);
    let (group, pairs) = (shape.group(), shape.batch * shape.n_kv_heads);
    let units = shape.seq_q.div_ceil(N * width) * group;
    let per_task = (pairs * units / TASKS).clamp(4 / N, STRIPS / N);
    let tasks = units.div_ceil(per_task);
    let out = Out::new(out, shape.n_heads * shape.d_value);
    let lse = Out::new(lse, shape.seq_q);
    // The last strips of causal attention take longest, so they come first.
    let task = |t: usize| {
        let (pair, task) = (t % pairs, tasks - 1 - t / pairs);
        let (b, kv_head) = (pair / shape.n_kv_heads, pair % shape.n_kv_heads);
        let strips = |u: usize| std::array::from_fn(|n| Strip::new(inputs, b, (u / group * N + n) * width));
        let own = task * per_task..units.min((task + 1) * per_task);
        Task { inputs, b, kv_head, units: own.map(|u| (strips(u), kv_head * group + u % group)).collect() }
    };
    (0..pairs * tasks).into_par_iter().with_max_len(1).for_each(|t| {
        let (own, next) = (task(t), (t + 1 < pairs * tasks).then(|| task(t + 1)));
        let mut ahead = own.ahead(out);
        next.iter().for_each(|next| next.announce(&mut ahead));
        ahead.spread(own.tiles());
        run(&own, &mut ahead, out, lse);
    });
}

/// How much room things take, in floats.
#[derive(Clone, Copy)]
struct Sizes {
    /// Queries of a strip.
    width: usize,
    d_head: usize,
    /// `d_value` in whole tiles.
    d_value: usize,
    /// Floats per row of copied values.
    v_row: usize,
}

impl Sizes {
    fn new(inputs: &Inputs) -> Self {
        let lanes = simd::lanes(inputs.level);
        Sizes {
            width: VECTORS * lanes,
            d_head: inputs.shape.d_head,
            d_value: inputs.shape.d_value.next_multiple_of(ROWS),
            v_row: inputs.shape.d_value.next_multiple_of(lanes),
        }
    }

    /// A block of keys and of values, and scores `[KEYS, width]`.
    fn keys(&self) -> usize {
        KEYS * (self.d_head + self.v_row + self.width)
    }

    /// q `[dh, width]`, out `[dv, width]`, and the running maximum and sum.
    fn unit(&self) -> usize {
        (self.d_head + self.d_value + 2) * self.width
    }
}

pub(super) struct Task<'a, const N: usize> {
    pub inputs: &'a Inputs<'a>,
    pub b: usize,
    pub kv_head: usize,
    /// Strips side by side and their head.
    pub units: Vec<([Strip; N], usize)>,
}

impl<const N: usize> Task<'_, N> {
    fn strips(&self) -> impl Iterator<Item = (&Strip, usize)> {
        self.units.iter().flat_map(|(strips, h)| strips.iter().map(|strip| (strip, *h)))
    }

    /// The blocks of `size` keys that any strip attends: first key and count.
    pub fn blocks(&self, size: usize) -> impl Iterator<Item = (usize, usize)> + use<N> {
        let (lo, hi) = self.strips().fold((0, 0), |keys, (strip, _)| hull(keys, strip.keys()));
        (lo / size * size..hi).step_by(size).map(move |block| {
            let from = block.max(lo / ROWS * ROWS);
            (from, hi.min(block + size) - from)
        })
    }

    /// The tiles of scores, about.
    fn tiles(&self) -> usize {
        self.strips().map(|(strip, _)| (strip.keys().1 - strip.keys().0) / ROWS).sum::<usize>() / N
    }

    fn keys_ahead(&self, (from, count): (usize, usize), ahead: &mut Ahead) {
        let (inputs, shape) = (self.inputs, self.inputs.shape);
        let key = inputs.key(self.b, from, self.kv_head);
        ahead.read(inputs.keys(inputs.k, key, count, shape.d_head));
        ahead.read(inputs.keys(inputs.v, key, count, shape.d_value));
    }

    /// What the task reads after its first block of keys, and what it writes.
    fn ahead(&self, out: Out) -> Ahead {
        let (mut ahead, width) = (Ahead::default(), self.inputs.shape.d_value);
        self.blocks(KEYS).skip(1).for_each(|block| self.keys_ahead(block, &mut ahead));
        for (strip, h) in self.strips().filter(|(strip, _)| strip.rows > 0) {
            let first = self.inputs.query(self.b, strip.first, h) * width;
            ahead.write(Out { ptr: out.ptr.wrapping_add(first), ..out }, (strip.rows, width));
        }
        ahead
    }

    /// What the task reads at first.
    fn announce(&self, ahead: &mut Ahead) {
        let (inputs, width) = (self.inputs, self.inputs.shape.d_head);
        for (strip, h) in self.strips().filter(|(strip, _)| strip.rows > 0) {
            ahead.read(inputs.queries(inputs.q, inputs.query(self.b, strip.first, h), strip.rows, width));
        }
        self.blocks(KEYS).take(1).for_each(|block| self.keys_ahead(block, ahead));
    }
}

impl Task<'_, 1> {
    /// # Safety
    /// The rows of the strips and heads in `out` and `lse` must be this call's alone.
    unsafe fn run(&self, sizes: Sizes, room: &mut [f32], ahead: &mut Ahead, out: Out, lse: Out) {
        let Task { inputs, b, kv_head, ref units } = *self;
        let (shape, level) = (inputs.shape, inputs.level);
        let (keys, rest) = room.split_at_mut(sizes.keys());
        let (k, keys) = keys.split_at_mut(KEYS * sizes.d_head);
        let (v, scores) = keys.split_at_mut(KEYS * sizes.v_row);
        for (([strip], h), unit) in units.iter().zip(rest.chunks_exact_mut(sizes.unit())) {
            let query = inputs.query(b, strip.first, *h);
            let q = inputs.queries(inputs.q, query, strip.rows, sizes.d_head);
            let [to, out, max, sum] = sizes.split(unit);
            simd::run(level, ToPanels { from: q, to, width: sizes.width, factor: Score::new(shape, *h).factor });
            out.fill(0.0);
            max.fill(f32::MIN);
            sum.fill(0.0);
        }
        for (from, count) in self.blocks(KEYS) {
            let key = inputs.key(b, from, kv_head);
            let padded = count.next_multiple_of(ROWS);
            let (from_k, to) = (inputs.keys(inputs.k, key, count, shape.d_head), &mut k[..padded * sizes.d_head]);
            simd::run(level, ToPanels { from: from_k, to, width: ROWS, factor: 1.0 });
            copy_rows(inputs.keys(inputs.v, key, count, shape.d_value), &mut v[..padded * sizes.v_row], sizes.v_row);
            for (([strip], h), unit) in units.iter().zip(rest.chunks_exact_mut(sizes.unit())) {
                let ranges = strip.within(from, count);
                let score = Score::new(shape, *h);
                let [q, out, max, sum] = sizes.split(unit);
                let (k, v) = (&*k, &*v);
                simd::run(
                    level,
                    Step { sizes, strip, score, from, ranges, k, v, q, scores, out, max, sum, ahead: &mut *ahead },
                );
            }
        }
        for (([strip], h), unit) in units.iter().zip(rest.chunks_exact_mut(sizes.unit())) {
            let [_, from, max, sum] = sizes.split(unit);
            // SAFETY: these rows are ours, by the caller's promise.
            unsafe {
                let lse = lse.row(b * shape.n_heads + h, strip.first, strip.rows);
                finish(strip, lse, max, sum);
                let to = out.offset(0, inputs.query(b, strip.first, *h) * shape.d_value);
                let (rows, cols) = (strip.rows, shape.d_value);
                FromPanel { from, width: sizes.width, factors: sum, to, rows, cols }.run(level);
            }
        }
    }
}

impl Sizes {
    fn split<'a>(&self, unit: &'a mut [f32]) -> [&'a mut [f32]; 4] {
        let (q, rest) = unit.split_at_mut(self.d_head * self.width);
        let (out, rest) = rest.split_at_mut(self.d_value * self.width);
        let (max, sum) = rest.split_at_mut(self.width);
        [q, out, max, sum]
    }
}

/// Turns each query's sum into what its output is to be multiplied by.
pub(super) fn finish(strip: &Strip, lse: &mut [f32], max: &[f32], sum: &mut [f32]) {
    for r in 0..strip.rows {
        lse[r] = max[r] * LN_2 + sum[r].ln();
        sum[r] = sum[r].recip();
        if strip.is_empty(r) {
            (lse[r], sum[r]) = (f32::NEG_INFINITY, 0.0);
        }
    }
    sum[strip.rows..].fill(0.0);
}

/// One strip of one head against a block of keys from `from`.
struct Step<'a> {
    sizes: Sizes,
    strip: &'a Strip,
    score: Score,
    from: usize,
    /// The keys of the block that each vector of queries needs.
    ranges: [(usize, usize); VECTORS],
    k: &'a [f32],
    v: &'a [f32],
    q: &'a [f32],
    scores: &'a mut [f32],
    out: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
    ahead: &'a mut Ahead,
}

impl Kernel for Step<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Sizes { width, d_head, d_value, v_row } = self.sizes;
        let (lo, hi) = hull(self.ranges[0], self.ranges[1]);
        assert!(width == VECTORS * S::LANES && hi <= KEYS && lo.is_multiple_of(ROWS) && hi.is_multiple_of(ROWS));
        assert!(self.k.len() >= hi * d_head && self.v.len() >= hi * v_row && self.q.len() >= d_head * width);
        assert!(self.scores.len() >= hi * width && self.out.len() >= d_value * width && v_row >= d_value);
        let mut top = [s.at(self.max, 0), s.at(self.max, S::LANES)];
        for j in (lo..hi).step_by(ROWS) {
            let [first, second] = self.ranges.map(|(lo, hi)| lo <= j && j < hi);
            // SAFETY: the keys j..j + 8 lie inside the block, by the assertions above.
            unsafe {
                match (first, second) {
                    (true, true) => self.scores::<S, 2>(s, j, 0, &mut top),
                    (true, false) => self.scores::<S, 1>(s, j, 0, &mut top),
                    (false, true) => self.scores::<S, 1>(s, j, 1, &mut top),
                    (false, false) => {}
                }
            }
        }
        let fade = [self.exponentials(s, 0, top[0]), self.exponentials(s, 1, top[1])];
        for i in (0..d_value).step_by(ROWS) {
            // SAFETY: columns i..i + 8 of `v` and rows i..i + 8 of `out` exist, by the assertions above.
            unsafe { self.values(s, i, fade) };
        }
    }
}

impl Step<'_> {
    /// The scores of eight keys from `j` of the block for `C` vectors of queries from `first`, and the largest so far.
    #[inline(always)]
    unsafe fn scores<S: Simd, const C: usize>(&mut self, s: S, j: usize, first: usize, top: &mut [S::V; VECTORS]) {
        let width = VECTORS * S::LANES;
        self.ahead.advance(s);
        // SAFETY: the rows from `j` of `k` and the vectors from `first` of `q`.
        let mut tile = unsafe {
            let left = Left { ptr: self.k.as_ptr().add(j * self.sizes.d_head), row: 1, step: ROWS };
            let right = Right { ptr: self.q.as_ptr().add(first * S::LANES), step: width };
            product::<S, C>(s, left, right, self.sizes.d_head)
        };
        self.score.apply(s, &mut tile, self.strip, self.from + j, first);
        // SAFETY: rows j..j + 8 of the scores.
        let to = unsafe { self.scores.as_mut_ptr().add(j * width + first * S::LANES) };
        for r in 0..ROWS {
            for c in 0..C {
                top[first + c] = s.max(top[first + c], tile[r][c]);
                // SAFETY: as above.
                unsafe { s.store(to.add(r * width + c * S::LANES), tile[r][c]) };
            }
        }
    }

    /// Turns the scores of vector `v` into exponentials relative to the largest so far, `top`; returns what earlier
    /// results are to be multiplied by.
    #[inline(always)]
    fn exponentials<S: Simd>(&mut self, s: S, v: usize, top: S::V) -> S::V {
        let (width, at) = (VECTORS * S::LANES, v * S::LANES);
        let fade = exp2(s, s.sub(s.at(self.max, at), top));
        s.put(self.max, at, top);
        let mut sum = s.mul(s.at(self.sum, at), fade);
        let (lo, hi) = self.ranges[v];
        for row in self.scores[lo * width..hi * width].chunks_exact_mut(width) {
            let e = exp2(s, s.sub(s.at(row, at), top));
            sum = s.add(sum, e);
            s.put(row, at, e);
        }
        s.put(self.sum, at, sum);
        fade
    }

    /// `out = out * fade + values · exponentials` for eight columns of the values from `i`.
    #[inline(always)]
    unsafe fn values<S: Simd>(&mut self, s: S, i: usize, fade: [S::V; VECTORS]) {
        let (width, row) = (VECTORS * S::LANES, self.sizes.v_row);
        // SAFETY: the keys of the ranges lie inside the block, and the scores of a range were computed.
        unsafe {
            let left = Left { ptr: self.v.as_ptr().add(i), row: 1, step: row };
            let right = Right { ptr: self.scores.as_ptr(), step: width };
            let tile = product_over(s, left, right, self.ranges);
            let to = self.out.as_mut_ptr().add(i * width);
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    let to = to.add(r * width + v * S::LANES);
                    s.store(to, s.fma(s.load(to), fade[v], tile[r][v]));
                }
            }
        }
    }
}
