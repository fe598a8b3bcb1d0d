//! Eight floats at a time in plain arrays, for the compiler to vectorise (SSE2, wasm).

use super::Simd;

#[derive(Clone, Copy)]
pub struct Portable(());

impl Portable {
    #[inline(always)]
    pub fn new() -> Self {
        Portable(())
    }
}

type V = [f32; 8];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Fused only where the hardware does it; the library call would be far slower than two operations.
const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

impl Simd for Portable {
    type V = V;
    type U = [u32; 8];
    const LANES: usize = 8;
    const TILE: (usize, usize) = (4, 1);

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; 8]
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| if FUSED { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn select_less(self, a: V, b: V, yes: V, no: V) -> V {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn positive(self, a: V) -> V {
        a.map(|x| if x > 0.0 { 1.0 } else { 0.0 })
    }
    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23
        a.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn pow2(self, n: V) -> V {
        n.map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    fn reduce_sum(self, a: V) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    fn reduce_max(self, a: V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> V {
        // SAFETY: the caller vouches for 8 floats at `p`.
        unsafe { p.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: V) {
        // SAFETY: the caller vouches for 8 floats at `p`.
        unsafe { p.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> V {
        // SAFETY: the caller vouches for 8 bytes at `p`.
        let q = unsafe { p.cast::<[i8; 8]>().read_unaligned() };
        q.map(f32::from)
    }
    #[inline(always)]
    fn splat_u32(self, x: u32) -> [u32; 8] {
        [x; 8]
    }
    #[inline(always)]
    fn mul_add_u32(self, a: [u32; 8], b: [u32; 8], c: [u32; 8]) -> [u32; 8] {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i]))
    }
    #[inline(always)]
    fn min_u32(self, a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        std::array::from_fn(|i| a[i].min(b[i]))
    }
    #[inline(always)]
    unsafe fn load_u32(self, p: *const u32) -> [u32; 8] {
        // SAFETY: the caller vouches for 8 integers at `p`.
        unsafe { p.cast::<[u32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_u32(self, p: *mut u32, v: [u32; 8]) {
        // SAFETY: the caller vouches for 8 integers at `p`.
        unsafe { p.cast::<[u32; 8]>().write_unaligned(v) }
    }
}
