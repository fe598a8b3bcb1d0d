//! What one step does to one unit.

use crate::simd::Simd;

/// The formulas of a cell, on vectors of units. Unused places of the arrays are zero.
pub trait Cell: Copy + Send + Sync + 'static {
    const GATES: usize;
    /// Numbers per unit that the backward pass needs besides the states.
    const KEPT: usize;
    /// Whether the gradients of `x` and `u` differ.
    const SPLIT: bool;

    /// The new `(h, c)` and what is kept, from the gates' parts `x` and `u` and the old state.
    fn step<S: Simd>(s: S, x: [S::V; 4], u: [S::V; 4], state: (S::V, S::V)) -> (S::V, S::V, [S::V; 4]);

    /// The gradients of `x`, `u` and of the old state's direct part.
    fn back<S: Simd>(s: S, at: At<S::V>) -> Grads<S::V>;
}

/// What is known of a step on the way back.
#[derive(Clone, Copy)]
pub struct At<V> {
    pub kept: [V; 4],
    pub h: V,
    pub c: V,
    pub h_before: V,
    pub c_before: V,
    pub dh: V,
    pub dc: V,
}

pub struct Grads<V> {
    pub dx: [V; 4],
    pub du: [V; 4],
    pub dh: V,
    pub dc: V,
}

/// `1 - y²`, the slope of tanh.
#[inline(always)]
fn tanh_slope<S: Simd>(s: S, y: S::V) -> S::V {
    s.sub(s.splat(1.0), s.mul(y, y))
}

/// `y (1 - y)`, the slope of the logistic function.
#[inline(always)]
fn sigmoid_slope<S: Simd>(s: S, y: S::V) -> S::V {
    s.mul(y, s.sub(s.splat(1.0), y))
}

#[derive(Clone, Copy)]
pub struct Tanh;

impl Cell for Tanh {
    const GATES: usize = 1;
    const KEPT: usize = 0;
    const SPLIT: bool = false;

    #[inline(always)]
    fn step<S: Simd>(s: S, x: [S::V; 4], u: [S::V; 4], _: (S::V, S::V)) -> (S::V, S::V, [S::V; 4]) {
        (s.tanh(s.add(x[0], u[0])), s.zero(), [s.zero(); 4])
    }

    #[inline(always)]
    fn back<S: Simd>(s: S, at: At<S::V>) -> Grads<S::V> {
        let mut dx = [s.zero(); 4];
        dx[0] = s.mul(at.dh, tanh_slope(s, at.h));
        Grads { dx, du: dx, dh: s.zero(), dc: s.zero() }
    }
}

#[derive(Clone, Copy)]
pub struct Lstm;

impl Cell for Lstm {
    const GATES: usize = 4;
    const KEPT: usize = 4;
    const SPLIT: bool = false;

    #[inline(always)]
    fn step<S: Simd>(s: S, x: [S::V; 4], u: [S::V; 4], (_, c): (S::V, S::V)) -> (S::V, S::V, [S::V; 4]) {
        // Spelled out: a closure would be compiled for no instruction set.
        let (i, f) = (s.sigmoid(s.add(x[0], u[0])), s.sigmoid(s.add(x[1], u[1])));
        let o = s.sigmoid(s.add(x[3], u[3]));
        let g = s.tanh(s.add(x[2], u[2]));
        let c = s.fma(f, c, s.mul(i, g));
        (s.mul(o, s.tanh(c)), c, [i, f, g, o])
    }

    #[inline(always)]
    fn back<S: Simd>(s: S, at: At<S::V>) -> Grads<S::V> {
        let [i, f, g, o] = at.kept;
        let tanh_c = s.tanh(at.c);
        let dc = s.fma(s.mul(at.dh, o), tanh_slope(s, tanh_c), at.dc);
        let dx = [
            s.mul(s.mul(dc, g), sigmoid_slope(s, i)),
            s.mul(s.mul(dc, at.c_before), sigmoid_slope(s, f)),
            s.mul(s.mul(dc, i), tanh_slope(s, g)),
            s.mul(s.mul(at.dh, tanh_c), sigmoid_slope(s, o)),
        ];
        Grads { dx, du: dx, dh: s.zero(), dc: s.mul(dc, f) }
    }
}

#[derive(Clone, Copy)]
pub struct Gru;

impl Cell for Gru {
    const GATES: usize = 3;
    /// The gates, and `u_n`, which the reset gate multiplies.
    const KEPT: usize = 4;
    const SPLIT: bool = true;

    #[inline(always)]
    fn step<S: Simd>(s: S, x: [S::V; 4], u: [S::V; 4], (h, _): (S::V, S::V)) -> (S::V, S::V, [S::V; 4]) {
        let (r, z) = (s.sigmoid(s.add(x[0], u[0])), s.sigmoid(s.add(x[1], u[1])));
        let n = s.tanh(s.fma(r, u[2], x[2]));
        // (1 - z) n + z h = n + z (h - n)
        (s.fma(z, s.sub(h, n), n), s.zero(), [r, z, n, u[2]])
    }

    #[inline(always)]
    fn back<S: Simd>(s: S, at: At<S::V>) -> Grads<S::V> {
        let [r, z, n, u_n] = at.kept;
        let dn = s.mul(s.mul(at.dh, s.sub(s.splat(1.0), z)), tanh_slope(s, n));
        let dz = s.mul(s.mul(at.dh, s.sub(at.h_before, n)), sigmoid_slope(s, z));
        let dr = s.mul(s.mul(dn, u_n), sigmoid_slope(s, r));
        let none = s.zero();
        Grads { dx: [dr, dz, dn, none], du: [dr, dz, s.mul(dn, r), none], dh: s.mul(at.dh, z), dc: none }
    }
}
