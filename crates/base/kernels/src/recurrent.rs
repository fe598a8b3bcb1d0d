//! Recurrent layers over `[B, T, H]`: plain (Elman 1990), LSTM (Hochreiter and Schmidhuber 1997, with the forget gate
//! of Gers et al. 2000) and GRU (Cho et al. 2014, with the bias inside the reset product), in the gate order and with
//! the formulas of `torch.nn.RNN`, `LSTM` and `GRU`.
//!
//! The input's part of all gates is one large product made beforehand. A step multiplies the state of all rows by the
//! hidden weights, and one pass over the result does the rest. Backward goes through time in the same way; the
//! weights' gradient is again one large product over all steps.

use crate::gemm::{Mat, matmul};
use crate::scratch;
use crate::simd::{self, Level};
use rayon::prelude::*;

mod cell;
mod step;

use cell::{Cell, Gru, Lstm, Tanh};
use step::{Back, Forward};

/// Which formulas a step follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecurrentKind {
    /// `h = tanh(x + u)`; one gate.
    Tanh,
    /// Gates `i, f, g, o`: `c = σ(f) c + σ(i) tanh(g)`, `h = σ(o) tanh(c)`.
    Lstm,
    /// Gates `r, z, n`: `n = tanh(x_n + σ(r) u_n)`, `h = (1 - σ(z)) n + σ(z) h`.
    Gru,
}

impl RecurrentKind {
    /// How many gates there are: the weights have this many times `H` rows.
    pub fn gates(self) -> usize {
        match self {
            RecurrentKind::Tanh => Tanh::GATES,
            RecurrentKind::Lstm => Lstm::GATES,
            RecurrentKind::Gru => Gru::GATES,
        }
    }

    /// Whether the state has a second part, `c`.
    pub fn has_memory(self) -> bool {
        self == RecurrentKind::Lstm
    }
}

/// A layer's run over a batch, with `G` the number of gates; `u = w · h + bias`.
#[derive(Clone, Copy)]
pub struct Recurrence<'a> {
    pub kind: RecurrentKind,
    /// `(B, T, H)`.
    pub sizes: (usize, usize, usize),
    /// `[B, T, G * H]`: the input's part of the gates, its bias included.
    pub x: &'a [f32],
    /// `[G * H, H]`.
    pub w: &'a [f32],
    /// `[G * H]`.
    pub bias: &'a [f32],
    /// `[B, H]`.
    pub h0: &'a [f32],
    /// `[B, H]`; empty without a memory.
    pub c0: &'a [f32],
    /// Steps of each row `[B]`; after its end a row's state is frozen, so the last step holds every row's final state.
    pub lengths: Option<&'a [u32]>,
}

/// What the forward pass gives, and the backward pass needs again.
#[derive(Clone, Debug, Default)]
pub struct RecurrentStates {
    /// `[B, T, H]`: the output.
    pub h: Vec<f32>,
    /// `[B, T, H]`; empty without a memory.
    pub c: Vec<f32>,
    /// `[B, T, K * H]`: the values of the gates.
    pub kept: Vec<f32>,
}

/// The gradients of a [`Recurrence`]'s numbers, shaped as they are.
#[derive(Clone, Debug, Default)]
pub struct RecurrentGrads {
    pub dx: Vec<f32>,
    pub dw: Vec<f32>,
    pub dbias: Vec<f32>,
    pub dh0: Vec<f32>,
    pub dc0: Vec<f32>,
}

/// Runs the layer over all steps.
pub fn recurrent_forward(r: &Recurrence) -> RecurrentStates {
    r.check("recurrent_forward");
    match r.kind {
        RecurrentKind::Tanh => forward::<Tanh>(r),
        RecurrentKind::Lstm => forward::<Lstm>(r),
        RecurrentKind::Gru => forward::<Gru>(r),
    }
}

/// The gradients for the gradient `dh [B, T, H]` of all outputs and `dc [B, H]` of the final memory (empty without).
pub fn recurrent_backward(r: &Recurrence, states: &RecurrentStates, dh: &[f32], dc: &[f32]) -> RecurrentGrads {
    r.check("recurrent_backward");
    let (what, (batch, seq, d)) = ("recurrent_backward", r.sizes);
    assert_eq!(dh.len(), batch * seq * d, "{what}: dh has {} floats, not [{batch}, {seq}, {d}]", dh.len());
    assert_eq!(dc.len(), r.c0.len(), "{what}: dc has {} floats, c0 {}", dc.len(), r.c0.len());
    match r.kind {
        RecurrentKind::Tanh => backward::<Tanh>(r, states, dh, dc),
        RecurrentKind::Lstm => backward::<Lstm>(r, states, dh, dc),
        RecurrentKind::Gru => backward::<Gru>(r, states, dh, dc),
    }
}

impl Recurrence<'_> {
    fn check(&self, what: &str) {
        let ((batch, seq, d), gates) = (self.sizes, self.kind.gates());
        let memory = if self.kind.has_memory() { batch * d } else { 0 };
        for (name, len, want) in [
            ("x", self.x.len(), batch * seq * gates * d),
            ("w", self.w.len(), gates * d * d),
            ("bias", self.bias.len(), gates * d),
            ("h0", self.h0.len(), batch * d),
            ("c0", self.c0.len(), memory),
        ] {
            assert_eq!(len, want, "{what}: {name} has {len} floats, [{batch}, {seq}, {d}] implies {want}");
        }
        if let Some(lengths) = self.lengths {
            assert_eq!(lengths.len(), batch, "{what}: {} lengths for {batch} rows", lengths.len());
            let far = lengths.iter().copied().max().unwrap_or(0) as usize;
            assert!(far <= seq, "{what}: a row of {far} steps, but there are {seq}");
        }
    }

    fn length(&self, b: usize) -> usize {
        self.lengths.map_or(self.sizes.1, |l| l[b] as usize)
    }
}

/// Floats of the gates below which a step's rows stay on the calling thread.
const SERIAL: usize = 1 << 14;

/// Calls `f` with each row and its own parts of two buffers.
fn rows<R: Send>(
    items: &mut [R],
    a: (&mut [f32], usize),
    b: (&mut [f32], usize),
    f: impl Fn(&mut R, &mut [f32], &mut [f32]) + Sync,
) {
    if a.0.len() < SERIAL {
        let parts = a.0.chunks_exact_mut(a.1).zip(b.0.chunks_exact_mut(b.1));
        return items.iter_mut().zip(parts).for_each(|(row, (a, b))| f(row, a, b));
    }
    let parts = a.0.par_chunks_exact_mut(a.1).zip(b.0.par_chunks_exact_mut(b.1));
    let least = (SERIAL / 4).div_ceil(a.1);
    items.par_iter_mut().zip(parts).with_min_len(least).for_each(|(row, (a, b))| f(row, a, b));
}

/// The part of row `b`, or nothing of nothing.
fn part(x: &[f32], b: usize, len: usize) -> &[f32] {
    if x.is_empty() { x } else { &x[b * len..][..len] }
}

fn parts_mut(x: &mut [f32], len: usize, count: usize) -> Vec<&mut [f32]> {
    let mut parts: Vec<&mut [f32]> = if len == 0 { vec![] } else { x.chunks_mut(len).collect() };
    parts.resize_with(count, || &mut []);
    parts
}

fn forward<C: Cell>(r: &Recurrence) -> RecurrentStates {
    let (batch, seq, d) = r.sizes;
    let (gates, memory, level) = (C::GATES * d, r.c0.len() * seq, simd::level());
    let mut states = RecurrentStates {
        h: vec![0.0; batch * seq * d],
        c: vec![0.0; memory],
        kept: vec![0.0; batch * seq * C::KEPT * d],
    };
    if states.h.is_empty() {
        return states;
    }
    let h = parts_mut(&mut states.h, seq * d, batch);
    let c = parts_mut(&mut states.c, seq * d, batch);
    let kept = parts_mut(&mut states.kept, seq * C::KEPT * d, batch);
    let mut items: Vec<Forward<C>> = (h.into_iter().zip(c).zip(kept).enumerate())
        .map(|(b, ((h, c), kept))| {
            Forward::new(part(r.x, b, seq * gates), r.bias, part(r.c0, b, d), (h, c, kept), r.length(b))
        })
        .collect();
    let mut state = r.h0.to_vec();
    scratch::with(batch * gates, |u| {
        for t in 0..seq {
            matmul(u, Mat::new(&state, batch, d), Mat::new(r.w, gates, d).t(), false);
            rows(&mut items, (u, gates), (&mut state, d), |row, u, state| row.step(level, t, u, state));
        }
    });
    states
}

fn backward<C: Cell>(r: &Recurrence, states: &RecurrentStates, dh: &[f32], dc: &[f32]) -> RecurrentGrads {
    let (batch, seq, d) = r.sizes;
    let (gates, level) = (C::GATES * d, simd::level());
    let mut dx = vec![0.0; batch * seq * gates];
    // The gradient of `u` at all steps, where it is not that of `x`.
    let mut du_all = vec![0.0; if C::SPLIT { dx.len() } else { 0 }];
    let (mut dh0, mut dc0) = (vec![0.0; batch * d], dc.to_vec());
    if !dx.is_empty() {
        let dxs = parts_mut(&mut dx, seq * gates, batch);
        let dus = parts_mut(&mut du_all, if C::SPLIT { seq * gates } else { 0 }, batch);
        let dcs = parts_mut(&mut dc0, if dc.is_empty() { 0 } else { d }, batch);
        let mut items: Vec<Back<C>> = (dxs.into_iter().zip(dus).zip(dcs).enumerate())
            .map(|(b, grads)| {
                let state = |x| part(x, b, seq * d);
                let kept = part(&states.kept, b, seq * C::KEPT * d);
                let start = (part(r.h0, b, d), part(r.c0, b, d));
                Back::new((state(&states.h), state(&states.c), kept), start, state(dh), grads, r.length(b))
            })
            .collect();
        scratch::with(batch * gates, |du| {
            for t in (0..seq).rev() {
                rows(&mut items, (du, gates), (&mut dh0, d), |row, du, carry| row.step(level, t, du, carry));
                matmul(&mut dh0, Mat::new(du, batch, gates), Mat::new(r.w, gates, d), true);
            }
        });
    }
    let du = if C::SPLIT { &du_all } else { &dx };
    let (dw, dbias) = weight_grads(level, r, states, du, gates);
    RecurrentGrads { dx, dw, dbias, dh0, dc0 }
}

/// The gradients of `w` and `bias` from that of `u` at all steps.
fn weight_grads(
    level: Level,
    r: &Recurrence,
    states: &RecurrentStates,
    du: &[f32],
    gates: usize,
) -> (Vec<f32>, Vec<f32>) {
    let (batch, seq, d) = r.sizes;
    let mut dw = vec![0.0; gates * d];
    let mut dbias = vec![0.0; gates];
    if du.is_empty() {
        return (dw, dbias);
    }
    scratch::with(batch * seq * d, |before| {
        for (b, before) in before.chunks_exact_mut(seq * d).enumerate() {
            before[..d].copy_from_slice(part(r.h0, b, d));
            before[d..].copy_from_slice(&part(&states.h, b, seq * d)[..(seq - 1) * d]);
        }
        let du = Mat::new(du, batch * seq, gates);
        matmul(&mut dw, du.t(), Mat::new(before, batch * seq, d), false);
    });
    const COLUMNS: usize = 64;
    dbias.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, sums)| {
        simd::run(level, step::ColumnSums { x: &du[i * COLUMNS..], width: gates, sums });
    });
    (dw, dbias)
}
