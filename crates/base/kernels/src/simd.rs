//! One vocabulary of vector operations for every instruction set, and the choice between them at run time.
//!
//! A loop is written once, generic over [`Simd`], as a [`Kernel`]; [`run`] compiles it per [`Level`] and calls the
//! version that fits this machine. A value of a `Simd` type is a proof that the CPU has the instructions.

use std::cell::Cell;
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Portable,
    Neon,
    Avx2,
    Avx512,
}

/// The widest vector of any level, in floats.
pub const MAX_LANES: usize = 16;

/// Vectors of `LANES` floats and what can be done with them.
pub trait Simd: Copy + Send + Sync + 'static {
    type V: Copy;
    /// `LANES` unsigned integers of 32 bits.
    type U: Copy;
    const LANES: usize;
    /// The register tile of a matrix product: rows, and columns in vectors.
    const TILE: (usize, usize);

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: a NaN in `b` survives.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: a NaN in `b` survives.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { yes } else { no }`
    fn select_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// `if a > 0 { 1 } else { 0 }`
    fn positive(self, a: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// To the nearest integer, for |a| < 2^22.
    fn round(self, a: Self::V) -> Self::V;
    /// 2^n for integral n in -126..=127, and 0 for -127.
    fn pow2(self, n: Self::V) -> Self::V;
    fn reduce_sum(self, a: Self::V) -> f32;
    fn reduce_max(self, a: Self::V) -> f32;
    /// # Safety
    /// `p` must be readable for `LANES` floats.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p` must be writable for `LANES` floats.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// # Safety
    /// `p` must be readable for `LANES` bytes.
    unsafe fn load_i8(self, p: *const i8) -> Self::V;

    fn splat_u32(self, x: u32) -> Self::U;
    /// `a * b + c` modulo 2^32
    fn mul_add_u32(self, a: Self::U, b: Self::U, c: Self::U) -> Self::U;
    fn min_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// # Safety
    /// `p` must be readable for `LANES` integers.
    unsafe fn load_u32(self, p: *const u32) -> Self::U;
    /// # Safety
    /// `p` must be writable for `LANES` integers.
    unsafe fn store_u32(self, p: *mut u32, v: Self::U);

    /// Asks for the cache line at `p`, which may lie anywhere.
    #[inline(always)]
    fn prefetch<T>(self, _p: *const T) {}

    /// Transposes `L` rows of 8 floats (`src_stride` apart) into 8 rows of `L` (`dst_stride` apart).
    ///
    /// # Safety
    /// All of those floats must be readable and writable.
    #[inline(always)]
    unsafe fn transpose<const L: usize>(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        for p in 0..8 {
            for l in 0..L {
                // SAFETY: the caller's promise.
                unsafe { *dst.add(p * dst_stride + l) = *src.add(l * src_stride + p) };
            }
        }
    }

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// The vector at `x[i..]`.
    #[inline(always)]
    fn at(self, x: &[f32], i: usize) -> Self::V {
        assert!(i + Self::LANES <= x.len());
        // SAFETY: the assertion above.
        unsafe { self.load(x.as_ptr().add(i)) }
    }

    #[inline(always)]
    fn put(self, x: &mut [f32], i: usize, v: Self::V) {
        assert!(i + Self::LANES <= x.len());
        // SAFETY: the assertion above.
        unsafe { self.store(x.as_mut_ptr().add(i), v) }
    }

    /// The integers at `x[i..]`.
    #[inline(always)]
    fn at_u32(self, x: &[u32], i: usize) -> Self::U {
        assert!(i + Self::LANES <= x.len());
        // SAFETY: the assertion above.
        unsafe { self.load_u32(x.as_ptr().add(i)) }
    }

    #[inline(always)]
    fn put_u32(self, x: &mut [u32], i: usize, v: Self::U) {
        assert!(i + Self::LANES <= x.len());
        // SAFETY: the assertion above.
        unsafe { self.store_u32(x.as_mut_ptr().add(i), v) }
    }

    /// The last, incomplete vector `x[i..]`, filled up with `fill`.
    #[inline(always)]
    fn tail(self, x: &[f32], i: usize, fill: f32) -> Self::V {
        let mut t = [fill; MAX_LANES];
        let n = (x.len() - i).min(Self::LANES);
        t[..n].copy_from_slice(&x[i..i + n]);
        self.at(&t, 0)
    }

    #[inline(always)]
    fn put_tail(self, x: &mut [f32], i: usize, v: Self::V) {
        let mut t = [0.0; MAX_LANES];
        self.put(&mut t, 0, v);
        let n = (x.len() - i).min(Self::LANES);
        x[i..i + n].copy_from_slice(&t[..n]);
    }

    /// The vector at `x[i..]`: a whole one, or the last, incomplete one, filled up with `fill`.
    #[inline(always)]
    fn get<const WHOLE: bool>(self, x: &[f32], i: usize, fill: f32) -> Self::V {
        if WHOLE { self.at(x, i) } else { self.tail(x, i, fill) }
    }

    #[inline(always)]
    fn set<const WHOLE: bool>(self, x: &mut [f32], i: usize, v: Self::V) {
        if WHOLE { self.put(x, i, v) } else { self.put_tail(x, i, v) }
    }

    /// e^x to about 1e-7 of its value on -87.3..=88; below it about 1e-38, above it about 1.6e38; NaN stays NaN.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let x = self.min(self.splat(88.0), self.max(self.splat(-87.3), x));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        let r = self.fma(n, self.splat(-0.693_359_4), x);
        let r = self.fma(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = self.fma(p, r, self.splat(c));
        }
        let p = self.fma(self.mul(r, r), p, self.add(r, self.splat(1.0)));
        self.mul(p, self.pow2(n))
    }

    /// 1 / (1 + e^-x)
    #[inline(always)]
    fn sigmoid(self, x: Self::V) -> Self::V {
        let e = self.exp(self.sub(self.zero(), x));
        self.div(self.splat(1.0), self.add(self.splat(1.0), e))
    }

    /// Within about 1e-7 absolute.
    #[inline(always)]
    fn tanh(self, x: Self::V) -> Self::V {
        let e = self.exp(self.add(x, x));
        let one = self.splat(1.0);
        self.sub(one, self.div(self.splat(2.0), self.add(e, one)))
    }
}

/// Runs a block for each vector of `0..$len`, first with `$whole` true for the whole ones, then with `$whole` false for
/// the incomplete one, if there is one. Inside a function that is generic over `S: Simd`.
macro_rules! each_vector {
    ($len:expr, $whole:ident, $i:ident => $body:block) => {
        let even = $len / S::LANES * S::LANES;
        for $i in (0..even).step_by(S::LANES) {
            const $whole: bool = true;
            $body
        }
        if even < $len {
            const $whole: bool = false;
            let $i = even;
            $body
        }
    };
}
pub(crate) use each_vector;

/// A loop that is compiled once per instruction set. Mark `run` `#[inline(always)]`.
pub trait Kernel {
    type Out;
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<K: Kernel>(s: Avx2, k: K) -> K::Out {
    k.run(s)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn run_avx512<K: Kernel>(s: Avx512, k: K) -> K::Out {
    k.run(s)
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn run_neon<K: Kernel>(s: Neon, k: K) -> K::Out {
    k.run(s)
}

/// Runs `k` with the instructions of `level`, or portably where this CPU lacks them.
#[inline]
pub fn run<K: Kernel>(level: Level, k: K) -> K::Out {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if let Some(s) = Avx512::new() => {
            // SAFETY: the token `s` exists, so the CPU has AVX-512F, AVX2 and FMA.
            unsafe { run_avx512(s, k) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 if let Some(s) = Avx2::new() => {
            // SAFETY: the token `s` exists, so the CPU has AVX2 and FMA.
            unsafe { run_avx2(s, k) }
        }
        #[cfg(target_arch = "aarch64")]
        Level::Neon if let Some(s) = Neon::new() => {
            // SAFETY: the token `s` exists, so the CPU has NEON.
            unsafe { run_neon(s, k) }
        }
        _ => k.run(Portable::new()),
    }
}

/// Floats per vector at `level`.
pub fn lanes(level: Level) -> usize {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => Avx512::LANES,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => Avx2::LANES,
        #[cfg(target_arch = "aarch64")]
        Level::Neon => Neon::LANES,
        _ => Portable::LANES,
    }
}

/// The levels that this machine can run, the slowest first.
pub fn available_levels() -> Vec<Level> {
    let mut levels = vec![Level::Portable];
    #[cfg(target_arch = "aarch64")]
    levels.extend(Neon::new().map(|_| Level::Neon));
    #[cfg(target_arch = "x86_64")]
    {
        levels.extend(Avx2::new().map(|_| Level::Avx2));
        levels.extend(Avx512::new().map(|_| Level::Avx512));
    }
    levels
}

thread_local! {
    static FORCED: Cell<Option<Level>> = const { Cell::new(None) };
}

/// The level that a kernel called on this thread uses. Read once per call and passed down to the workers.
pub fn level() -> Level {
    static BEST: OnceLock<Level> = OnceLock::new();
    let best = || *available_levels().last().unwrap_or(&Level::Portable);
    FORCED.get().unwrap_or_else(|| *BEST.get_or_init(best))
}

/// Runs `f` with the kernels that it calls from this thread held to `level` (for tests and measurements).
pub fn with_level<R>(level: Level, f: impl FnOnce() -> R) -> R {
    assert!(available_levels().contains(&level), "this CPU lacks {level:?}");
    struct Restore(Option<Level>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    let _restore = Restore(FORCED.replace(Some(level)));
    f()
}
