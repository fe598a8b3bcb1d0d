//! Few queries over many keys (generation): a task is a stretch of keys of one key head, for all queries that share
//! it; the stretches' results are joined in order.

use super::softmax::{Online, Row};
use super::{Inputs, hull, overlap};
use crate::gemm::{Mat, Out, product_serial};
use crate::{scratch, simd};
use rayon::prelude::*;

/// Up to this many queries per sequence come here.
pub const MAX_QUERIES: usize = 8;
/// Keys per task.
const KEYS: usize = 512;

pub(super) fn forward(inputs: &Inputs, out: &mut [f32], lse: &mut [f32]) {
    let shape = inputs.shape;
    let parts = shape.seq_k.div_ceil(KEYS);
    let rows = shape.group() * shape.seq_q;
    let part_len = rows * (shape.d_value + 2);
    let pairs = shape.batch * shape.n_kv_heads;
    if pairs == 0 || rows == 0 {
        return;
    }
    scratch::with(pairs * parts * part_len, |partial| {
        let small = pairs * shape.seq_k * rows * (shape.d_head + shape.d_value) < 1 << 16;
        let at_once = if small { pairs * parts } else { 1 };
        partial.par_chunks_mut(part_len).with_min_len(at_once.max(1)).enumerate().for_each(|(t, partial)| {
            stretch(inputs, t / parts, t % parts * KEYS, partial);
        });
        for pair in 0..pairs {
            let partial = &partial[pair * parts * part_len..][..parts * part_len];
            (0..rows).for_each(|r| join(inputs, (pair, r), partial, out, lse));
        }
    });
}

/// Batch row, query and head of row `r` of a (batch row, key head) pair.
fn place(inputs: &Inputs, pair: usize, r: usize) -> (usize, usize, usize) {
    let shape = inputs.shape;
    let (b, kv_head) = (pair / shape.n_kv_heads, pair % shape.n_kv_heads);
    (b, r % shape.seq_q, kv_head * shape.group() + r / shape.seq_q)
}

/// One stretch of keys: per row an output that is not yet divided, then all maxima, then all sums.
fn stretch(inputs: &Inputs, pair: usize, first: usize, partial: &mut [f32]) {
    let (shape, d, dv) = (inputs.shape, inputs.shape.d_head, inputs.shape.d_value);
    let rows = shape.group() * shape.seq_q;
    let keys = KEYS.min(shape.seq_k - first);
    let (sums, rest) = partial.split_at_mut(rows * dv);
    let (max, sum) = rest.split_at_mut(rows);
    max.fill(f32::NEG_INFINITY);
    sum.fill(0.0);
    let span = |r| {
        let (b, i, _) = place(inputs, pair, r);
        overlap(inputs.span(b, i), (first, first + keys))
    };
    let (lo, hi) = (0..rows).map(span).fold((0, 0), hull);
    if lo == hi {
        return sums.fill(0.0);
    }
    let keys = hi - lo;
    let each: Vec<Row> = (0..rows)
        .map(|r| {
            let ((_, i, h), (from, to)) = (place(inputs, pair, r), span(r));
            let slope = shape.slope(h);
            let start = slope * (lo as f32 - shape.position(i));
            Row { bounds: if from < to { (from - lo, to - lo) } else { (0, 0) }, slope, start }
        })
        .collect();
    let key = inputs.key(pair / shape.n_kv_heads, lo, pair % shape.n_kv_heads);
    let (k, v) = (inputs.keys(inputs.k, key, keys, d), inputs.keys(inputs.v, key, keys, dv));
    scratch::with(rows * (d + keys), |room| {
        let (q, data) = room.split_at_mut(rows * d);
        for (r, q) in q.chunks_exact_mut(d).enumerate() {
            let (b, i, h) = place(inputs, pair, r);
            q.copy_from_slice(&inputs.q[inputs.query(b, i, h) * d..][..d]);
        }
        // SAFETY: `data` holds rows x keys and `sums` rows x dv; the views were cut from checked slices.
        unsafe {
            product_serial(inputs.level, Out::new(data, keys), Mat::new(q, rows, d), k.t(), false);
            simd::run(inputs.level, Online { data: &mut *data, cols: keys, rows: &each, shape, max, sum });
            product_serial(inputs.level, Out::new(sums, dv), Mat::new(data, rows, keys), v, false);
        }
    });
}

/// Joins the stretches of one row.
fn join(inputs: &Inputs, (pair, r): (usize, usize), partial: &[f32], out: &mut [f32], lse: &mut [f32]) {
    let (shape, d) = (inputs.shape, inputs.shape.d_value);
    let rows = shape.group() * shape.seq_q;
    let (b, i, h) = place(inputs, pair, r);
    let out = &mut out[inputs.query(b, i, h) * d..][..d];
    let lse = &mut lse[(b * shape.n_heads + h) * shape.seq_q + i];
    let parts = || partial.chunks_exact(rows * (d + 2));
    let max = parts().map(|p| p[rows * d + r]).fold(f32::NEG_INFINITY, f32::max);
    out.fill(0.0);
    // Not by the maximum, which may hide a NaN.
    if parts().all(|p| p[rows * (d + 1) + r] == 0.0) {
        *lse = f32::NEG_INFINITY;
        return;
    }
    let mut sum = 0.0;
    for p in parts() {
        let fade = (p[rows * d + r] - max).exp();
        sum += fade * p[rows * (d + 1) + r];
        out.iter_mut().zip(&p[r * d..][..d]).for_each(|(out, x)| *out += fade * x);
    }
    out.iter_mut().for_each(|x| *x /= sum);
    *lse = max + sum.ln();
}
