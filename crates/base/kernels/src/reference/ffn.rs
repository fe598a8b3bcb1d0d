//! Feed-forward layers as their products and activations read.

use super::{activation_backward, activation_forward, column_sums, gated_backward, gated_forward, matmul};
use crate::{Affine, AffineGrads, FeedForward, FeedForwardGrads, Mat};

/// `x · wᵀ + b`
fn affine(x: Mat, layer: Affine, d_out: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.rows * d_out];
    matmul(&mut y, x, Mat::new(layer.weight, d_out, x.cols).t(), false);
    if let Some(bias) = layer.bias {
        y.chunks_mut(d_out).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    }
    y
}

/// The gradients of [`affine`]'s weight and bias.
fn slopes(x: Mat, dy: Mat, layer: Affine) -> AffineGrads {
    let mut grads = AffineGrads { weight: vec![0.0; layer.weight.len()], bias: vec![] };
    matmul(&mut grads.weight, dy.t(), x, false);
    if let Some(bias) = layer.bias {
        grads.bias = vec![0.0; bias.len()];
        column_sums(dy.data, &mut grads.bias);
    }
    grads
}

/// What is widened: `gate(x)`, `up(x)`, and what `down` is given.
fn wide(l: &FeedForward, x: Mat) -> (Option<Vec<f32>>, Vec<f32>, Vec<f32>) {
    let up = affine(x, l.up, l.d_ff);
    let mut h = vec![0.0; up.len()];
    let gate = l.gate.map(|gate| affine(x, gate, l.d_ff));
    match &gate {
        Some(gate) => gated_forward(l.f, gate, &up, &mut h),
        None => activation_forward(l.f, &up, &mut h),
    }
    (gate, up, h)
}

/// See [`crate::feed_forward`].
pub fn feed_forward(l: &FeedForward, x: &[f32]) -> Vec<f32> {
    let rows = x.len() / l.d_model;
    let (.., h) = wide(l, Mat::new(x, rows, l.d_model));
    affine(Mat::new(&h, rows, l.d_ff), l.down, l.d_model)
}

/// See [`crate::feed_forward_backward`]; all gradients.
pub fn feed_forward_backward(l: &FeedForward, x: &[f32], dy: &[f32]) -> FeedForwardGrads {
    let (d, ff, rows) = (l.d_model, l.d_ff, x.len() / l.d_model);
    let (x, dy) = (Mat::new(x, rows, d), Mat::new(dy, rows, d));
    let (gate, up, h) = wide(l, x);
    let mut dh = vec![0.0; rows * ff];
    matmul(&mut dh, dy, Mat::new(l.down.weight, d, ff), false);
    let (mut dgate, mut dup, mut dx) = (vec![0.0; rows * ff], vec![0.0; rows * ff], vec![0.0; rows * d]);
    match &gate {
        Some(gate) => gated_backward(l.f, gate, &up, &dh, &mut dgate, &mut dup),
        None => activation_backward(l.f, &up, &dh, &mut dup),
    }
    let (dgate, dup) = (Mat::new(&dgate, rows, ff), Mat::new(&dup, rows, ff));
    matmul(&mut dx, dup, Mat::new(l.up.weight, ff, d), false);
    if let Some(gate) = l.gate {
        matmul(&mut dx, dgate, Mat::new(gate.weight, ff, d), true);
    }
    FeedForwardGrads {
        x: Some(dx),
        gate: l.gate.map(|gate| slopes(x, dgate, gate)),
        up: Some(slopes(x, dup, l.up)),
        down: Some(slopes(Mat::new(&h, rows, ff), dy, l.down)),
    }
}
