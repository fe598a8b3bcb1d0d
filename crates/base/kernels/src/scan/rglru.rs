//! The gated linear recurrence of Griffin (De et al. 2024, equations 1 to 4).

use super::{BLOCK, Part, Shared, Task, cell, load, run_parts, save, softplus, sum_parts};
use crate::simd::Simd;

/// `h_t = a_t h_{t-1} + sqrt(1 - a_t²) σ(i_t) x_t` with `log a_t = -8 log(1 + e^λ) σ(r_t)`, for each channel. The
/// paper's Λ is `-λ`; RecurrentGemma's weights hold `λ`.
#[derive(Clone, Copy)]
pub struct RgLru<'a> {
    /// `(B, T, D)`.
    pub sizes: (usize, usize, usize),
    /// `[B, T, D]`.
    pub x: &'a [f32],
    /// `[B, T, D]`: the recurrence gate before its logistic function.
    pub r: &'a [f32],
    /// `[B, T, D]`: the input gate before its logistic function.
    pub i: &'a [f32],
    /// `[D]`.
    pub lambda: &'a [f32],
    /// `[B, D]`: the state before the first step.
    pub h0: &'a [f32],
}

/// Where the gradients go, shaped as the numbers of [`RgLru`]; overwritten.
pub struct RgLruGrads<'a> {
    pub x: &'a mut [f32],
    pub r: &'a mut [f32],
    pub i: &'a mut [f32],
    pub lambda: &'a mut [f32],
    pub h0: &'a mut [f32],
}

/// The paper's c.
const SHARPNESS: f32 = 8.0;
/// The slope of the root is as that at this width and no steeper, as in RecurrentGemma.
const LEAST_ROOT: f32 = 5e-4;

impl RgLru<'_> {
    fn check(&self, what: &str, more: &[(&str, usize, usize)]) {
        let (batch, seq, d) = self.sizes;
        let all = batch * seq * d;
        let own = [
            ("x", self.x.len(), all),
            ("r", self.r.len(), all),
            ("i", self.i.len(), all),
            ("lambda", self.lambda.len(), d),
            ("h0", self.h0.len(), batch * d),
        ];
        for (name, len, want) in own.iter().chain(more) {
            assert_eq!(len, want, "{what}: {name} has {len} floats, [{batch}, {seq}, {d}] implies {want}");
        }
    }
}

/// The states `h [B, T, D]` of all steps; the last of them starts the next part of the sequence.
pub fn rg_lru_forward(lru: &RgLru, h: &mut [f32]) {
    let (batch, _, d) = lru.sizes;
    lru.check("rg_lru_forward", &[("h", h.len(), lru.x.len())]);
    run_parts(&Forward { lru, h: Shared::new(h, d) }, batch, d);
}

/// `1 - e^w` for `w <= 0`, exact where `w` is small: a series for a 32nd of it, doubled five times.
#[inline(always)]
fn one_minus_exp<S: Simd>(s: S, w: S::V) -> S::V {
    let v = s.mul(s.max(s.splat(-20.0), w), s.splat(-1.0 / 32.0));
    // 1 - e^-v = v - v²/2 + v³/6 - …
    let mut p = s.splat(-1.0 / 40_320.0);
    for c in [1.0 / 5040.0, -1.0 / 720.0, 1.0 / 120.0, -1.0 / 24.0, 1.0 / 6.0, -0.5, 1.0] {
        p = s.fma(p, v, s.splat(c));
    }
    let mut q = s.mul(p, v);
    for _ in 0..5 {
        // 1 - (1 - q)²
        q = s.mul(q, s.sub(s.splat(2.0), q));
    }
    q
}

/// A step's gates.
struct Gates<V> {
    r: V,
    i: V,
    a: V,
    /// `sqrt(1 - a²)`.
    root: V,
}

#[inline(always)]
fn gates<S: Simd>(s: S, r: S::V, i: S::V, rate: S::V) -> Gates<S::V> {
    let (r, i) = (s.sigmoid(r), s.sigmoid(i));
    let log_a = s.mul(rate, r);
    let root = s.sqrt(one_minus_exp(s, s.add(log_a, log_a)));
    Gates { r, i, a: s.exp(log_a), root }
}

/// `-8 log(1 + e^λ)` of a task's channels.
#[inline(always)]
fn put_rates<S: Simd>(s: S, lambda: &[f32], rates: &mut [f32]) {
    for i in (0..lambda.len()).step_by(S::LANES) {
        s.put(rates, i, s.mul(s.splat(-SHARPNESS), softplus(s, load(s, lambda, i))));
    }
}

struct Forward<'a> {
    lru: &'a RgLru<'a>,
    h: Shared,
}

impl Task for Forward<'_> {
    fn room(&self) -> usize {
        2 * BLOCK
    }

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, p: Part, room: &mut [f32]) {
        let (lru, (_, seq, d)) = (self.lru, self.lru.sizes);
        let (rates, state) = room.split_at_mut(BLOCK);
        put_rates(s, p.of(lru.lambda, 0, d), rates);
        state[..p.len].copy_from_slice(p.of(lru.h0, p.b, d));
        let state = &mut state[..p.len];
        for t in 0..seq {
            let row = p.b * seq + t;
            // SAFETY: the parts of all tasks are disjoint, and this one lives until the step ends.
            let h = unsafe { self.h.part(p, row) };
            for i in (0..p.len).step_by(S::LANES) {
                let at = (row, d);
                let g = gates(s, cell(s, p, lru.r, at, i), cell(s, p, lru.i, at, i), s.at(rates, i));
                let taken = s.mul(s.mul(g.root, g.i), cell(s, p, lru.x, at, i));
                let new = s.fma(g.a, load(s, state, i), taken);
                save(s, state, i, new);
                save(s, h, i, new);
            }
        }
    }
}

/// The gradients of [`rg_lru_forward`] from its result `h`, for the gradient `dh [B, T, D]` of it.
pub fn rg_lru_backward(lru: &RgLru, h: &[f32], dh: &[f32], grads: &mut RgLruGrads) {
    let (batch, _, d) = lru.sizes;
    let all = lru.x.len();
    let more = [
        ("h", h.len(), all),
        ("dh", dh.len(), all),
        ("the gradient of x", grads.x.len(), all),
        ("the gradient of r", grads.r.len(), all),
        ("the gradient of i", grads.i.len(), all),
        ("the gradient of lambda", grads.lambda.len(), d),
        ("the gradient of h0", grads.h0.len(), batch * d),
    ];
    lru.check("rg_lru_backward", &more);
    let mut parts = vec![0.0; batch * d];
    let task = Backward {
        lru,
        h,
        dh,
        dx: Shared::new(grads.x, d),
        dr: Shared::new(grads.r, d),
        di: Shared::new(grads.i, d),
        dh0: Shared::new(grads.h0, d),
        d_lambda: Shared::new(&mut parts, d),
    };
    run_parts(&task, batch, d);
    sum_parts(&parts, grads.lambda);
}

struct Backward<'a> {
    lru: &'a RgLru<'a>,
    h: &'a [f32],
    dh: &'a [f32],
    dx: Shared,
    dr: Shared,
    di: Shared,
    dh0: Shared,
    d_lambda: Shared,
}

impl Task for Backward<'_> {
    fn room(&self) -> usize {
        3 * BLOCK
    }

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, p: Part, room: &mut [f32]) {
        let (lru, (_, seq, d)) = (self.lru, self.lru.sizes);
        room.fill(0.0);
        let (rates, rest) = room.split_at_mut(BLOCK);
        let (carry, d_rate) = rest.split_at_mut(BLOCK);
        put_rates(s, p.of(lru.lambda, 0, d), rates);
        let one = s.splat(1.0);
        for t in (0..seq).rev() {
            let row = p.b * seq + t;
            // SAFETY: the parts of all tasks are disjoint, and these live until the step ends.
            let (dx, dr, di) = unsafe { (self.dx.part(p, row), self.dr.part(p, row), self.di.part(p, row)) };
            let before = if t == 0 { p.of(lru.h0, p.b, d) } else { p.of(self.h, row - 1, d) };
            for i in (0..p.len).step_by(S::LANES) {
                let at = (row, d);
                let (x, rate) = (cell(s, p, lru.x, at, i), s.at(rates, i));
                let g = gates(s, cell(s, p, lru.r, at, i), cell(s, p, lru.i, at, i), rate);
                let grad = s.add(cell(s, p, self.dh, at, i), s.at(carry, i));
                s.put(carry, i, s.mul(grad, g.a));
                save(s, dx, i, s.mul(grad, s.mul(g.root, g.i)));
                let for_i = s.mul(s.mul(grad, s.mul(g.root, x)), s.mul(g.i, s.sub(one, g.i)));
                save(s, di, i, for_i);
                // d/d log a: a h - a² / sqrt(1 - a²) i x
                let steep = s.div(s.mul(g.a, g.a), s.max(s.splat(LEAST_ROOT), g.root));
                let taken = s.mul(steep, s.mul(g.i, x));
                let d_log = s.mul(grad, s.sub(s.mul(g.a, load(s, before, i)), taken));
                save(s, dr, i, s.mul(s.mul(d_log, rate), s.mul(g.r, s.sub(one, g.r))));
                s.put(d_rate, i, s.fma(d_log, g.r, s.at(d_rate, i)));
            }
        }
        // SAFETY: as above.
        let (d_lambda, dh0) = unsafe { (self.d_lambda.part(p, p.b), self.dh0.part(p, p.b)) };
        dh0.copy_from_slice(&carry[..p.len]);
        for i in (0..p.len).step_by(S::LANES) {
            let slope = s.mul(s.splat(-SHARPNESS), s.sigmoid(cell(s, p, lru.lambda, (0, d), i)));
            save(s, d_lambda, i, s.mul(s.at(d_rate, i), slope));
        }
    }
}
