//! Many queries: a task is a block of queries of one key head's group.

use super::softmax::{Online, Scores};
use super::{Inputs, KEYS, QUERIES, QueryBlock};
use crate::gemm::{Mat, Out, product_serial};
use crate::{scratch, simd};
use rayon::prelude::*;

pub(super) fn forward(inputs: &Inputs, out: &mut [f32], lse: &mut [f32]) {
    let shape = inputs.shape;
    let blocks = shape.seq_q.div_ceil(QUERIES);
    let out = Out::new(out, inputs.query_stride());
    let lse = Out::new(lse, shape.seq_q);
    (0..shape.batch * shape.n_kv_heads * blocks).into_par_iter().with_max_len(1).for_each(|t| {
        let (b, kv_head, block) = (t / blocks / shape.n_kv_heads, t / blocks % shape.n_kv_heads, t % blocks);
        let block = QueryBlock::new(inputs, b, block * QUERIES);
        for h in kv_head * shape.group()..(kv_head + 1) * shape.group() {
            // SAFETY: the rows of this block and head in `out` and `lse` are this task's.
            unsafe {
                let out = out.offset(0, inputs.query_at(b, block.first, h));
                let lse = lse.row(b * shape.n_heads + h, block.first, block.rows);
                head(inputs, block, h, out, lse);
            }
        }
    });
}

/// One block of queries of head `h`.
///
/// # Safety
/// `out` must be writable for the block's rows of `d_head` floats, by this call alone.
unsafe fn head(inputs: &Inputs, block: QueryBlock, h: usize, out: Out, lse: &mut [f32]) {
    let (shape, level, rows) = (inputs.shape, inputs.level, block.rows);
    let kv_head = h / shape.group();
    let q = inputs.queries(inputs.q, inputs.query_at(block.b, block.first, h), rows);
    let (mut max, mut sum, mut fade) = ([f32::NEG_INFINITY; QUERIES], [0.0; QUERIES], [0.0; QUERIES]);
    scratch::with(QUERIES * KEYS, |scores| {
        for (j, keys) in block.key_blocks() {
            let at = inputs.key_at(block.b, j, kv_head);
            let (k, v) = (inputs.keys(inputs.k, at, keys), inputs.keys(inputs.v, at, keys));
            let data = &mut scores[..rows * keys];
            let first = j == block.keys.0;
            let bounds = block.bounds(inputs, j, keys);
            // SAFETY: `data` holds rows x keys; the views were cut from checked slices; `out` is the caller's promise.
            unsafe {
                product_serial(level, Out::new(data, keys), q, k.t(), false);
                let scores = Scores { data: &mut *data, cols: keys, bounds: &bounds[..rows], shape };
                simd::run(level, Online { scores, max: &mut max, sum: &mut sum, fade: &mut fade });
                if !first {
                    multiply_rows(out, shape.d_head, &fade[..rows]);
                }
                let probs = Mat::new(data, rows, keys);
                product_serial(level, out, probs, v, !first);
            }
        }
    });
    for r in 0..rows {
        lse[r] = max[r] + sum[r].ln();
        fade[r] = if sum[r] == 0.0 { 0.0 } else { sum[r].recip() };
    }
    // SAFETY: the caller's promise.
    unsafe {
        if block.keys.0 == block.keys.1 {
            (0..rows).for_each(|r| out.row(r, 0, shape.d_head).fill(0.0));
        } else {
            multiply_rows(out, shape.d_head, &fade[..rows]);
        }
    }
}

/// Multiplies row `r` of `out` by `factors[r]`.
///
/// # Safety
/// The rows must be writable, by this call alone.
unsafe fn multiply_rows(out: Out, d: usize, factors: &[f32]) {
    for (r, &f) in factors.iter().enumerate() {
        if f != 1.0 {
            // SAFETY: the caller's promise.
            unsafe { out.row(r, 0, d) }.iter_mut().for_each(|x| *x *= f);
        }
    }
}
