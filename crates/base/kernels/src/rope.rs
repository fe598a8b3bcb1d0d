//! Rotary positions, in Hugging Face's convention: the two halves of the rotated part form the pairs.

use crate::simd::{self, Kernel, Simd};
use rayon::prelude::*;

/// Cosines and sines per position: `[max_pos, rotary_dim / 2]` each.
#[derive(Clone, Copy)]
pub struct RopeTable<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub rotary_dim: usize,
}

/// How heads are rotated.
#[derive(Clone, Copy)]
pub struct Rope<'a> {
    /// Of each row, `[N]`.
    pub positions: &'a [u32],
    pub table: RopeTable<'a>,
    pub n_heads: usize,
    pub d_head: usize,
    /// Rotates back, which is also the backward pass.
    pub inverse: bool,
}

/// Rotates the first `rotary_dim` of each head in place: x `[N, H, d_head]`.
pub fn rope(x: &mut [f32], how: &Rope) {
    how.run(x, None);
}

/// [`rope`] of x into y, which is overwritten.
pub fn rope_into(x: &[f32], y: &mut [f32], how: &Rope) {
    assert_eq!(x.len(), y.len(), "rope: x has {} floats, y {}", x.len(), y.len());
    how.run(y, Some(x));
}

impl Rope<'_> {
    /// Rotates y, or what `from` has into y.
    fn run(&self, y: &mut [f32], from: Option<&[f32]>) {
        let Rope { positions, table, n_heads, d_head, inverse } = *self;
        let (row, half) = (n_heads * d_head, table.rotary_dim / 2);
        let (len, rows) = (y.len(), positions.len());
        assert_eq!(len, rows * row, "rope: x has {len} floats, {rows} positions x {row}");
        assert!(
            table.rotary_dim.is_multiple_of(2) && table.rotary_dim <= d_head,
            "rope: rotary_dim {} must be even and at most d_head {d_head}",
            table.rotary_dim
        );
        assert_eq!(table.cos.len(), table.sin.len(), "rope: {} cosines, {} sines", table.cos.len(), table.sin.len());
        if half == 0 || row == 0 {
            from.inspect(|from| y.copy_from_slice(from));
            return;
        }
        let max = table.cos.len() / half;
        let far = positions.iter().copied().max().unwrap_or(0) as usize;
        assert!(positions.is_empty() || far < max, "rope: position {far}, but the table ends at {max}");
        let rows = (1usize << 14).div_ceil(row);
        let level = simd::level();
        y.par_chunks_mut(rows * row).zip(positions.par_chunks(rows)).enumerate().for_each(|(i, (x, positions))| {
            if let Some(from) = from {
                x.copy_from_slice(&from[i * rows * row..][..x.len()]);
            }
            simd::run(level, Rotate { x, positions, table: &table, shape: (row, d_head), inverse });
        });
    }
}

struct Rotate<'a> {
    x: &'a mut [f32],
    positions: &'a [u32],
    table: &'a RopeTable<'a>,
    shape: (usize, usize),
    inverse: bool,
}

impl Kernel for Rotate<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (row, d_head) = self.shape;
        let half = self.table.rotary_dim / 2;
        let even = half / S::LANES * S::LANES;
        let sign = s.splat(if self.inverse { -1.0 } else { 1.0 });
        for (x, &pos) in self.x.chunks_exact_mut(row).zip(self.positions) {
            let cos = &self.table.cos[pos as usize * half..][..half];
            let sin = &self.table.sin[pos as usize * half..][..half];
            for head in x.chunks_exact_mut(d_head) {
                let (a, b) = head[..2 * half].split_at_mut(half);
                for i in (0..even).step_by(S::LANES) {
                    let turned = turn(s, s.at(a, i), s.at(b, i), s.at(cos, i), s.mul(sign, s.at(sin, i)));
                    s.put(a, i, turned.0);
                    s.put(b, i, turned.1);
                }
                if even < half {
                    let (c, n) = (s.tail(cos, even, 0.0), s.mul(sign, s.tail(sin, even, 0.0)));
                    let turned = turn(s, s.tail(a, even, 0.0), s.tail(b, even, 0.0), c, n);
                    s.put_tail(a, even, turned.0);
                    s.put_tail(b, even, turned.1);
                }
            }
        }
    }
}

/// `(a cos - b sin, b cos + a sin)`
#[inline(always)]
fn turn<S: Simd>(s: S, a: S::V, b: S::V, cos: S::V, sin: S::V) -> (S::V, S::V) {
    (s.sub(s.mul(a, cos), s.mul(b, sin)), s.fma(a, sin, s.mul(b, cos)))
}
