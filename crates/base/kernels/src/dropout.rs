//! Dropout (Srivastava et al. 2014) whose mask is computed again whenever it is wanted.

use crate::simd::{self, Kernel, Simd};
use rayon::prelude::*;

/// Which numbers are dropped: each with probability `p`, decided by the seed, the stream and its place alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// In 0..1.
    pub p: f32,
    pub seed: u64,
    /// What makes one use unlike another: a step and a layer, for instance.
    pub stream: u64,
}

/// `y = x / (1 - p)` where kept and `x * 0` where dropped. The backward pass is the same on gradients.
pub fn dropout(d: &Dropout, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "dropout: x has {} floats, y {}", x.len(), y.len());
    assert!((0.0..1.0).contains(&d.p), "dropout: the probability {} is not in 0..1", d.p);
    let level = simd::level();
    let tasks = x.par_chunks(TASK).zip(y.par_chunks_mut(TASK)).enumerate();
    tasks.for_each(|(i, (x, y))| simd::run(level, Mask { d, first: (i * TASK / GROUP) as u64, x, y }));
}

/// Blocks of four numbers that are computed side by side, whatever the instruction set.
const BLOCKS: usize = 16;
/// Number `i` of a group is word `i / BLOCKS` of block `i % BLOCKS`.
const GROUP: usize = 4 * BLOCKS;
/// Floats per task; a multiple of the group.
const TASK: usize = 1 << 14;

struct Mask<'a> {
    d: &'a Dropout,
    /// The number of the first group.
    first: u64,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Mask<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Dropout { p, seed, stream } = *self.d;
        let threshold = (f64::from(p) * 4_294_967_296.0).ceil() as u32;
        let keep = 1.0 / (1.0 - p);
        for (group, (x, y)) in (self.first..).zip(self.x.chunks(GROUP).zip(self.y.chunks_mut(GROUP))) {
            let random = blocks(seed, stream, group * BLOCKS as u64);
            for ((x, y), random) in x.chunks(BLOCKS).zip(y.chunks_mut(BLOCKS)).zip(&random) {
                for ((x, y), random) in x.iter().zip(y).zip(random) {
                    *y = x * if *random >= threshold { keep } else { 0.0 };
                }
            }
        }
    }
}

/// The four words of each of the blocks from `first` on.
#[inline(always)]
fn blocks(seed: u64, stream: u64, first: u64) -> [[u32; BLOCKS]; 4] {
    let mut c = [[0; BLOCKS]; 4];
    for j in 0..BLOCKS {
        let block = first + j as u64;
        (c[0][j], c[1][j], c[2][j], c[3][j]) =
            (block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32);
    }
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..ROUNDS {
        let mut next = [[0; BLOCKS]; 4];
        for j in 0..BLOCKS {
            [next[0][j], next[1][j], next[2][j], next[3][j]] = round([c[0][j], c[1][j], c[2][j], c[3][j]], key);
        }
        c = next;
        key = bump(key);
    }
    c
}

const ROUNDS: usize = 10;

#[inline(always)]
fn round(c: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (a, b) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
    [(b >> 32) as u32 ^ c[1] ^ key[0], b as u32, (a >> 32) as u32 ^ c[3] ^ key[1], a as u32]
}

#[inline(always)]
fn bump(key: [u32; 2]) -> [u32; 2] {
    [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)]
}

/// Philox 4x32-10 (Salmon et al. 2011): 128 random bits from a counter and a key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        counter = round(counter, key);
        key = bump(key);
    }
    counter
}
