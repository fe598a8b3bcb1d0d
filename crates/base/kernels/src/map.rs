//! Elementwise loops, written as what happens to one vector.

use crate::simd::{self, Kernel, Level, Simd};

/// Output vectors from input vectors and the outputs' old values. Mark `apply` `#[inline(always)]`.
pub trait Map<const I: usize, const O: usize>: Copy + Send + Sync {
    fn apply<S: Simd>(self, s: S, x: [S::V; I], old: [S::V; O]) -> [S::V; O];
}

/// Elements per task; a multiple of every vector length.
const TASK: usize = 1 << 14;

/// Applies `m` to slices of one length, on all threads.
pub fn map<const I: usize, const O: usize>(m: impl Map<I, O>, inputs: [&[f32]; I], outputs: [&mut [f32]; O]) {
    split(simd::level(), m, inputs, outputs);
}

/// [`map`] on the calling thread.
pub fn map_serial<const I: usize, const O: usize>(
    level: Level,
    m: impl Map<I, O>,
    inputs: [&[f32]; I],
    outputs: [&mut [f32]; O],
) {
    simd::run(level, Loop { m, inputs, outputs });
}

fn split<const I: usize, const O: usize>(
    level: Level,
    m: impl Map<I, O>,
    inputs: [&[f32]; I],
    mut outputs: [&mut [f32]; O],
) {
    let len = outputs[0].len();
    if len <= TASK {
        return simd::run(level, Loop { m, inputs, outputs });
    }
    let mid = (len / 2).next_multiple_of(TASK);
    let (left, right) = (inputs.map(|x| &x[..mid]), inputs.map(|x| &x[mid..]));
    let tails = outputs.each_mut().map(|y| {
        let (head, tail) = std::mem::take(y).split_at_mut(mid);
        *y = head;
        tail
    });
    rayon::join(|| split(level, m, left, outputs), || split(level, m, right, tails));
}

struct Loop<'a, M, const I: usize, const O: usize> {
    m: M,
    inputs: [&'a [f32]; I],
    outputs: [&'a mut [f32]; O],
}

impl<M: Map<I, O>, const I: usize, const O: usize> Kernel for Loop<'_, M, I, O> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.outputs[0].len();
        let even = len / S::LANES * S::LANES;
        for i in (0..even).step_by(S::LANES) {
            let x = std::array::from_fn(|j| s.at(self.inputs[j], i));
            let old = std::array::from_fn(|j| s.at(self.outputs[j], i));
            let y = self.m.apply(s, x, old);
            for j in 0..O {
                s.put(self.outputs[j], i, y[j]);
            }
        }
        if even < len {
            let x = std::array::from_fn(|j| s.tail(self.inputs[j], even, 0.0));
            let old = std::array::from_fn(|j| s.tail(self.outputs[j], even, 0.0));
            let y = self.m.apply(s, x, old);
            for j in 0..O {
                s.put_tail(self.outputs[j], even, y[j]);
            }
        }
    }
}
