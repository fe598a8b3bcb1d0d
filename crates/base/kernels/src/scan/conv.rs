//! Causal convolution of each channel with itself over time, as in front of Mamba's scan.

use super::{BLOCK, Part, Shared, Task, cell, load, run_parts, save, sum_parts};
use crate::simd::Simd;

/// `y_t = bias + sum over k of w[k] x_{t - K + 1 + k}`, for each channel.
#[derive(Clone, Copy)]
pub struct CausalConv<'a> {
    /// `(B, T, D, K)`.
    pub sizes: (usize, usize, usize, usize),
    /// `[B, T, D]`.
    pub x: &'a [f32],
    /// `[D, K]`; the last column meets the present.
    pub w: &'a [f32],
    /// `[D]`; empty for 0.
    pub bias: &'a [f32],
}

impl CausalConv<'_> {
    fn check(&self, what: &str, more: &[(&str, usize, usize)]) {
        let (batch, seq, d, k) = self.sizes;
        assert!(k > 0, "{what}: a kernel of no steps");
        let bias = if self.bias.is_empty() { 0 } else { d };
        let own = [("x", self.x.len(), batch * seq * d), ("w", self.w.len(), d * k), ("bias", self.bias.len(), bias)];
        for (name, len, want) in own.iter().chain(more) {
            assert_eq!(len, want, "{what}: {name} has {len} floats, [{batch}, {seq}, {d}] x {k} implies {want}");
        }
    }

    /// The weights of a task's channels, `[K, BLOCK]`, 0 beyond its end.
    #[inline(always)]
    fn put_weights(&self, p: Part, to: &mut [f32]) {
        let k = self.sizes.3;
        to.fill(0.0);
        for i in 0..p.len {
            for j in 0..k {
                to[j * BLOCK + i] = self.w[(p.from + i) * k + j];
            }
        }
    }
}

/// The convolution; `before [B, K - 1, D]` are the inputs before the first step and become the last ones, so that one
/// step at a time gives the same.
pub fn causal_conv_forward(conv: &CausalConv, before: &mut [f32], y: &mut [f32]) {
    let (batch, seq, d, k) = conv.sizes;
    let kept = batch * (k.max(1) - 1) * d;
    conv.check("causal_conv_forward", &[("before", before.len(), kept), ("y", y.len(), conv.x.len())]);
    run_parts(&Forward { conv, before, y: Shared::new(y, d) }, batch, d);
    if d == 0 || k == 1 {
        return;
    }
    for (b, before) in before.chunks_exact_mut((k - 1) * d).enumerate() {
        let new = seq.min(k - 1);
        before.copy_within(new * d.., 0);
        before[(k - 1 - new) * d..].copy_from_slice(&conv.x[((b + 1) * seq - new) * d..][..new * d]);
    }
}

struct Forward<'a> {
    conv: &'a CausalConv<'a>,
    before: &'a [f32],
    y: Shared,
}

impl Task for Forward<'_> {
    fn room(&self) -> usize {
        self.conv.sizes.3 * BLOCK
    }

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, p: Part, w: &mut [f32]) {
        let (_, seq, d, k) = self.conv.sizes;
        self.conv.put_weights(p, w);
        for t in 0..seq {
            // SAFETY: the parts of all tasks are disjoint, and this one lives until the step ends.
            let y = unsafe { self.y.part(p, p.b * seq + t) };
            for i in (0..p.len).step_by(S::LANES) {
                let mut sum = load(s, if self.conv.bias.is_empty() { &[] } else { p.of(self.conv.bias, 0, d) }, i);
                for j in 0..k {
                    let from = t + j; // counted from the first of `before`
                    let x = if from + 1 < k {
                        p.of(self.before, p.b * (k - 1) + from, d)
                    } else {
                        p.of(self.conv.x, p.b * seq + from + 1 - k, d)
                    };
                    sum = s.fma(s.at(w, j * BLOCK + i), load(s, x, i), sum);
                }
                save(s, y, i, sum);
            }
        }
    }
}

/// Where the gradients go, shaped as the numbers of [`CausalConv`]; overwritten.
pub struct ConvGrads<'a> {
    pub x: &'a mut [f32],
    pub w: &'a mut [f32],
    pub bias: &'a mut [f32],
}

/// The gradients of [`causal_conv_forward`] from a start of zeros, for the gradient `dy [B, T, D]` of its result.
pub fn causal_conv_backward(conv: &CausalConv, dy: &[f32], grads: &mut ConvGrads) {
    let (batch, _, d, k) = conv.sizes;
    let more = [
        ("dy", dy.len(), conv.x.len()),
        ("the gradient of x", grads.x.len(), conv.x.len()),
        ("the gradient of w", grads.w.len(), conv.w.len()),
        ("the gradient of the bias", grads.bias.len(), conv.bias.len()),
    ];
    conv.check("causal_conv_backward", &more);
    let mut parts = vec![0.0; batch * (k + 1) * d];
    run_parts(&Backward { conv, dy, dx: Shared::new(grads.x, d), sums: Shared::new(&mut parts, d) }, batch, d);
    let mut sums = vec![0.0; (k + 1) * d];
    sum_parts(&parts, &mut sums);
    for (i, grad) in grads.w.iter_mut().enumerate() {
        *grad = sums[i % k * d + i / k];
    }
    grads.bias.iter_mut().zip(&sums[k * d..]).for_each(|(grad, sum)| *grad = *sum);
}

struct Backward<'a> {
    conv: &'a CausalConv<'a>,
    dy: &'a [f32],
    dx: Shared,
    /// `[B, K + 1, D]`: the gradients of the weights and, last, of the bias.
    sums: Shared,
}

impl Task for Backward<'_> {
    fn room(&self) -> usize {
        (2 * self.conv.sizes.3 + 1) * BLOCK
    }

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, p: Part, room: &mut [f32]) {
        let (_, seq, d, k) = self.conv.sizes;
        let (w, sums) = room.split_at_mut(k * BLOCK);
        self.conv.put_weights(p, w);
        sums.fill(0.0);
        for t in 0..seq {
            let row = p.b * seq + t;
            // SAFETY: the parts of all tasks are disjoint, and this one lives until the step ends.
            let dx = unsafe { self.dx.part(p, row) };
            for i in (0..p.len).step_by(S::LANES) {
                let (x, dy) = (cell(s, p, self.conv.x, (row, d), i), cell(s, p, self.dy, (row, d), i));
                let mut sum = s.zero();
                // x_t meets weight j in the result of step t + K - 1 - j.
                for j in (0..k).filter(|j| t + k - 1 - j < seq) {
                    let (g, at) = (cell(s, p, self.dy, (row + k - 1 - j, d), i), j * BLOCK + i);
                    sum = s.fma(s.at(w, at), g, sum);
                    s.put(sums, at, s.fma(x, g, s.at(sums, at)));
                }
                save(s, dx, i, sum);
                s.put(sums, k * BLOCK + i, s.add(dy, s.at(sums, k * BLOCK + i)));
            }
        }
        for j in 0..=k {
            // SAFETY: as above.
            unsafe { self.sums.part(p, p.b * (k + 1) + j) }.copy_from_slice(&sums[j * BLOCK..][..p.len]);
        }
    }
}
