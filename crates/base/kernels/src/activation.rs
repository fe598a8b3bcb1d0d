//! The gated activation of Llama-style feed-forward layers.

use crate::map::{Map, map};
use crate::simd::Simd;

/// `y = silu(gate) * up`, elementwise; all of one length.
pub fn swiglu_forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    same_length("swiglu_forward", [gate.len(), up.len(), y.len()]);
    map(Forward, [gate, up], [y]);
}

/// The gradients of [`swiglu_forward`] for the gradient `dy` of its result; overwrites `dgate` and `dup`.
pub fn swiglu_backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    same_length("swiglu_backward", [gate.len(), up.len(), dy.len(), dgate.len(), dup.len()]);
    map(Backward, [gate, up, dy], [dgate, dup]);
}

fn same_length<const N: usize>(what: &str, lengths: [usize; N]) {
    assert!(lengths.iter().all(|&l| l == lengths[0]), "{what}: the slices differ in length: {lengths:?}");
}

#[derive(Clone, Copy)]
struct Forward;

impl Map<2, 1> for Forward {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [gate, up]: [S::V; 2], _: [S::V; 1]) -> [S::V; 1] {
        [s.mul(s.mul(gate, s.sigmoid(gate)), up)]
    }
}

#[derive(Clone, Copy)]
struct Backward;

impl Map<3, 2> for Backward {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [gate, up, dy]: [S::V; 3], _: [S::V; 2]) -> [S::V; 2] {
        let one = s.splat(1.0);
        let sig = s.sigmoid(gate);
        let silu = s.mul(gate, sig);
        // silu'(x) = sig(x) (1 + x (1 - sig(x)))
        let slope = s.mul(sig, s.fma(gate, s.sub(one, sig), one));
        [s.mul(s.mul(dy, up), slope), s.mul(dy, silu)]
    }
}
