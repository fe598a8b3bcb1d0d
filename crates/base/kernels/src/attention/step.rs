//! The inner step of the backward pass: some strips of one head against a block of keys, five products.

use super::Inputs;
use super::score::{Score, each, exp2};
use super::strip::{Strip, VECTORS};
use super::tile::{Left, ROWS, Right, product, product_over};
use crate::simd::{self, Kernel, Simd};

/// Keys per block.
pub const KEYS: usize = 64;
/// Strips that are worked on together: the length of the products that sum over queries.
pub const STRIPS: usize = 2;
/// Vectors of queries in all of them.
const ALL: usize = STRIPS * VECTORS;

/// How much room things take, in floats.
pub struct Sizes {
    /// Queries of a strip.
    pub width: usize,
    pub d_head: usize,
    pub d_value: usize,
    /// Floats per row where rows are copied.
    pub k_row: usize,
    pub v_row: usize,
}

impl Sizes {
    pub fn new(inputs: &Inputs) -> Self {
        let lanes = simd::lanes(inputs.level);
        let (d_head, d_value) = (inputs.shape.d_head, inputs.shape.d_value);
        let (k_row, v_row) = (d_head.next_multiple_of(lanes), d_value.next_multiple_of(lanes));
        Sizes { width: VECTORS * lanes, d_head, d_value, k_row, v_row }
    }

    /// `d_head` in whole tiles.
    fn d_tiles(&self) -> usize {
        self.d_head.next_multiple_of(ROWS)
    }

    /// Of a [`Block`].
    pub fn block(&self) -> usize {
        KEYS * (self.d_head + self.d_value + 2 * self.k_row + self.v_row + 2 * STRIPS * self.width)
    }

    /// Of a [`Unit`].
    pub fn unit(&self) -> usize {
        STRIPS * self.width * (self.d_head + self.d_value + self.d_tiles() + self.k_row + self.v_row + 2)
    }
}

/// A block of keys with its gradients, and room for what lies between queries and keys.
pub struct Block<'a> {
    /// Eight keys side by side: `[KEYS / 8, dh, 8]` and `[KEYS / 8, dv, 8]`.
    pub k_panels: &'a mut [f32],
    pub v_panels: &'a mut [f32],
    /// `[KEYS, k_row]`
    pub k: &'a mut [f32],
    pub dk: &'a mut [f32],
    /// `[KEYS, v_row]`
    pub dv: &'a mut [f32],
    /// `[KEYS, STRIPS * width]`
    probs: &'a mut [f32],
    d_scores: &'a mut [f32],
}

impl<'a> Block<'a> {
    pub fn new(sizes: &Sizes, room: &'a mut [f32]) -> Self {
        let (k_row, v_row, row) = (sizes.k_row, sizes.v_row, STRIPS * sizes.width);
        let widths = [sizes.d_head, sizes.d_value, k_row, k_row, v_row, row, row];
        let [k_panels, v_panels, k, dk, dv, probs, d_scores] = cut(room, widths.map(|w| w * KEYS));
        Block { k_panels, v_panels, k, dk, dv, probs, d_scores }
    }
}

/// What is prepared of the queries of one head.
pub struct Unit<'a> {
    /// Per strip `[dh, width]`, with the score's factor.
    pub q_lanes: &'a mut [f32],
    /// Per strip `[dv, width]`.
    pub d_out_lanes: &'a mut [f32],
    /// Per strip `[dh in whole tiles, width]`, of the raw products.
    pub dq: &'a mut [f32],
    /// `[STRIPS * width, k_row]` and `[STRIPS * width, v_row]`.
    pub q: &'a mut [f32],
    pub d_out: &'a mut [f32],
    /// Per query, in powers of two.
    pub lse: &'a mut [f32],
    /// Per query: d_out · out.
    pub delta: &'a mut [f32],
}

impl<'a> Unit<'a> {
    pub fn new(sizes: &Sizes, room: &'a mut [f32]) -> Self {
        let widths = [sizes.d_head, sizes.d_value, sizes.d_tiles(), sizes.k_row, sizes.v_row, 1, 1];
        let [q_lanes, d_out_lanes, dq, q, d_out, lse, delta] = cut(room, widths.map(|w| w * STRIPS * sizes.width));
        Unit { q_lanes, d_out_lanes, dq, q, d_out, lse, delta }
    }
}

/// Cuts a buffer into pieces.
pub(super) fn cut<const N: usize>(mut room: &mut [f32], lengths: [usize; N]) -> [&mut [f32]; N] {
    lengths.map(|len| {
        let (piece, rest) = std::mem::take(&mut room).split_at_mut(len);
        room = rest;
        piece
    })
}

/// One block of keys from `from` against the strips of one head.
pub struct Step<'a, 'b> {
    pub sizes: &'a Sizes,
    pub strips: &'a [Strip; STRIPS],
    pub score: Score,
    pub from: usize,
    /// The keys of the block that each vector of queries needs.
    pub ranges: [[(usize, usize); VECTORS]; STRIPS],
    pub block: &'a mut Block<'b>,
    pub unit: Unit<'a>,
}

impl Kernel for Step<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        self.check::<S>();
        // SAFETY: `check` compared all lengths with what the steps below touch.
        unsafe {
            for n in 0..STRIPS {
                self.all_slopes(s, n);
            }
            for j in (0..KEYS).step_by(ROWS) {
                let active = self.active(j);
                if let Some(first) = active.iter().position(|a| *a) {
                    let end = ALL - active.iter().rev().take_while(|a| !**a).count();
                    self.clear(s, j, active, (first, end));
                    let queries = (first * S::LANES, end * S::LANES);
                    let (row, width) = (self.sizes.v_row, ALL * S::LANES);
                    let block = &mut *self.block;
                    add_rows(s, &block.probs[j * width..], (self.unit.d_out, row), &mut block.dv[j * row..], queries);
                    let row = self.sizes.k_row;
                    add_rows(s, &block.d_scores[j * width..], (self.unit.q, row), &mut block.dk[j * row..], queries);
                }
            }
            for n in 0..STRIPS {
                self.query_slopes(s, n);
            }
        }
    }
}

impl Step<'_, '_> {
    fn check<S: Simd>(&self) {
        let (sizes, block, unit) = (self.sizes, &self.block, &self.unit);
        let width = VECTORS * S::LANES;
        assert_eq!(sizes.width, width);
        for (lo, hi) in self.ranges.as_flattened() {
            assert!(*hi <= KEYS && lo.is_multiple_of(ROWS) && hi.is_multiple_of(ROWS));
        }
        assert!(sizes.k_row >= sizes.d_tiles() && sizes.k_row.is_multiple_of(S::LANES));
        assert!(sizes.v_row >= sizes.d_value && sizes.v_row.is_multiple_of(S::LANES));
        assert!(block.k.len() == KEYS * sizes.k_row && block.dk.len() == block.k.len());
        assert!(block.k_panels.len() == KEYS * sizes.d_head && block.v_panels.len() == KEYS * sizes.d_value);
        assert!(block.dv.len() == KEYS * sizes.v_row);
        assert!(block.probs.len() == KEYS * STRIPS * width && block.d_scores.len() == block.probs.len());
        let queries = STRIPS * width;
        assert!(unit.q_lanes.len() == queries * sizes.d_head && unit.d_out_lanes.len() == queries * sizes.d_value);
        assert!(unit.dq.len() == queries * sizes.d_tiles() && unit.q.len() == queries * sizes.k_row);
        assert!(unit.d_out.len() == queries * sizes.v_row && unit.lse.len() == queries && unit.delta.len() == queries);
    }

    /// Which vectors of queries attend any of eight keys from `j`.
    #[inline(always)]
    fn active(&self, j: usize) -> [bool; ALL] {
        let mut active = [false; ALL];
        for (a, (lo, hi)) in active.iter_mut().zip(self.ranges.as_flattened()) {
            *a = *lo <= j && j < *hi;
        }
        active
    }

    /// Probabilities and gradients of the raw products of strip `n`.
    #[inline(always)]
    unsafe fn all_slopes<S: Simd>(&mut self, s: S, n: usize) {
        for j in (0..KEYS).step_by(ROWS) {
            let active = self.active(j);
            // SAFETY: passed on.
            unsafe {
                match (active[n * VECTORS], active[n * VECTORS + 1]) {
                    (true, true) => self.slopes::<S, 2>(s, n, j, 0),
                    (true, false) => self.slopes::<S, 1>(s, n, j, 0),
                    (false, true) => self.slopes::<S, 1>(s, n, j, 1),
                    (false, false) => {}
                }
            }
        }
    }

    /// The same for eight keys from `j` and `C` vectors of queries from `first` of the strip.
    #[inline(always)]
    unsafe fn slopes<S: Simd, const C: usize>(&mut self, s: S, n: usize, j: usize, first: usize) {
        let Sizes { width, d_head, d_value, .. } = *self.sizes;
        let (strip, key, at) = (&self.strips[n], self.from + j, first * S::LANES);
        let queries = n * width + at;
        let stride = STRIPS * width;
        // SAFETY: eight rows from `j` of each block, and vectors of strip `n`.
        unsafe {
            let left = Left { ptr: self.block.k_panels.as_ptr().add(j * d_head), row: 1, step: ROWS };
            let right = Right { ptr: self.unit.q_lanes.as_ptr().add(n * width * d_head + at), step: width };
            let mut scores = product::<S, C>(s, left, right, d_head);
            self.score.apply(s, &mut scores, strip, key, first);
            let probs = self.block.probs.as_mut_ptr().add(j * stride + queries);
            for r in 0..ROWS {
                for c in 0..C {
                    s.store(probs.add(r * stride + c * S::LANES), scores[r][c]);
                }
            }
            let left = Left { ptr: self.block.v_panels.as_ptr().add(j * d_value), row: 1, step: ROWS };
            let right = Right { ptr: self.unit.d_out_lanes.as_ptr().add(n * width * d_value + at), step: width };
            let mut d = product::<S, C>(s, left, right, d_value);
            for c in 0..C {
                let delta = s.at(self.unit.delta, queries + c * S::LANES);
                (0..ROWS).for_each(|r| d[r][c] = s.sub(d[r][c], delta));
            }
            if self.score.is_capped() {
                each!(d, r, c, x => {
                    let score = s.load(probs.add(r * stride + c * S::LANES));
                    s.mul(x, self.score.slope(s, score, strip, key + r, first + c))
                });
            }
            if !strip.covers(key, first, C) {
                each!(d, r, c, x => strip.keep(s, x, s.zero(), key + r, first + c));
            }
            let d_scores = self.block.d_scores.as_mut_ptr().add(j * stride + queries);
            for c in 0..C {
                let lse = s.at(self.unit.lse, queries + c * S::LANES);
                for r in 0..ROWS {
                    let to = r * stride + c * S::LANES;
                    let p = exp2(s, s.sub(s.load(probs.add(to)), lse));
                    s.store(probs.add(to), p);
                    s.store(d_scores.add(to), s.mul(p, d[r][c]));
                }
            }
        }
    }

    /// Zeros for the vectors between the first and the last that attend any of eight keys from `j`, and do not.
    #[inline(always)]
    fn clear<S: Simd>(&mut self, s: S, j: usize, active: [bool; ALL], (first, end): (usize, usize)) {
        for v in (first..end).filter(|v| !active[*v]) {
            for r in j..j + ROWS {
                let at = (r * ALL + v) * S::LANES;
                s.put(self.block.probs, at, s.zero());
                s.put(self.block.d_scores, at, s.zero());
            }
        }
    }

    /// Adds to the gradients of the queries of strip `n`.
    #[inline(always)]
    unsafe fn query_slopes<S: Simd>(&mut self, s: S, n: usize) {
        let ranges = self.ranges[n];
        if ranges.iter().all(|(lo, hi)| lo == hi) {
            return;
        }
        let (width, row, tiles) = (VECTORS * S::LANES, self.sizes.k_row, self.sizes.d_tiles());
        for i in (0..tiles).step_by(ROWS) {
            // SAFETY: columns i..i + 8 of the keys, the vectors of strip `n`, and their gradients.
            unsafe {
                let left = Left { ptr: self.block.k.as_ptr().add(i), row: 1, step: row };
                let right = Right { ptr: self.block.d_scores.as_ptr().add(n * width), step: STRIPS * width };
                let tile = product_over(s, left, right, ranges);
                let to = self.unit.dq.as_mut_ptr().add((n * tiles + i) * width);
                for r in 0..ROWS {
                    for v in 0..VECTORS {
                        let to = to.add(r * width + v * S::LANES);
                        s.store(to, s.add(s.load(to), tile[r][v]));
                    }
                }
            }
        }
    }
}

/// Adds to eight rows of `sums` the products of eight rows of `left` with the queries `from..to` of `right`.
///
/// # Safety
/// `left` has eight rows of all queries, `right` a row of `row` floats for each query, `sums` eight such rows.
#[inline(always)]
unsafe fn add_rows<S: Simd>(
    s: S,
    left: &[f32],
    (right, row): (&[f32], usize),
    sums: &mut [f32],
    (from, to): (usize, usize),
) {
    let vectors = row / S::LANES;
    let left = Left { ptr: left.as_ptr().wrapping_add(from), row: ALL * S::LANES, step: 1 };
    let mut v = 0;
    while v < vectors {
        let right = Right { ptr: right.as_ptr().wrapping_add(from * row + v * S::LANES), step: row };
        let sums = sums.as_mut_ptr().wrapping_add(v * S::LANES);
        // SAFETY: the caller's promise.
        unsafe {
            match vectors - v {
                1 => add_tile::<S, 1>(s, product(s, left, right, to - from), sums, row),
                3 => add_tile::<S, 3>(s, product(s, left, right, to - from), sums, row),
                _ => add_tile::<S, 2>(s, product(s, left, right, to - from), sums, row),
            }
        }
        v += match vectors - v {
            1 => 1,
            3 => 3,
            _ => 2,
        };
    }
}

#[inline(always)]
unsafe fn add_tile<S: Simd, const C: usize>(s: S, tile: [[S::V; C]; ROWS], sums: *mut f32, row: usize) {
    for r in 0..ROWS {
        for c in 0..C {
            // SAFETY: the caller's promise: eight rows of `row` floats.
            unsafe {
                let to = sums.add(r * row + c * S::LANES);
                s.store(to, s.add(s.load(to), tile[r][c]));
            }
        }
    }
}
