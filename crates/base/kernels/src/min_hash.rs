//! Smallest values of a set under many random orders (Broder 1997): what tells how alike two sets are.

use crate::simd::{self, Kernel, MAX_LANES, Simd};

/// Vectors of orders that stay in registers while all values pass: three registers each, of sixteen at AVX2.
const TILE: usize = 4;

/// `least[i] = min(least[i], a[i] * x + b[i] mod 2^32)` over all `x`, on the calling thread: with odd `a` every `i` is an order
/// of all numbers of 32 bits.
pub fn min_hash(x: &[u32], a: &[u32], b: &[u32], least: &mut [u32]) {
    let n = least.len();
    assert!(a.len() == n && b.len() == n, "min_hash: {} multipliers, {} addends, {n} minima", a.len(), b.len());
    simd::run(simd::level(), MinHash { x, a, b, least });
}

struct MinHash<'a> {
    x: &'a [u32],
    a: &'a [u32],
    b: &'a [u32],
    least: &'a mut [u32],
}

impl Kernel for MinHash<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (n, tile) = (self.least.len(), TILE * S::LANES);
        let mut i = 0;
        while i + tile <= n {
            pass::<S, TILE>(s, self.x, &self.a[i..], &self.b[i..], &mut self.least[i..]);
            i += tile;
        }
        while i + S::LANES <= n {
            pass::<S, 1>(s, self.x, &self.a[i..], &self.b[i..], &mut self.least[i..]);
            i += S::LANES;
        }
        if i < n {
            let [mut a, mut b, mut least] = [[0; MAX_LANES]; 3];
            a[..n - i].copy_from_slice(&self.a[i..]);
            b[..n - i].copy_from_slice(&self.b[i..]);
            least[..n - i].copy_from_slice(&self.least[i..]);
            pass::<S, 1>(s, self.x, &a, &b, &mut least);
            self.least[i..].copy_from_slice(&least[..n - i]);
        }
    }
}

/// Takes all values through the first `T` vectors of orders.
#[inline(always)]
fn pass<S: Simd, const T: usize>(s: S, x: &[u32], a: &[u32], b: &[u32], least: &mut [u32]) {
    let a: [S::U; T] = std::array::from_fn(|t| s.at_u32(a, t * S::LANES));
    let b: [S::U; T] = std::array::from_fn(|t| s.at_u32(b, t * S::LANES));
    let mut min: [S::U; T] = std::array::from_fn(|t| s.at_u32(least, t * S::LANES));
    for &x in x {
        let x = s.splat_u32(x);
        for t in 0..T {
            min[t] = s.min_u32(min[t], s.mul_add_u32(a[t], x, b[t]));
        }
    }
    for t in 0..T {
        s.put_u32(least, t * S::LANES, min[t]);
    }
}
