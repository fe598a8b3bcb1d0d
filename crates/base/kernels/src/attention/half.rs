//! Attention whose products are in float16 (AVX-512 FP16).
//!
//! A unit of work is two strips: 64 queries, two vectors of float16. What lies in the lanes of a product (queries, or the
//! columns of a head) is stored as float16, what is broadcast to all lanes as words that hold a number twice. Each block
//! of 64 keys and each unit's queries have one power of two per factor that brings the largest number into 8..16, so that
//! sums of 64 products stay below 16,384. Sums beyond that, and everything that is not a product, are 32-bit floats.

use super::hull;
use super::strip::{Strip, VECTORS};
use crate::simd::MAX_LANES;

mod backward;
mod forward;
mod pack;
mod step;
mod tile;

pub use backward::backward;
pub use forward::forward;

/// Strips side by side, a vector of float16 each.
const STRIPS: usize = 2;
/// Queries of a strip.
const WIDTH: usize = VECTORS * MAX_LANES;
/// Queries of a unit.
const QUERIES: usize = STRIPS * WIDTH;
/// Keys per block.
const KEYS: usize = 64;
/// Probabilities are multiplied by two to this power, so that small ones keep their precision.
const LIFT: f32 = 3.0;

/// Per strip: the part of `count` keys after `from` that any query attends, counted from there, in whole tiles.
fn within(strips: &[Strip; STRIPS], from: usize, count: usize) -> [(usize, usize); STRIPS] {
    [&strips[0], &strips[1]].map(|strip| {
        let [first, second] = strip.within(from, count);
        hull(first, second)
    })
}

/// The strips, first and end, whose range holds `j`.
#[inline(always)]
fn active(ranges: [(usize, usize); STRIPS], j: usize) -> (usize, usize) {
    match ranges.map(|(lo, hi)| lo <= j && j < hi) {
        [true, true] => (0, 2),
        [true, false] => (0, 1),
        [false, true] => (1, 2),
        [false, false] => (0, 0),
    }
}
