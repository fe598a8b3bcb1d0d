//! A strip: as many consecutive queries as two vectors hold.

use super::tile::ROWS;
use super::{Inputs, hull, overlap};
use crate::simd::{MAX_LANES, Simd, lanes};

/// Vectors of queries in a strip.
pub const VECTORS: usize = 2;

/// Which keys the queries of a strip attend.
#[derive(Clone, Copy)]
pub struct Strip {
    pub first: usize,
    /// Fewer than the lanes in the last strip of a sequence.
    pub rows: usize,
    /// Per query: the key at whose place it stands.
    pub position: [f32; VECTORS * MAX_LANES],
    lo: [f32; VECTORS * MAX_LANES],
    hi: [f32; VECTORS * MAX_LANES],
    /// Per vector: from the first to the last key that any query attends.
    any: [(usize, usize); VECTORS],
    /// Per vector: the keys that all queries attend.
    all: [(usize, usize); VECTORS],
}

impl Strip {
    /// The strip from query `first`, which may lie past the end: then it has no queries.
    pub fn new(inputs: &Inputs, b: usize, first: usize) -> Self {
        let lanes = lanes(inputs.level);
        let rows = (VECTORS * lanes).min(inputs.shape.seq_q.saturating_sub(first));
        let zero = [0.0; VECTORS * MAX_LANES];
        let (none, every) = ([(0, 0); VECTORS], [(0, usize::MAX); VECTORS]);
        let mut strip = Strip { first, rows, position: zero, lo: zero, hi: zero, any: none, all: every };
        for r in 0..VECTORS * lanes {
            let (lo, hi) = if r < rows { inputs.span(b, first + r) } else { (0, 0) };
            (strip.lo[r], strip.hi[r]) = (lo as f32, hi as f32);
            strip.position[r] = inputs.shape.position(first + r);
            strip.any[r / lanes] = hull(strip.any[r / lanes], (lo, hi));
            strip.all[r / lanes] = overlap(strip.all[r / lanes], (lo, hi));
        }
        strip
    }

    /// From the first to the last key that any query attends.
    pub fn keys(&self) -> (usize, usize) {
        hull(self.any[0], self.any[1])
    }

    /// Per vector: the part of `count` keys after `from` that any query attends, counted from there, in whole tiles.
    pub fn within(&self, from: usize, count: usize) -> [(usize, usize); VECTORS] {
        self.any.map(|keys| {
            let (lo, hi) = overlap(keys, (from, from + count));
            if lo == hi { (0, 0) } else { ((lo - from) / ROWS * ROWS, (hi - from).next_multiple_of(ROWS)) }
        })
    }

    /// Whether every query of `count` vectors from `first` attends a whole tile of keys from `key`.
    #[inline(always)]
    pub fn covers(&self, key: usize, first: usize, count: usize) -> bool {
        self.all[first..first + count].iter().all(|(lo, hi)| *lo <= key && key + ROWS <= *hi)
    }

    /// `x` where the queries of vector `v` attend `key`, `other` elsewhere.
    #[inline(always)]
    pub fn keep<S: Simd>(&self, s: S, x: S::V, other: S::V, key: usize, v: usize) -> S::V {
        let key = s.splat(key as f32);
        let x = s.select_less(key, s.at(&self.hi, v * S::LANES), x, other);
        s.select_less(key, s.at(&self.lo, v * S::LANES), other, x)
    }

    /// Whether query `r` of the strip attends nothing.
    pub fn is_empty(&self, r: usize) -> bool {
        self.lo[r] >= self.hi[r]
    }
}
