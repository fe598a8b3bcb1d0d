//! From the product of a query and a key to its score. Scores are in powers of two: `exp` becomes `exp2`.

use super::AttentionShape;
use super::strip::Strip;
use super::tile::Tile;
use crate::simd::Simd;
use std::f32::consts::{LN_2, LOG2_E};

/// Replaces each vector of a tile, `$x` at row `$r` and column `$c`. A macro, as a closure that is not inlined has none of
/// the instructions of the function around it.
macro_rules! each {
    ($tile:expr, $r:pat, $c:pat, $x:pat => $new:expr) => {
        for (r, row) in $tile.iter_mut().enumerate() {
            for (c, vector) in row.iter_mut().enumerate() {
                let ($r, $c, $x) = (r, c, *vector);
                *vector = $new;
            }
        }
    };
}
pub(super) use each;

/// The score function of one head.
#[derive(Clone, Copy)]
pub struct Score {
    /// What queries are multiplied by beforehand.
    pub factor: f32,
    cap: Option<f32>,
    slope: f32,
}

impl Score {
    pub fn new(shape: &AttentionShape, h: usize) -> Self {
        Score {
            factor: shape.soft_cap.map_or(shape.scale * LOG2_E, |cap| shape.scale / cap),
            cap: shape.soft_cap.map(|cap| cap * LOG2_E),
            slope: shape.slope(h) * LOG2_E,
        }
    }

    /// The scores of the keys from `key` for the vectors of queries from `first` of a strip: minus infinity where a
    /// query does not attend a key.
    #[inline(always)]
    pub fn apply<S: Simd, const C: usize>(
        self,
        s: S,
        tile: &mut Tile<S::V, C>,
        strip: &Strip,
        key: usize,
        first: usize,
    ) {
        if let Some(cap) = self.cap {
            each!(tile, _, _, x => s.mul(s.tanh(x), s.splat(cap)));
        }
        if self.slope != 0.0 {
            each!(tile, r, c, x => s.add(x, self.bias(s, strip, key + r, first + c)));
        }
        if !strip.covers(key, first, C) {
            let none = s.splat(f32::NEG_INFINITY);
            each!(tile, r, c, x => strip.keep(s, x, none, key + r, first + c));
        }
    }

    #[inline(always)]
    fn bias<S: Simd>(self, s: S, strip: &Strip, key: usize, v: usize) -> S::V {
        let distance = s.sub(s.splat(key as f32), s.at(&strip.position, v * S::LANES));
        s.mul(distance, s.splat(self.slope))
    }

    /// Whether scores do not simply grow with products.
    #[inline(always)]
    pub fn is_capped(self) -> bool {
        self.cap.is_some()
    }

    /// How a score moves with the scaled product.
    #[inline(always)]
    pub fn slope<S: Simd>(self, s: S, score: S::V, strip: &Strip, key: usize, v: usize) -> S::V {
        let Some(cap) = self.cap else { return s.splat(1.0) };
        let capped = if self.slope == 0.0 { score } else { s.sub(score, self.bias(s, strip, key, v)) };
        // Not below -1: minus infinity stands for keys that are not attended.
        let t = s.max(s.splat(-1.0), s.mul(capped, s.splat(cap.recip())));
        s.sub(s.splat(1.0), s.mul(t, t))
    }
}

/// 2^x to about 2e-7 of its value for x in -126..=127; 0 below -126.5; NaN stays NaN.
#[inline(always)]
pub fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-127.0), x);
    let n = s.round(x);
    let f = s.sub(x, n);
    // Least largest error on -0.5..=0.5 (1.1e-7), with value 1 and slope ln 2 at 0.
    let mut p = s.splat(0.001_330_026_5);
    for c in [0.009_669_709, 0.055_505_6, 0.240_222_81, LN_2, 1.0] {
        p = s.fma(p, f, s.splat(c));
    }
    s.mul(p, s.pow2(n))
}
