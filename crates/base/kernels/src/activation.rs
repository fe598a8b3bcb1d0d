//! Activations of feed-forward layers, plain and gated. Backward passes compute the curve again from the inputs.

mod curves;

use crate::map::{Map, map, map_serial};
use crate::simd::{Level, Simd};
use curves::{Curve, GeluErf, GeluTanh, Relu, ReluSquared, Silu};

/// A curve that is applied to each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)` (Elfwing et al. 2017).
    Silu,
    /// `x · Φ(x)` with Φ from a hyperbolic tangent (Hendrycks and Gimpel 2016, the approximation).
    GeluTanh,
    /// `x · Φ(x)`, Φ the normal distribution function (Hendrycks and Gimpel 2016).
    GeluErf,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)²` (So et al. 2021).
    ReluSquared,
}

impl Activation {
    pub const ALL: [Activation; 5] =
        [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu, Activation::ReluSquared];
}

/// Calls a function with the curve of an activation.
macro_rules! with_curve {
    ($activation:expr, $curve:ident => $body:expr) => {
        match $activation {
            Activation::Silu => with_curve!(@ Silu, $curve, $body),
            Activation::GeluTanh => with_curve!(@ GeluTanh, $curve, $body),
            Activation::GeluErf => with_curve!(@ GeluErf, $curve, $body),
            Activation::Relu => with_curve!(@ Relu, $curve, $body),
            Activation::ReluSquared => with_curve!(@ ReluSquared, $curve, $body),
        }
    };
    (@ $value:expr, $curve:ident, $body:expr) => {{
        let $curve = $value;
        $body
    }};
}

/// `y = f(x)`, elementwise.
pub fn activation_forward(f: Activation, x: &[f32], y: &mut [f32]) {
    same_length("activation_forward", [x.len(), y.len()]);
    with_curve!(f, curve => map(Plain(curve), [x], [y]));
}

/// The gradient of [`activation_forward`] for the gradient `dy` of its result; overwrites `dx`.
pub fn activation_backward(f: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    same_length("activation_backward", [x.len(), dy.len(), dx.len()]);
    with_curve!(f, curve => map(PlainSlope(curve), [x, dy], [dx]));
}

/// `y = f(gate) * up`, elementwise (Shazeer 2020: SwiGLU, GEGLU, ReGLU).
pub fn gated_forward(f: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    same_length("gated_forward", [gate.len(), up.len(), y.len()]);
    with_curve!(f, curve => map(Gated(curve), [gate, up], [y]));
}

/// The gradients of [`gated_forward`] for the gradient `dy` of its result; overwrites `dgate` and `dup`.
pub fn gated_backward(f: Activation, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    same_length("gated_backward", [gate.len(), up.len(), dy.len(), dgate.len(), dup.len()]);
    with_curve!(f, curve => map(GatedSlope(curve), [gate, up, dy], [dgate, dup]));
}

/// On the calling thread: `up` becomes `f(gate) * up`, or without a gate `f(up)`.
pub(crate) fn widen(level: Level, f: Activation, gate: Option<&[f32]>, up: &mut [f32]) {
    with_curve!(f, curve => match gate {
        Some(gate) => map_serial(level, GatedInPlace(curve), [gate], [up]),
        None => map_serial(level, PlainInPlace(curve), [], [up]),
    });
}

/// On the calling thread, from what [`widen`] was given and the gradient `d` of its result: `d` becomes the result
/// itself, and `gate` and `up` become their own gradients.
pub(crate) fn widen_slopes(level: Level, f: Activation, gate: Option<&mut [f32]>, up: &mut [f32], d: &mut [f32]) {
    with_curve!(f, curve => match gate {
        Some(gate) => map_serial(level, GatedSlopes(curve), [], [gate, up, d]),
        None => map_serial(level, PlainSlopes(curve), [], [up, d]),
    });
}

#[derive(Clone, Copy)]
struct GatedInPlace<C>(C);

impl<C: Curve> Map<1, 1> for GatedInPlace<C> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [gate]: [S::V; 1], [up]: [S::V; 1]) -> [S::V; 1] {
        [s.mul(self.0.value(s, gate), up)]
    }
}

#[derive(Clone, Copy)]
struct PlainInPlace<C>(C);

impl<C: Curve> Map<0, 1> for PlainInPlace<C> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, _: [S::V; 0], [x]: [S::V; 1]) -> [S::V; 1] {
        [self.0.value(s, x)]
    }
}

#[derive(Clone, Copy)]
struct GatedSlopes<C>(C);

impl<C: Curve> Map<0, 3> for GatedSlopes<C> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, _: [S::V; 0], [gate, up, d]: [S::V; 3]) -> [S::V; 3] {
        let (value, slope) = self.0.with_slope(s, gate);
        [s.mul(s.mul(d, up), slope), s.mul(d, value), s.mul(value, up)]
    }
}

#[derive(Clone, Copy)]
struct PlainSlopes<C>(C);

impl<C: Curve> Map<0, 2> for PlainSlopes<C> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, _: [S::V; 0], [x, d]: [S::V; 2]) -> [S::V; 2] {
        let (value, slope) = self.0.with_slope(s, x);
        [s.mul(d, slope), value]
    }
}

fn same_length<const N: usize>(what: &str, lengths: [usize; N]) {
    assert!(lengths.iter().all(|&l| l == lengths[0]), "{what}: the slices differ in length: {lengths:?}");
}

#[derive(Clone, Copy)]
struct Plain<C>(C);

impl<C: Curve> Map<1, 1> for Plain<C> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x]: [S::V; 1], _: [S::V; 1]) -> [S::V; 1] {
        [self.0.value(s, x)]
    }
}

#[derive(Clone, Copy)]
struct PlainSlope<C>(C);

impl<C: Curve> Map<2, 1> for PlainSlope<C> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x, dy]: [S::V; 2], _: [S::V; 1]) -> [S::V; 1] {
        [s.mul(dy, self.0.with_slope(s, x).1)]
    }
}

#[derive(Clone, Copy)]
struct Gated<C>(C);

impl<C: Curve> Map<2, 1> for Gated<C> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [gate, up]: [S::V; 2], _: [S::V; 1]) -> [S::V; 1] {
        [s.mul(self.0.value(s, gate), up)]
    }
}

#[derive(Clone, Copy)]
struct GatedSlope<C>(C);

impl<C: Curve> Map<3, 2> for GatedSlope<C> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [gate, up, dy]: [S::V; 3], _: [S::V; 2]) -> [S::V; 2] {
        let (value, slope) = self.0.with_slope(s, gate);
        [s.mul(s.mul(dy, up), slope), s.mul(dy, value)]
    }
}
