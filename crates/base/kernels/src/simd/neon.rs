//! NEON: eight floats as two vectors of four, so that loops and tiles are those of AVX2.

use super::Simd;
use std::arch::aarch64::*;

/// Proof that the CPU has NEON.
#[derive(Clone, Copy)]
pub struct Neon(());

impl Neon {
    #[inline]
    pub fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

type V = [float32x4_t; 2];

/// Calls intrinsics from a method of the token, once for each half.
macro_rules! each {
    ($i:ident => $e:expr) => {{
        // SAFETY: `self` is a token, so the CPU has these instructions; pointers are the caller's promise.
        unsafe {
            [
                {
                    let $i = 0;
                    $e
                },
                {
                    let $i = 1;
                    $e
                },
            ]
        }
    }};
}

impl Simd for Neon {
    type V = V;
    type U = [uint32x4_t; 2];
    const LANES: usize = 8;
    /// 24 of the 32 registers are sums, 4 hold a step of `b`.
    const TILE: (usize, usize) = (6, 2);

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        each!(_i => vdupq_n_f32(x))
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        each!(i => vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        each!(i => vsubq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        each!(i => vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        each!(i => vdivq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        each!(i => vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        each!(i => vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        each!(i => vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn select_less(self, a: V, b: V, yes: V, no: V) -> V {
        each!(i => vbslq_f32(vcltq_f32(a[i], b[i]), yes[i], no[i]))
    }
    #[inline(always)]
    fn positive(self, a: V) -> V {
        each!(i => vbslq_f32(vcgtzq_f32(a[i]), vdupq_n_f32(1.0), vdupq_n_f32(0.0)))
    }
    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        each!(i => vsqrtq_f32(a[i]))
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        each!(i => vrndnq_f32(a[i]))
    }
    #[inline(always)]
    fn pow2(self, n: V) -> V {
        each!(i => {
            let e = vaddq_s32(vcvtq_s32_f32(n[i]), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(e))
        })
    }
    #[inline(always)]
    fn reduce_sum(self, a: V) -> f32 {
        // SAFETY: `self` is a token.
        unsafe { vaddvq_f32(vaddq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    fn reduce_max(self, a: V) -> f32 {
        // SAFETY: `self` is a token. A NaN is no maximum, as at the other levels.
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> V {
        each!(i => vld1q_f32(p.add(4 * i)))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: V) {
        each!(i => vst1q_f32(p.add(4 * i), v[i]));
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> V {
        // SAFETY: `self` is a token; the caller vouches for 8 bytes at `p`.
        unsafe {
            let words = vmovl_s8(vld1_s8(p));
            [vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words))]
        }
    }
    #[inline(always)]
    fn splat_u32(self, x: u32) -> Self::U {
        each!(_i => vdupq_n_u32(x))
    }
    #[inline(always)]
    fn mul_add_u32(self, a: Self::U, b: Self::U, c: Self::U) -> Self::U {
        each!(i => vmlaq_u32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn min_u32(self, a: Self::U, b: Self::U) -> Self::U {
        each!(i => vminq_u32(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn load_u32(self, p: *const u32) -> Self::U {
        each!(i => vld1q_u32(p.add(4 * i)))
    }
    #[inline(always)]
    unsafe fn store_u32(self, p: *mut u32, v: Self::U) {
        each!(i => vst1q_u32(p.add(4 * i), v[i]));
    }
    #[inline(always)]
    unsafe fn transpose<const L: usize>(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: `self` is a token; the rows are the caller's promise, four at a time and then one.
        unsafe {
            for l in (0..L / 4 * 4).step_by(4) {
                for p in [0, 4] {
                    let row = |i: usize| vld1q_f32(src.add((l + i) * src_stride + p));
                    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                    let (ab, cd) = (vtrnq_f32(a, b), vtrnq_f32(c, d));
                    let to = |i: usize| dst.add((p + i) * dst_stride + l);
                    vst1q_f32(to(0), vcombine_f32(vget_low_f32(ab.0), vget_low_f32(cd.0)));
                    vst1q_f32(to(1), vcombine_f32(vget_low_f32(ab.1), vget_low_f32(cd.1)));
                    vst1q_f32(to(2), vcombine_f32(vget_high_f32(ab.0), vget_high_f32(cd.0)));
                    vst1q_f32(to(3), vcombine_f32(vget_high_f32(ab.1), vget_high_f32(cd.1)));
                }
            }
            for l in L / 4 * 4..L {
                for p in 0..8 {
                    *dst.add(p * dst_stride + l) = *src.add(l * src_stride + p);
                }
            }
        }
    }
}
