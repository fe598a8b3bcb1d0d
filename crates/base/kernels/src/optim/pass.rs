//! One pass over a parameter, its gradient and its moments.

use super::moment::{Moment, dither, element};
use crate::simd::{self, Kernel, Level, MAX_LANES, Simd};

/// What happens to one vector of a parameter `p` and its `N` moments. Mark `apply` `#[inline(always)]`.
pub trait Rule<const N: usize>: Copy + Send + Sync {
    fn apply<S: Simd>(self, s: S, g: S::V, p: S::V, moments: [S::V; N]) -> (S::V, [S::V; N]);
}

/// Elements per task; a multiple of every vector length.
const TASK: usize = 1 << 14;

/// Applies `rule` in place, on all threads; `step` counts from 1. `name` is for the message when lengths differ.
pub fn pass<T: Moment, const N: usize>(
    name: &str,
    rule: impl Rule<N>,
    p: &mut [f32],
    g: &[f32],
    moments: [&mut [T]; N],
    step: u64,
) {
    let lengths = moments.each_ref().map(|m| m.len());
    assert!(
        g.len() == p.len() && lengths.iter().all(|&len| len == p.len()),
        "{name}: {} parameters, but {} gradients and moments of {lengths:?}",
        p.len(),
        g.len(),
    );
    assert!(step >= 1, "{name}: step counts from 1, got {step}");
    let seeds = std::array::from_fn(|slot| dither(step, slot, 0));
    split(simd::level(), Part { rule, p, g, moments, first: 0, seeds });
}

/// A stretch of the parameter, from element `first` on.
struct Part<'a, R, T, const N: usize> {
    rule: R,
    p: &'a mut [f32],
    g: &'a [f32],
    moments: [&'a mut [T]; N],
    first: usize,
    seeds: [u32; N],
}

fn split<R: Rule<N>, T: Moment, const N: usize>(level: Level, mut part: Part<'_, R, T, N>) {
    let len = part.p.len();
    if len <= TASK {
        return simd::run(level, part);
    }
    let mid = (len / 2).next_multiple_of(TASK);
    let (p, p_tail) = part.p.split_at_mut(mid);
    let (g, g_tail) = part.g.split_at(mid);
    let tails = part.moments.each_mut().map(|m| {
        let (head, tail) = std::mem::take(m).split_at_mut(mid);
        *m = head;
        tail
    });
    let right = Part { p: p_tail, g: g_tail, moments: tails, first: part.first + mid, ..part };
    let left = Part { p, g, ..part };
    rayon::join(|| split(level, left), || split(level, right));
}

impl<R: Rule<N>, T: Moment, const N: usize> Kernel for Part<'_, R, T, N> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let even = self.p.len() / S::LANES * S::LANES;
        for i in (0..even).step_by(S::LANES) {
            let old = self.read(s, i, S::LANES);
            let (p, new) = self.rule.apply(s, s.at(self.g, i), s.at(self.p, i), old);
            s.put(self.p, i, p);
            self.write(s, i, S::LANES, new);
        }
        if even < self.p.len() {
            let old = self.read(s, even, self.p.len() - even);
            let (p, new) = self.rule.apply(s, s.tail(self.g, even, 0.0), s.tail(self.p, even, 0.0), old);
            s.put_tail(self.p, even, p);
            self.write(s, even, self.p.len() - even, new);
        }
    }
}

// Plain loops over whole arrays: the compiler turns them into vectors, but does not inline `from_fn` here.
impl<R, T: Moment, const N: usize> Part<'_, R, T, N> {
    /// `count` numbers of each moment from `i` on, filled up with zeros.
    #[inline(always)]
    fn read<S: Simd>(&self, s: S, i: usize, count: usize) -> [S::V; N] {
        let mut out = [s.zero(); N];
        for j in 0..N {
            let mut t = [0.0; MAX_LANES];
            for (t, x) in t.iter_mut().zip(&self.moments[j][i..i + count]) {
                *t = x.to_f32();
            }
            out[j] = s.at(&t, 0);
        }
        out
    }

    #[inline(always)]
    fn write<S: Simd>(&mut self, s: S, i: usize, count: usize, new: [S::V; N]) {
        for j in 0..N {
            let mut t = [0.0; MAX_LANES];
            s.put(&mut t, 0, new[j]);
            let seed = self.seeds[j].wrapping_add(element(self.first + i));
            let mut stored = [T::from_f32(0.0, 0); MAX_LANES];
            for l in 0..MAX_LANES {
                stored[l] = T::from_f32(t[l], seed.wrapping_add(ELEMENTS[l]));
            }
            self.moments[j][i..i + count].copy_from_slice(&stored[..count]);
        }
    }
}

/// What the elements of a vector add to the threshold of its first.
const ELEMENTS: [u32; MAX_LANES] = {
    let mut out = [0; MAX_LANES];
    let mut l = 0;
    while l < MAX_LANES {
        out[l] = element(l);
        l += 1;
    }
    out
};
