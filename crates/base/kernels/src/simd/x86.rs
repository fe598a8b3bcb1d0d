//! AVX2 with FMA, and AVX-512F.

use super::Simd;
use std::arch::x86_64::*;

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(());

/// Proof that the CPU has AVX-512F, AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx2 {
    #[inline]
    pub fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }
}

impl Avx512 {
    #[inline]
    pub fn new() -> Option<Self> {
        (Avx2::new().is_some() && is_x86_feature_detected!("avx512f")).then_some(Avx512(()))
    }
}

/// Calls intrinsics from a method of a token type.
macro_rules! op {
    ($e:expr) => {{
        // SAFETY: `self` is a token, so the CPU has these instructions; pointers are the caller's promise.
        unsafe { $e }
    }};
}

impl Simd for Avx2 {
    type V = __m256;
    type U = __m256i;
    const LANES: usize = 8;
    const TILE: (usize, usize) = (6, 2);

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        op!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn select_less(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        op!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }
    #[inline(always)]
    fn positive(self, a: __m256) -> __m256 {
        op!(_mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, _mm256_setzero_ps()), _mm256_set1_ps(1.0)))
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        op!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        op!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn pow2(self, n: __m256) -> __m256 {
        op!({
            let e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e))
        })
    }
    #[inline(always)]
    fn reduce_sum(self, a: __m256) -> f32 {
        op!({
            let s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)))
        })
    }
    #[inline(always)]
    fn reduce_max(self, a: __m256) -> f32 {
        op!({
            let s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let s = _mm_max_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)))
        })
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        op!(_mm256_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        op!(_mm256_storeu_ps(p, v))
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m256 {
        op!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))))
    }
    #[inline(always)]
    fn splat_u32(self, x: u32) -> __m256i {
        op!(_mm256_set1_epi32(x.cast_signed()))
    }
    #[inline(always)]
    fn mul_add_u32(self, a: __m256i, b: __m256i, c: __m256i) -> __m256i {
        op!(_mm256_add_epi32(_mm256_mullo_epi32(a, b), c))
    }
    #[inline(always)]
    fn min_u32(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_min_epu32(a, b))
    }
    #[inline(always)]
    unsafe fn load_u32(self, p: *const u32) -> __m256i {
        op!(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn store_u32(self, p: *mut u32, v: __m256i) {
        op!(_mm256_storeu_si256(p.cast(), v))
    }
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        op!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
    }
    #[inline(always)]
    unsafe fn transpose<const L: usize>(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        op!(transpose_avx2::<L>(src, src_stride, dst, dst_stride))
    }
}

impl Simd for Avx512 {
    type V = __m512;
    type U = __m512i;
    const LANES: usize = 16;
    const TILE: (usize, usize) = (14, 2);

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn select_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes))
    }
    #[inline(always)]
    fn positive(self, a: __m512) -> __m512 {
        op!(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, _mm512_setzero_ps()), _mm512_set1_ps(1.0)))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        op!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        op!({
            let e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(e))
        })
    }
    #[inline(always)]
    fn reduce_sum(self, a: __m512) -> f32 {
        op!(_mm512_reduce_add_ps(a))
    }
    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        op!(_mm512_reduce_max_ps(a))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        op!(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        op!(_mm512_storeu_ps(p, v))
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m512 {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))))
    }
    #[inline(always)]
    fn splat_u32(self, x: u32) -> __m512i {
        op!(_mm512_set1_epi32(x.cast_signed()))
    }
    #[inline(always)]
    fn mul_add_u32(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        op!(_mm512_add_epi32(_mm512_mullo_epi32(a, b), c))
    }
    #[inline(always)]
    fn min_u32(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_min_epu32(a, b))
    }
    #[inline(always)]
    unsafe fn load_u32(self, p: *const u32) -> __m512i {
        op!(_mm512_loadu_si512(p.cast()))
    }
    #[inline(always)]
    unsafe fn store_u32(self, p: *mut u32, v: __m512i) {
        op!(_mm512_storeu_si512(p.cast(), v))
    }
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        op!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
    }
    #[inline(always)]
    unsafe fn transpose<const L: usize>(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        op!(transpose_avx2::<L>(src, src_stride, dst, dst_stride))
    }
}

/// [`Simd::transpose`] in registers.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn transpose_avx2<const L: usize>(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
    let mut r = [_mm256_setzero_ps(); 8];
    for l in 0..L {
        // SAFETY: row `l` has 8 floats, by the caller's promise.
        r[l] = unsafe { _mm256_loadu_ps(src.add(l * src_stride)) };
    }
    let mut t = r;
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for h in [0, 4] {
        r[h] = _mm256_shuffle_ps::<0x44>(t[h], t[h + 2]);
        r[h + 1] = _mm256_shuffle_ps::<0xEE>(t[h], t[h + 2]);
        r[h + 2] = _mm256_shuffle_ps::<0x44>(t[h + 1], t[h + 3]);
        r[h + 3] = _mm256_shuffle_ps::<0xEE>(t[h + 1], t[h + 3]);
    }
    for p in 0..4 {
        t[p] = _mm256_permute2f128_ps::<0x20>(r[p], r[p + 4]);
        t[p + 4] = _mm256_permute2f128_ps::<0x31>(r[p], r[p + 4]);
    }
    for p in 0..8 {
        // SAFETY: row `p` of `dst` takes `L` floats, by the caller's promise.
        unsafe {
            let to = dst.add(p * dst_stride);
            if L == 8 {
                _mm256_storeu_ps(to, t[p]);
            } else {
                let mut row = [0.0; 8];
                _mm256_storeu_ps(row.as_mut_ptr(), t[p]);
                if L == 6 {
                    _mm_storeu_ps(to, _mm256_castps256_ps128(t[p]));
                    _mm_storel_pd(to.add(4).cast(), _mm_castps_pd(_mm256_extractf128_ps::<1>(t[p])));
                } else {
                    std::ptr::copy_nonoverlapping(row.as_ptr(), to, L);
                }
            }
        }
    }
}
