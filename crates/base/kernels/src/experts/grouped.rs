//! One matrix product per expert, over its own rows. The experts run side by side, and large products are split further.

use super::ExpertOrder;
use crate::gemm::{How, Mat, Precision, matmul_with};
use rayon::prelude::*;

/// `y[r] = w[e] · x[r]` for each row `r` of each expert `e`: x `[R, d_in]`, w `[E, d_out, d_in]`, y `[R, d_out]`.
pub fn grouped_matmul(
    x: &[f32],
    w: &[f32],
    order: &ExpertOrder,
    (d_in, d_out): (usize, usize),
    precision: Precision,
    y: &mut [f32],
) {
    check("grouped_matmul", order, (d_in, d_out), [x.len(), w.len(), y.len()]);
    each(order, parts_by_rows(y, order, d_out), |e, n, first, y| {
        let x = Mat::new(&x[first * d_in..], n, d_in);
        matmul_with(y, x, Mat::new(&w[e * d_out * d_in..], d_out, d_in).t(), How { precision, ..How::default() });
    });
}

/// The gradient of [`grouped_matmul`] for its rows: `dx[r] = dy[r] · w[e]`; overwrites `dx`.
pub fn grouped_input_grad(
    dy: &[f32],
    w: &[f32],
    order: &ExpertOrder,
    (d_in, d_out): (usize, usize),
    precision: Precision,
    dx: &mut [f32],
) {
    check("grouped_input_grad", order, (d_in, d_out), [dx.len(), w.len(), dy.len()]);
    each(order, parts_by_rows(dx, order, d_in), |e, n, first, dx| {
        let dy = Mat::new(&dy[first * d_out..], n, d_out);
        matmul_with(dx, dy, Mat::new(&w[e * d_out * d_in..], d_out, d_in), How { precision, ..How::default() });
    });
}

/// The gradient of [`grouped_matmul`] for its weights, `dw[e] = sum of dy[r] x[r]ᵀ`: 0 for an expert without rows;
/// overwrites `dw`.
pub fn grouped_weight_grad(
    dy: &[f32],
    x: &[f32],
    order: &ExpertOrder,
    (d_in, d_out): (usize, usize),
    precision: Precision,
    dw: &mut [f32],
) {
    check("grouped_weight_grad", order, (d_in, d_out), [x.len(), dw.len(), dy.len()]);
    if d_in * d_out == 0 {
        return;
    }
    each(order, dw.chunks_mut(d_out * d_in).collect(), |_, n, first, dw| {
        let (dy, x) = (Mat::new(&dy[first * d_out..], n, d_out), Mat::new(&x[first * d_in..], n, d_in));
        matmul_with(dw, dy.t(), x, How { precision, ..How::default() });
    });
}

/// Each expert's rows of `y`.
fn parts_by_rows<'a>(mut y: &'a mut [f32], order: &ExpertOrder, d: usize) -> Vec<&'a mut [f32]> {
    let sizes = order.offsets.windows(2).map(|o| (o[1] - o[0]) * d);
    sizes.map(|len| y.split_off_mut(..len).unwrap_or_default()).collect()
}

/// Calls `f(expert, rows, first row, part)` for all experts.
fn each(order: &ExpertOrder, parts: Vec<&mut [f32]>, f: impl Fn(usize, usize, usize, &mut [f32]) + Sync) {
    parts.into_par_iter().with_max_len(1).enumerate().for_each(|(e, part)| {
        let (first, end) = (order.offsets[e], order.offsets[e + 1]);
        f(e, end - first, first, part);
    });
}

fn check(what: &str, order: &ExpertOrder, (d_in, d_out): (usize, usize), [x, w, y]: [usize; 3]) {
    let (rows, experts) = (order.pairs.len(), order.n_experts());
    assert_eq!(x, rows * d_in, "{what}: {x} floats for {rows} rows of width {d_in}");
    assert_eq!(y, rows * d_out, "{what}: {y} floats for {rows} rows of width {d_out}");
    assert_eq!(w, experts * d_out * d_in, "{what}: {w} floats for weights [{experts}, {d_out}, {d_in}]");
}
