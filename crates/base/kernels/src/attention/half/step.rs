//! The inner step of the backward pass: 64 queries of one head against a block of 64 keys, five products.

use super::super::score::{Score, each, exp2};
use super::super::step::cut;
use super::super::strip::{Strip, VECTORS};
use super::super::tile::{ROWS, Tile};
use super::tile::{Left, Products, Right};
use super::{KEYS, LIFT, QUERIES, STRIPS, WIDTH, active};
use crate::gemm::pack_half::scales;
use crate::simd::{Avx512, MAX_LANES, Simd};
use std::arch::x86_64::*;

/// How much room things take, in floats.
pub struct Sizes {
    d_head: usize,
    d_value: usize,
    /// Words per row of keys and of values: in whole tiles.
    pub k_row: usize,
    pub v_row: usize,
    /// Columns where they lie in lanes: in whole vectors of float16.
    pub k_cols: usize,
    pub v_cols: usize,
}

impl Sizes {
    pub fn new(d_head: usize, d_value: usize) -> Self {
        let [k_row, v_row] = [d_head, d_value].map(|d| d.next_multiple_of(ROWS));
        let [k_cols, v_cols] = [d_head, d_value].map(|d| d.next_multiple_of(WIDTH));
        Sizes { d_head, d_value, k_row, v_row, k_cols, v_cols }
    }

    fn of_block(&self) -> [usize; 5] {
        let [k, v, dk, dv] = [self.k_row, self.v_row, self.k_cols, self.v_cols].map(|width| width * KEYS);
        [k, v, dk, dv, MAX_LANES]
    }

    fn of_unit(&self) -> [usize; 8] {
        let halves = [self.d_head, self.d_value, self.k_cols, self.v_cols].map(|width| width * QUERIES / 2);
        [halves[0], halves[1], halves[2], halves[3], self.k_row * QUERIES, QUERIES, QUERIES, MAX_LANES]
    }

    /// Of a [`Block`].
    pub fn block(&self) -> usize {
        self.of_block().iter().sum()
    }

    /// Of [`Between`].
    pub fn between(&self) -> usize {
        BETWEEN.iter().sum()
    }

    /// Of a [`Unit`].
    pub fn unit(&self) -> usize {
        self.of_unit().iter().sum()
    }
}

/// A block of keys with its gradients.
pub struct Block<'a> {
    /// Words, `[KEYS, k_row]` and `[KEYS, v_row]`.
    pub k: &'a mut [f32],
    pub v: &'a mut [f32],
    /// `[KEYS, k_cols]` and `[KEYS, v_cols]`
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
    /// What the numbers of `k` and of `v` are to be multiplied by.
    pub info: &'a mut [f32],
}

impl<'a> Block<'a> {
    pub fn new(sizes: &Sizes, room: &'a mut [f32]) -> Self {
        let [k, v, dk, dv, info] = cut(room, sizes.of_block());
        Block { k, v, dk, dv, info }
    }
}

/// Of the pieces of [`Between`].
const BETWEEN: [usize; 3] = [KEYS * QUERIES, KEYS * QUERIES, KEYS * QUERIES / 2];

/// Room for what lies between queries and keys.
pub struct Between<'a> {
    /// Words, `[KEYS, QUERIES]`.
    probs: &'a mut [f32],
    /// The same, at first as floats.
    d_scores: &'a mut [f32],
    /// float16, `[KEYS, QUERIES]`.
    d_lanes: &'a mut [f32],
    scores: Products,
    slopes: Products,
}

impl<'a> Between<'a> {
    pub fn new(room: &'a mut [f32]) -> Self {
        let [probs, d_scores, d_lanes] = cut(room, BETWEEN);
        Between { probs, d_scores, d_lanes, scores: Products::new(), slopes: Products::new() }
    }
}

/// What is prepared of 64 queries of one head.
pub struct Unit<'a> {
    /// float16 `[dh, QUERIES]`, with the score's factor, and `[dv, QUERIES]`.
    pub q_lanes: &'a mut [f32],
    pub d_out_lanes: &'a mut [f32],
    /// float16 `[QUERIES, k_cols]` and `[QUERIES, v_cols]`.
    pub q: &'a mut [f32],
    pub d_out: &'a mut [f32],
    /// `[k_row, QUERIES]`
    pub dq: &'a mut [f32],
    /// Per query, in powers of two.
    pub lse: &'a mut [f32],
    /// Per query: d_out · out.
    pub delta: &'a mut [f32],
    /// What the numbers of `q_lanes`, of both `d_out` and of `q` are to be multiplied by.
    pub info: &'a mut [f32],
}

impl<'a> Unit<'a> {
    pub fn new(sizes: &Sizes, room: &'a mut [f32]) -> Self {
        let [q_lanes, d_out_lanes, q, d_out, dq, lse, delta, info] = cut(room, sizes.of_unit());
        Unit { q_lanes, d_out_lanes, q, d_out, dq, lse, delta, info }
    }
}

/// One block of keys from `from` against one unit.
pub struct Step<'a, 'b, 'c> {
    pub simd: Avx512,
    pub sizes: &'a Sizes,
    pub strips: &'a [Strip; STRIPS],
    pub score: Score,
    pub from: usize,
    /// The keys of the block that each strip needs.
    pub ranges: [(usize, usize); STRIPS],
    pub block: &'a mut Block<'b>,
    pub unit: Unit<'a>,
    pub between: &'a mut Between<'c>,
}

impl Step<'_, '_, '_> {
    /// # Safety
    /// The CPU must have AVX-512 FP16.
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    pub unsafe fn run(mut self) {
        for (lo, hi) in self.ranges {
            assert!(hi <= KEYS && lo.is_multiple_of(ROWS) && hi.is_multiple_of(ROWS));
        }
        let mut top = _mm512_setzero_si512();
        let tiles = |ranges| (0..KEYS).step_by(ROWS).map(move |j| (j, active(ranges, j)));
        let tiles = tiles(self.ranges).filter(|(_, (first, end))| first < end);
        // SAFETY: `j` stays within the block, whose pieces and those of the unit were cut by `sizes`.
        unsafe {
            for (j, strips) in tiles.clone() {
                self.products(j, strips);
                for v in VECTORS * strips.0..VECTORS * strips.1 {
                    top = self.slopes(j, v, top);
                }
            }
            let (up, down) = scales(_mm512_reduce_max_epu32(top));
            let down = down * (-LIFT).exp2();
            for (j, strips) in tiles {
                self.halve(j, strips, up);
                let (first, steps) = (strips.0 * WIDTH, (strips.1 - strips.0) * WIDTH);
                let Sizes { k_cols, v_cols, .. } = *self.sizes;
                let (block, unit, between) = (&mut *self.block, &self.unit, &mut *self.between);
                let (scale, sums) = (unit.info[1] * (-LIFT).exp2(), &mut between.scores);
                let left = &between.probs[j * QUERIES + first..];
                add_rows(left, (unit.d_out, v_cols), &mut block.dv[j * v_cols..], (first, steps), (scale, sums));
                let (scale, sums) = (unit.info[2] * down, &mut between.scores);
                let left = &between.d_scores[j * QUERIES + first..];
                add_rows(left, (unit.q, k_cols), &mut block.dk[j * k_cols..], (first, steps), (scale, sums));
            }
            self.query_slopes(down);
        }
    }

    /// The two products of eight keys from `j` with the queries of the given strips.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    unsafe fn products(&mut self, j: usize, strips: (usize, usize)) {
        let Sizes { d_head, d_value, k_row, v_row, .. } = *self.sizes;
        // SAFETY: eight rows from `j` of each block, and all columns of the unit.
        unsafe {
            let left = Left { ptr: self.block.k.as_ptr().add(j * k_row), row: k_row, step: 1 };
            let right = Right { ptr: self.unit.q_lanes.as_ptr().cast(), step: QUERIES };
            self.between.scores.compute(left, right, d_head, strips);
            let left = Left { ptr: self.block.v.as_ptr().add(j * v_row), row: v_row, step: 1 };
            let right = Right { ptr: self.unit.d_out_lanes.as_ptr().cast(), step: QUERIES };
            self.between.slopes.compute(left, right, d_value, strips);
        }
    }

    /// Probabilities and gradients of the scores of eight keys from `j` and vector `v`; the largest gradient so far,
    /// as bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    unsafe fn slopes(&mut self, j: usize, v: usize, mut top: __m512i) -> __m512i {
        let s = self.simd;
        let (strip, key, within) = (&self.strips[v / VECTORS], self.from + j, v % VECTORS);
        let mut scores: Tile<__m512, 1> = self.between.scores.tile(v, self.unit.info[0] * self.block.info[0]);
        self.score.apply(s, &mut scores, strip, key, within);
        let mut d: Tile<__m512, 1> = self.between.slopes.tile(v, self.unit.info[1] * self.block.info[1]);
        let (lse, delta) = (s.at(self.unit.lse, v * MAX_LANES), s.at(self.unit.delta, v * MAX_LANES));
        let lse = s.sub(lse, s.splat(LIFT));
        each!(d, _, _, x => s.sub(x, delta));
        if self.score.is_capped() {
            each!(d, r, _, x => s.mul(x, self.score.slope(s, scores[r][0], strip, key + r, within)));
        }
        if !strip.covers(key, within, 1) {
            each!(d, r, _, x => strip.keep(s, x, s.zero(), key + r, within));
        }
        let at = j * QUERIES + v * MAX_LANES;
        let probs = self.between.probs[at..].as_mut_ptr();
        let d_scores = self.between.d_scores[at..].as_mut_ptr();
        for r in 0..ROWS {
            let p = exp2(s, s.sub(scores[r][0], lse));
            let d = s.mul(p, d[r][0]);
            top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(d), _mm512_set1_epi32(i32::MAX)));
            let p = doubled(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(p));
            // SAFETY: row j + r of the block and vector v of its queries, by the caller's promise.
            unsafe {
                s.store(d_scores.add(r * QUERIES), d);
                s.store(probs.add(r * QUERIES), p);
            }
        }
        top
    }

    /// Makes float16 of the scores' gradients of eight keys from `j`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    unsafe fn halve(&mut self, j: usize, (first, end): (usize, usize), up: f32) {
        let (s, up) = (self.simd, self.simd.splat(up));
        for r in j..j + ROWS {
            for at in (r * QUERIES + first * WIDTH..r * QUERIES + end * WIDTH).step_by(MAX_LANES) {
                let d = s.mul(s.at(self.between.d_scores, at), up);
                let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(d);
                // SAFETY: as many halves as gradients.
                unsafe { _mm256_storeu_si256(self.between.d_lanes.as_mut_ptr().add(at / 2).cast(), half) };
                s.put(self.between.d_scores, at, doubled(half));
            }
        }
    }

    /// Adds to the gradients of the queries.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    unsafe fn query_slopes(&mut self, down: f32) {
        let (k_row, sums) = (self.sizes.k_row, &mut self.between.scores);
        let scale = _mm512_set1_ps(down * self.block.info[0]);
        for i in (0..k_row).step_by(ROWS) {
            // SAFETY: columns i..i + 8 of the keys, their scores' gradients, and those of the queries.
            unsafe {
                let left = Left { ptr: self.block.k.as_ptr().add(i), row: 1, step: k_row };
                let right = Right { ptr: self.between.d_lanes.as_ptr().cast(), step: QUERIES };
                sums.compute_over(left, right, self.ranges);
                for v in (0..QUERIES / MAX_LANES).filter(|v| self.ranges[v / VECTORS] != (0, 0)) {
                    sums.add(v, scale, self.unit.dq.as_mut_ptr().add(i * QUERIES + v * MAX_LANES), QUERIES);
                }
            }
        }
    }
}

/// Each number twice in a word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn doubled(half: __m256i) -> __m512 {
    const TWICE: [u16; 32] = {
        let mut at = [0; 32];
        let mut i = 0;
        while i < 32 {
            at[i] = i as u16 / 2;
            i += 1;
        }
        at
    };
    // SAFETY: a vector of numbers.
    let twice = unsafe { _mm512_loadu_si512(TWICE.as_ptr().cast()) };
    _mm512_castsi512_ps(_mm512_permutexvar_epi16(twice, _mm512_castsi256_si512(half)))
}

/// Adds to eight rows of `sums` the products of eight rows of the words `left` with `steps` queries from `first` of
/// `right`, times a scale.
///
/// # Safety
/// The CPU must have AVX-512 FP16; `left` has eight rows of all queries, `right` a row of `cols` numbers for each query,
/// `sums` eight such rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
unsafe fn add_rows(
    left: &[f32],
    (right, cols): (&[f32], usize),
    sums: &mut [f32],
    (first, steps): (usize, usize),
    (scale, products): (f32, &mut Products),
) {
    let (left, scale) = (Left { ptr: left.as_ptr(), row: QUERIES, step: 1 }, _mm512_set1_ps(scale));
    for from in (0..cols).step_by(QUERIES) {
        let vectors = (cols - from).min(QUERIES) / WIDTH;
        // SAFETY: the caller's promise.
        unsafe {
            let right = Right { ptr: right.as_ptr().cast::<u16>().add(first * cols + from), step: cols };
            products.compute(left, right, steps, (0, vectors));
            for v in 0..vectors * WIDTH / MAX_LANES {
                products.add(v, scale, sums.as_mut_ptr().add(from + v * MAX_LANES), cols);
            }
        }
    }
}
