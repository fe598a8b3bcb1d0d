//! The gradients: a task is one key head of one batch row, so that it alone adds to those keys and queries.

use super::softmax::{Scores, Slopes};
use super::{AttentionGrads, AttentionSaved, Inputs, KEYS, QUERIES, QueryBlock};
use crate::gemm::{Mat, Out, product_serial};
use crate::{scratch, simd};
use rayon::prelude::*;

pub(super) fn backward(inputs: &Inputs, saved: &AttentionSaved, d_out: &[f32], grads: &mut AttentionGrads) {
    let shape = inputs.shape;
    let (dq, dk, dv) = (
        Out::new(grads.dq, inputs.query_stride()),
        Out::new(grads.dk, inputs.key_stride()),
        Out::new(grads.dv, inputs.key_stride()),
    );
    let pass = Pass { inputs, saved, d_out, dq, dk, dv };
    (0..shape.batch * shape.n_kv_heads).into_par_iter().with_max_len(1).for_each(|t| {
        let (b, kv_head) = (t / shape.n_kv_heads, t % shape.n_kv_heads);
        // SAFETY: the keys of this head and batch row, and the queries of its group, are this task's.
        unsafe {
            let at = inputs.key_at(b, 0, kv_head);
            for j in 0..shape.seq_k {
                dk.row(0, at + j * dk.stride, shape.d_head).fill(0.0);
                dv.row(0, at + j * dv.stride, shape.d_head).fill(0.0);
            }
            for h in kv_head * shape.group()..(kv_head + 1) * shape.group() {
                for first in (0..shape.seq_q).step_by(QUERIES) {
                    pass.head(QueryBlock::new(inputs, b, first), h);
                }
            }
        }
    });
}

struct Pass<'a> {
    inputs: &'a Inputs<'a>,
    saved: &'a AttentionSaved<'a>,
    d_out: &'a [f32],
    dq: Out,
    dk: Out,
    dv: Out,
}

impl Pass<'_> {
    /// One block of queries of head `h`.
    ///
    /// # Safety
    /// The gradients of these queries and of their keys must be this task's.
    unsafe fn head(&self, block: QueryBlock, h: usize) {
        let (inputs, shape, rows) = (self.inputs, self.inputs.shape, block.rows);
        let (level, d) = (inputs.level, shape.d_head);
        let at = inputs.query_at(block.b, block.first, h);
        let (q, d_out) = (inputs.queries(inputs.q, at, rows), inputs.queries(self.d_out, at, rows));
        let out = inputs.queries(self.saved.out, at, rows);
        let mut delta = [0.0; QUERIES];
        for r in 0..rows {
            let row = r * out.row_stride;
            delta[r] = out.data[row..row + d].iter().zip(&d_out.data[row..row + d]).map(|(a, b)| a * b).sum();
        }
        let lse = &self.saved.lse[(block.b * shape.n_heads + h) * shape.seq_q + block.first..][..rows];
        // SAFETY: the caller's promise.
        let dq = unsafe { self.dq.offset(0, at) };
        if block.keys.0 == block.keys.1 {
            // SAFETY: as above.
            (0..rows).for_each(|r| unsafe { dq.row(r, 0, d) }.fill(0.0));
        }
        scratch::with(2 * QUERIES * KEYS, |room| {
            let (probs, d_probs) = room.split_at_mut(QUERIES * KEYS);
            for (j, keys) in block.key_blocks() {
                let at = inputs.key_at(block.b, j, h / shape.group());
                let (k, v) = (inputs.keys(inputs.k, at, keys), inputs.keys(inputs.v, at, keys));
                let (probs, d_probs) = (&mut probs[..rows * keys], &mut d_probs[..rows * keys]);
                let bounds = block.bounds(inputs, j, keys);
                // SAFETY: both blocks hold rows x keys, the views were cut from checked slices, and the gradients are
                // the caller's promise.
                unsafe {
                    product_serial(level, Out::new(probs, keys), q, k.t(), false);
                    product_serial(level, Out::new(d_probs, keys), d_out, v.t(), false);
                    let scores = Scores { data: &mut *probs, cols: keys, bounds: &bounds[..rows], shape };
                    simd::run(level, Slopes { scores, d_probs: &mut *d_probs, lse, delta: &delta });
                    let (p, ds) = (Mat::new(probs, rows, keys), Mat::new(d_probs, rows, keys));
                    product_serial(level, self.dv.offset(0, at), p.t(), d_out, true);
                    product_serial(level, self.dk.offset(0, at), ds.t(), q, true);
                    product_serial(level, dq, ds, k, j > block.keys.0);
                }
            }
        });
    }
}
