//! One row's step: the elementwise part of the forward and backward passes.

use std::marker::PhantomData;

use super::cell::{At, Cell};
use crate::scan::{load, save};
use crate::simd::{self, Kernel, Level, Simd};

/// One row of the batch on the way forward.
pub struct Forward<'a, C> {
    x: &'a [f32],
    bias: &'a [f32],
    c0: &'a [f32],
    h: &'a mut [f32],
    c: &'a mut [f32],
    kept: &'a mut [f32],
    length: usize,
    cell: PhantomData<C>,
}

impl<'a, C: Cell> Forward<'a, C> {
    pub fn new(
        x: &'a [f32],
        bias: &'a [f32],
        c0: &'a [f32],
        (h, c, kept): (&'a mut [f32], &'a mut [f32], &'a mut [f32]),
        length: usize,
    ) -> Self {
        Forward { x, bias, c0, h, c, kept, length, cell: PhantomData }
    }

    /// Step `t` from `u` without its bias and the state, which becomes the new one.
    pub fn step(&mut self, level: Level, t: usize, u: &[f32], state: &mut [f32]) {
        let d = state.len();
        let (past, c) = self.c.split_at_mut(if self.c.is_empty() { 0 } else { t * d });
        let c_before = if t == 0 || past.is_empty() { self.c0 } else { &past[(t - 1) * d..] };
        let c = if c.is_empty() { c } else { &mut c[..d] };
        if t < self.length {
            let (gates, kept) = (C::GATES * d, C::KEPT * d);
            let x = &self.x[t * gates..][..gates];
            let kept = &mut self.kept[t * kept..][..kept];
            simd::run(level, Step::<C> { x, u, bias: self.bias, c_before, state, c, kept, cell: PhantomData });
        } else {
            c.copy_from_slice(c_before);
        }
        self.h[t * d..][..d].copy_from_slice(state);
    }
}

/// Part `j` of `x`, which has parts of length `d`.
#[inline(always)]
fn gate<S: Simd>(s: S, x: &[f32], j: usize, d: usize, i: usize) -> S::V {
    load(s, &x[j * d..][..d], i)
}

struct Step<'a, C> {
    x: &'a [f32],
    u: &'a [f32],
    bias: &'a [f32],
    c_before: &'a [f32],
    state: &'a mut [f32],
    c: &'a mut [f32],
    kept: &'a mut [f32],
    cell: PhantomData<C>,
}

impl<C: Cell> Kernel for Step<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.state.len();
        for i in (0..d).step_by(S::LANES) {
            let (mut x, mut u) = ([s.zero(); 4], [s.zero(); 4]);
            for j in 0..C::GATES {
                x[j] = gate(s, self.x, j, d, i);
                u[j] = s.add(gate(s, self.u, j, d, i), gate(s, self.bias, j, d, i));
            }
            let (h, c, kept) = C::step(s, x, u, (load(s, self.state, i), load(s, self.c_before, i)));
            save(s, self.state, i, h);
            save(s, self.c, i, c);
            for j in 0..C::KEPT {
                save(s, &mut self.kept[j * d..][..d], i, kept[j]);
            }
        }
    }
}

/// One row of the batch on the way back.
pub struct Back<'a, C> {
    h: &'a [f32],
    c: &'a [f32],
    kept: &'a [f32],
    h0: &'a [f32],
    c0: &'a [f32],
    dh: &'a [f32],
    dx: &'a mut [f32],
    du_all: &'a mut [f32],
    dc: &'a mut [f32],
    length: usize,
    cell: PhantomData<C>,
}

impl<'a, C: Cell> Back<'a, C> {
    pub fn new(
        (h, c, kept): (&'a [f32], &'a [f32], &'a [f32]),
        (h0, c0): (&'a [f32], &'a [f32]),
        dh: &'a [f32],
        ((dx, du_all), dc): ((&'a mut [f32], &'a mut [f32]), &'a mut [f32]),
        length: usize,
    ) -> Self {
        Back { h, c, kept, h0, c0, dh, dx, du_all, dc, length, cell: PhantomData }
    }

    /// Step `t`: gives the gradient of `u`; `carry` is the gradient of the state after it, and becomes that of the
    /// state before it, without the part that goes through `u`.
    pub fn step(&mut self, level: Level, t: usize, du: &mut [f32], carry: &mut [f32]) {
        let (d, gates, kept) = (carry.len(), du.len(), carry.len() * C::KEPT);
        let dh = &self.dh[t * d..][..d];
        if t >= self.length {
            carry.iter_mut().zip(dh).for_each(|(sum, g)| *sum += g);
            return du.fill(0.0);
        }
        let at = |x: &'a [f32], start: &'a [f32]| {
            if x.is_empty() {
                return (x, x);
            }
            (&x[t * d..][..d], if t == 0 { start } else { &x[(t - 1) * d..][..d] })
        };
        let ((h, h_before), (c, c_before)) = (at(self.h, self.h0), at(self.c, self.c0));
        let dx = &mut self.dx[t * gates..][..gates];
        let step = BackStep::<C> {
            states: [h, c, h_before, c_before],
            kept: &self.kept[t * kept..][..kept],
            dh,
            carry,
            dc: self.dc,
            dx,
            du: &mut *du,
            cell: PhantomData,
        };
        simd::run(level, step);
        if C::SPLIT {
            self.du_all[t * gates..][..gates].copy_from_slice(du);
        }
    }
}

struct BackStep<'a, C> {
    /// `h`, `c`, and both before the step.
    states: [&'a [f32]; 4],
    kept: &'a [f32],
    dh: &'a [f32],
    carry: &'a mut [f32],
    dc: &'a mut [f32],
    dx: &'a mut [f32],
    du: &'a mut [f32],
    cell: PhantomData<C>,
}

impl<C: Cell> Kernel for BackStep<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.carry.len();
        for i in (0..d).step_by(S::LANES) {
            let mut kept = [s.zero(); 4];
            for j in 0..C::KEPT {
                kept[j] = gate(s, self.kept, j, d, i);
            }
            let [h, c, h_before, c_before] = self.states;
            let (h, h_before) = (load(s, h, i), load(s, h_before, i));
            let (c, c_before) = (load(s, c, i), load(s, c_before, i));
            let dh = s.add(load(s, self.carry, i), load(s, self.dh, i));
            let grads = C::back(s, At { kept, h, c, h_before, c_before, dh, dc: load(s, self.dc, i) });
            save(s, self.carry, i, grads.dh);
            save(s, self.dc, i, grads.dc);
            for j in 0..C::GATES {
                save(s, &mut self.dx[j * d..][..d], i, grads.dx[j]);
                save(s, &mut self.du[j * d..][..d], i, grads.du[j]);
            }
        }
    }
}

/// Sums of the first columns of rows of `width`, in order of the rows.
pub struct ColumnSums<'a> {
    pub x: &'a [f32],
    pub width: usize,
    pub sums: &'a mut [f32],
}

impl Kernel for ColumnSums<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.sums.len();
        for row in self.x.chunks(self.width) {
            let row = &row[..n];
            for i in (0..n).step_by(S::LANES) {
                let sum = s.add(load(s, self.sums, i), load(s, row, i));
                save(s, self.sums, i, sum);
            }
        }
    }
}
