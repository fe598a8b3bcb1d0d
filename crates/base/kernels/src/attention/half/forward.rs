//! The forward pass: two products per block of keys and unit of queries.

use super::super::ahead::Ahead;
use super::super::forward::{Task, each_task, finish};
use super::super::pack::FromPanel;
use super::super::score::{Score, exp2};
use super::super::strip::{Strip, VECTORS};
use super::super::tile::ROWS;
use super::super::{Inputs, hull};
use super::tile::{Left, Products, Right};
use super::{KEYS, LIFT, QUERIES, STRIPS, WIDTH, active, pack, within};
use crate::gemm::Out;
use crate::scratch;
use crate::simd::{Avx512, MAX_LANES, Simd};
use std::arch::x86_64::*;

/// Attention of many queries. The CPU must have AVX-512 FP16.
pub fn forward(inputs: &Inputs, out: &mut [f32], lse: &mut [f32]) {
    let sizes = Sizes::new(inputs);
    each_task::<STRIPS>(inputs, out, lse, |task, ahead, out, lse| {
        // SAFETY: the rows of these strips and heads in `out` and `lse` are this task's, and whoever chose float16 saw
        // that the CPU has it.
        scratch::with(sizes.block() + task.units.len() * sizes.unit(), |room| unsafe {
            run(task, &sizes, room, ahead, (out, lse));
        });
    });
}

/// How much room things take, in floats.
struct Sizes {
    d_head: usize,
    /// Words per row of keys and of values: in whole tiles.
    k_row: usize,
    v_row: usize,
}

impl Sizes {
    fn new(inputs: &Inputs) -> Self {
        let (d_head, d_value) = (inputs.shape.d_head, inputs.shape.d_value);
        Sizes { d_head, k_row: d_head.next_multiple_of(ROWS), v_row: d_value.next_multiple_of(ROWS) }
    }

    /// Keys and values, scores `[KEYS, QUERIES]` and as many probabilities.
    fn block(&self) -> usize {
        KEYS * (self.k_row + self.v_row + QUERIES + QUERIES / 2)
    }

    /// q `[dh, QUERIES]`, out `[dv, QUERIES]`, the running maximum and sum, and the scale of q.
    fn unit(&self) -> usize {
        QUERIES * (self.d_head / 2 + self.d_head % 2 + self.v_row + 2) + MAX_LANES
    }

    fn split<'a>(&self, unit: &'a mut [f32]) -> Unit<'a> {
        let (q, rest) = unit.split_at_mut(QUERIES / 2 * self.d_head.next_multiple_of(2));
        let (out, rest) = rest.split_at_mut(QUERIES * self.v_row);
        let (max, rest) = rest.split_at_mut(QUERIES);
        let (sum, rest) = rest.split_at_mut(QUERIES);
        Unit { q: &mut q[..QUERIES / 2 * self.d_head], out, max, sum, scale: &mut rest[0] }
    }
}

/// What belongs to 64 queries of one head.
struct Unit<'a> {
    q: &'a mut [f32],
    out: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
    scale: &'a mut f32,
}

/// # Safety
/// The rows of the strips and heads in `out` and `lse` must be this call's alone; the CPU must have AVX-512 FP16.
#[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
unsafe fn run(task: &Task<STRIPS>, sizes: &Sizes, room: &mut [f32], ahead: &mut Ahead, (out, lse): (Out, Out)) {
    let Task { inputs, b, kv_head, ref units } = *task;
    let shape = inputs.shape;
    let Some(simd) = Avx512::new() else { return };
    let (block, rest) = room.split_at_mut(sizes.block());
    let (k, block) = block.split_at_mut(KEYS * sizes.k_row);
    let (v, block) = block.split_at_mut(KEYS * sizes.v_row);
    let (scores, probs) = block.split_at_mut(KEYS * QUERIES);
    for ((strips, h), unit) in units.iter().zip(rest.chunks_exact_mut(sizes.unit())) {
        let rows = strips.iter().map(|strip| strip.rows).sum();
        let q = inputs.queries(inputs.q, inputs.query(b, strips[0].first, *h), rows, sizes.d_head);
        let unit = sizes.split(unit);
        // SAFETY: the CPU has the instructions.
        *unit.scale = unsafe { pack::lanes(q, unit.q, Score::new(shape, *h).factor) };
        unit.out.fill(0.0);
        unit.max.fill(f32::MIN);
        unit.sum.fill(0.0);
    }
    for (from, count) in task.blocks(KEYS) {
        let (key, padded) = (inputs.key(b, from, kv_head), count.next_multiple_of(ROWS));
        let keys = inputs.keys(inputs.k, key, count, shape.d_head);
        let values = inputs.keys(inputs.v, key, count, shape.d_value);
        // SAFETY: the CPU has the instructions.
        let scales = unsafe {
            (
                pack::words(keys, &mut k[..padded * sizes.k_row], sizes.k_row),
                pack::words(values, &mut v[..padded * sizes.v_row], sizes.v_row),
            )
        };
        for ((strips, h), unit) in units.iter().zip(rest.chunks_exact_mut(sizes.unit())) {
            let ranges = within(strips, from, count);
            if ranges == [(0, 0); STRIPS] {
                continue;
            }
            let (unit, score) = (sizes.split(unit), Score::new(shape, *h));
            let (scores, probs) = (&mut *scores, &mut *probs);
            let step = Step { simd, sizes, strips, score, from, ranges, k, v, scales, scores, probs, unit };
            // SAFETY: the CPU has the instructions.
            unsafe { step.run(ahead) };
        }
    }
    for ((strips, h), unit) in units.iter().zip(rest.chunks_exact_mut(sizes.unit())) {
        let Unit { out: from, max, sum, .. } = sizes.split(unit);
        max.iter_mut().for_each(|max| *max -= LIFT);
        let each = strips.iter().zip(max.chunks_exact(WIDTH)).zip(sum.chunks_exact_mut(WIDTH));
        for ((strip, max), sum) in each {
            // SAFETY: these rows are ours, by the caller's promise.
            let lse = unsafe { lse.row(b * shape.n_heads + h, strip.first.min(shape.seq_q), strip.rows) };
            finish(strip, lse, max, sum);
        }
        let (rows, cols) = (strips.iter().map(|strip| strip.rows).sum(), shape.d_value);
        // SAFETY: as above.
        unsafe {
            let to = out.offset(0, inputs.query(b, strips[0].first, *h) * cols);
            FromPanel { from, width: QUERIES, factors: sum, to, rows, cols }.run(inputs.level);
        }
    }
}

/// One unit against a block of keys from `from`.
struct Step<'a> {
    simd: Avx512,
    sizes: &'a Sizes,
    strips: &'a [Strip; STRIPS],
    score: Score,
    from: usize,
    /// The keys of the block that each strip needs.
    ranges: [(usize, usize); STRIPS],
    k: &'a [f32],
    v: &'a [f32],
    /// Of `k` and `v`.
    scales: (f32, f32),
    scores: &'a mut [f32],
    probs: &'a mut [f32],
    unit: Unit<'a>,
}

impl Step<'_> {
    /// # Safety
    /// The CPU must have AVX-512 FP16.
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    unsafe fn run(mut self, ahead: &mut Ahead) {
        let Sizes { d_head, k_row, v_row } = *self.sizes;
        let (lo, hi) = hull(self.ranges[0], self.ranges[1]);
        assert!(hi <= KEYS && lo.is_multiple_of(ROWS) && hi.is_multiple_of(ROWS) && k_row >= d_head);
        assert!(self.k.len() >= hi * k_row && self.v.len() >= hi * v_row && self.unit.q.len() >= d_head * QUERIES / 2);
        assert!(self.scores.len() >= KEYS * QUERIES && self.probs.len() >= KEYS * QUERIES / 2);
        assert!(self.unit.out.len() >= v_row * QUERIES);
        let mut top: [_; QUERIES / MAX_LANES] = std::array::from_fn(|v| self.simd.at(self.unit.max, v * MAX_LANES));
        let mut products = Products::new();
        for j in (lo..hi).step_by(ROWS) {
            let (first, end) = active(self.ranges, j);
            if first < end {
                ahead.advance(self.simd);
                // SAFETY: the keys j..j + 8 lie inside the block, by the assertions above.
                unsafe { self.scores(j, (first, end), &mut products, &mut top) };
            }
        }
        let mut fade = top;
        for v in 0..fade.len() {
            fade[v] = self.exponentials(v, top[v]);
        }
        for i in (0..v_row).step_by(ROWS) {
            // SAFETY: columns i..i + 8 of `v` and rows i..i + 8 of `out` exist, by the assertions above.
            unsafe { self.values(i, &mut products, &fade) };
        }
    }

    /// The scores of eight keys from `j` of the block for the strips `first..end`, and the largest so far.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    unsafe fn scores(
        &mut self,
        j: usize,
        (first, end): (usize, usize),
        products: &mut Products,
        top: &mut [__m512; QUERIES / MAX_LANES],
    ) {
        let (s, k_row) = (self.simd, self.sizes.k_row);
        // SAFETY: the rows from `j` of `k`, and all of `q`.
        unsafe {
            let left = Left { ptr: self.k.as_ptr().add(j * k_row), row: k_row, step: 1 };
            let right = Right { ptr: self.unit.q.as_ptr().cast(), step: QUERIES };
            products.compute(left, right, self.sizes.d_head, (first, end));
        }
        let scale = *self.unit.scale * self.scales.0;
        for v in VECTORS * first..VECTORS * end {
            let mut tile = products.tile(v, scale);
            self.score.apply(s, &mut tile, &self.strips[v / VECTORS], self.from + j, v % VECTORS);
            for r in 0..ROWS {
                top[v] = s.max(top[v], tile[r][0]);
                s.put(self.scores, (j + r) * QUERIES + v * MAX_LANES, tile[r][0]);
            }
        }
    }

    /// Turns the scores of vector `v` into probabilities relative to the largest so far, `top`; returns what earlier
    /// results are to be multiplied by.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    fn exponentials(&mut self, v: usize, top: __m512) -> __m512 {
        let (s, at) = (self.simd, v * MAX_LANES);
        let fade = exp2(s, s.sub(s.at(self.unit.max, at), top));
        s.put(self.unit.max, at, top);
        let mut sum = s.mul(s.at(self.unit.sum, at), fade);
        let (lo, hi) = self.ranges[v / VECTORS];
        let lifted = s.sub(top, s.splat(LIFT));
        for row in (lo * QUERIES + at..hi * QUERIES).step_by(QUERIES) {
            let e = exp2(s, s.sub(s.at(self.scores, row), lifted));
            sum = s.add(sum, e);
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(e);
            // SAFETY: as many halves as scores, by the assertions in `run`.
            unsafe { _mm256_storeu_si256(self.probs.as_mut_ptr().add(row / 2).cast(), half) };
        }
        s.put(self.unit.sum, at, sum);
        fade
    }

    /// `out = out * fade + values · probabilities` for eight columns of the values from `i`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    unsafe fn values(&mut self, i: usize, products: &mut Products, fade: &[__m512; QUERIES / MAX_LANES]) {
        let (s, v_row) = (self.simd, self.sizes.v_row);
        // SAFETY: the keys of the ranges lie inside the block, and their probabilities were computed.
        unsafe {
            let left = Left { ptr: self.v.as_ptr().add(i), row: 1, step: v_row };
            let right = Right { ptr: self.probs.as_ptr().cast(), step: QUERIES };
            products.compute_over(left, right, self.ranges);
        }
        let scale = s.splat(self.scales.1);
        for v in (0..fade.len()).filter(|v| self.ranges[v / VECTORS] != (0, 0)) {
            for r in 0..ROWS {
                let at = (i + r) * QUERIES + v * MAX_LANES;
                s.put(self.unit.out, at, s.fma(products.at(r, v), scale, s.mul(s.at(self.unit.out, at), fade[v])));
            }
        }
    }
}
