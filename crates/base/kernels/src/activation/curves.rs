//! The curves and their slopes, on vectors.

use crate::simd::Simd;
use std::f32::consts::FRAC_1_SQRT_2;

/// A function of one number. Mark both `#[inline(always)]`.
pub trait Curve: Copy + Send + Sync {
    fn value<S: Simd>(self, s: S, x: S::V) -> S::V;
    fn with_slope<S: Simd>(self, s: S, x: S::V) -> (S::V, S::V);
}

#[derive(Clone, Copy)]
pub struct Silu;

impl Curve for Silu {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.mul(x, s.sigmoid(x))
    }

    #[inline(always)]
    fn with_slope<S: Simd>(self, s: S, x: S::V) -> (S::V, S::V) {
        let one = s.splat(1.0);
        let sig = s.sigmoid(x);
        // silu'(x) = sig(x) (1 + x (1 - sig(x)))
        (s.mul(x, sig), s.mul(sig, s.fma(x, s.sub(one, sig), one)))
    }
}

#[derive(Clone, Copy)]
pub struct GeluTanh;

impl GeluTanh {
    /// Twice sqrt(2 / π), because (1 + tanh(u)) / 2 = sigmoid(2u).
    const SCALE: f32 = 1.595_769_2;
    const CUBIC: f32 = 0.044_715;

    /// 2u and its slope; x is cut where the sigmoid has long been 0 or 1, so that x³ does not overflow.
    #[inline(always)]
    fn inner<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
        let x = s.min(s.splat(20.0), s.max(s.splat(-20.0), x));
        let square = s.mul(x, x);
        let scaled = s.mul(x, s.splat(Self::SCALE));
        let inner = s.mul(scaled, s.fma(square, s.splat(Self::CUBIC), s.splat(1.0)));
        let slope = s.mul(s.fma(square, s.splat(3.0 * Self::CUBIC), s.splat(1.0)), s.splat(Self::SCALE));
        (inner, s.mul(x, slope))
    }
}

impl Curve for GeluTanh {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.mul(x, s.sigmoid(Self::inner(s, x).0))
    }

    #[inline(always)]
    fn with_slope<S: Simd>(self, s: S, x: S::V) -> (S::V, S::V) {
        let (inner, x_slope) = Self::inner(s, x);
        let sig = s.sigmoid(inner);
        // sig + x · 2u' · sig (1 - sig)
        let slope = s.fma(s.mul(x_slope, sig), s.sub(s.splat(1.0), sig), sig);
        (s.mul(x, sig), slope)
    }
}

#[derive(Clone, Copy)]
pub struct GeluErf;

impl GeluErf {
    /// `-ln(erfc(t)) / t` as a polynomial on 0..=4.5, fitted here so that the largest error of erfc(t) is least:
    /// 2.6e-8 with these rounded coefficients.
    const POLYNOMIAL: [f32; 8] = [
        3.141_017_8e-5,
        -3.085_445_2e-4,
        1.031_542_5e-3,
        5.383_451_3e-4,
        -1.958_516_6e-2,
        1.029_201_3e-1,
        6.365_976_3e-1,
        1.128_380_3,
    ];

    /// |x|, cut where Φ has long been 0 or 1, and half of erfc(|x| / √2): Φ on the left of 0.
    #[inline(always)]
    fn tail<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
        let size = s.min(s.splat(4.5 / FRAC_1_SQRT_2), s.max(s.sub(s.zero(), x), x));
        let t = s.mul(size, s.splat(FRAC_1_SQRT_2));
        let mut p = s.splat(Self::POLYNOMIAL[0]);
        for c in &Self::POLYNOMIAL[1..] {
            p = s.fma(p, t, s.splat(*c));
        }
        (size, s.mul(s.exp(s.sub(s.zero(), s.mul(p, t))), s.splat(0.5)))
    }
}

impl Curve for GeluErf {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, x: S::V) -> S::V {
        let (size, tail) = Self::tail(s, x);
        // x Φ(x) = max(x, 0) - |x| Φ(-|x|)
        s.sub(s.max(s.zero(), x), s.mul(size, tail))
    }

    #[inline(always)]
    fn with_slope<S: Simd>(self, s: S, x: S::V) -> (S::V, S::V) {
        let (size, tail) = Self::tail(s, x);
        let right = s.positive(x);
        let sign = s.sub(s.add(right, right), s.splat(1.0));
        // Φ is the tail on the left of 0 and 1 - tail on the right.
        let phi = s.sub(right, s.mul(sign, tail));
        let density = s.mul(s.exp(s.mul(s.mul(size, size), s.splat(-0.5))), s.splat(0.398_942_3));
        let slope = s.fma(s.mul(sign, size), density, phi);
        (s.sub(s.max(s.zero(), x), s.mul(size, tail)), slope)
    }
}

#[derive(Clone, Copy)]
pub struct Relu;

impl Curve for Relu {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.max(s.zero(), x)
    }

    #[inline(always)]
    fn with_slope<S: Simd>(self, s: S, x: S::V) -> (S::V, S::V) {
        (s.max(s.zero(), x), s.positive(x))
    }
}

#[derive(Clone, Copy)]
pub struct ReluSquared;

impl Curve for ReluSquared {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, x: S::V) -> S::V {
        let x = s.max(s.zero(), x);
        s.mul(x, x)
    }

    #[inline(always)]
    fn with_slope<S: Simd>(self, s: S, x: S::V) -> (S::V, S::V) {
        let x = s.max(s.zero(), x);
        (s.mul(x, x), s.add(x, x))
    }
}
