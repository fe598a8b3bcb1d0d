//! A head's rows as factors of float16 products. Each function gives what its numbers are to be multiplied by.

use super::super::pack::ToPanels;
use super::QUERIES;
use crate::gemm::Mat;
use crate::gemm::pack_half::{doubled, halves, largest, scales};
use crate::simd::{self, Level};
use std::arch::x86_64::*;

/// Row `r` of a matrix of neighbouring columns, if there is one.
fn row<'a>(from: &Mat<'a>, r: usize) -> &'a [f32] {
    if r < from.rows { &from.data[r * from.row_stride..][..from.cols] } else { &[] }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn scales_of(from: &Mat) -> (f32, f32) {
    scales((0..from.rows).map(|r| largest(row(from, r))).max().unwrap_or(0))
}

/// Rows of `width` words; zeros fill up rows and follow the last.
///
/// # Safety
/// The CPU must have AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn words(from: Mat, to: &mut [f32], width: usize) -> f32 {
    let (up, down) = scales_of(&from);
    for (r, to) in to.chunks_exact_mut(width).enumerate() {
        let from = row(&from, r);
        let (head, tail) = to.split_at_mut(from.len());
        // SAFETY: `head` has as many words as `from` numbers.
        unsafe { doubled(from, head.as_mut_ptr().cast(), up) };
        tail.fill(0.0);
    }
    down
}

/// Rows of `width` numbers, a multiple of 32; zeros fill up rows and follow the last.
///
/// # Safety
/// The CPU must have AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn rows(from: Mat, to: &mut [f32], width: usize) -> f32 {
    let (up, down) = scales_of(&from);
    for (r, to) in to.chunks_exact_mut(width / 2).enumerate() {
        let from = row(&from, r);
        for i in (0..width).step_by(16) {
            let mask = ((1u32 << from.len().saturating_sub(i).min(16)) - 1) as u16;
            // SAFETY: the masked numbers lie inside `from`, 16 halves from `i` inside `to`.
            unsafe {
                let x = _mm512_maskz_loadu_ps(mask, from.as_ptr().wrapping_add(i));
                let x = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_mul_ps(x, _mm512_set1_ps(up)));
                _mm256_storeu_si256(to.as_mut_ptr().add(i / 2).cast(), x);
            }
        }
    }
    down
}

/// Up to 64 rows, times `factor`, side by side: `to[p, r]`.
///
/// # Safety
/// The CPU must have AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn lanes(from: Mat, to: &mut [f32], factor: f32) -> f32 {
    assert_eq!(to.len(), from.cols * QUERIES / 2);
    crate::scratch::with(from.cols * QUERIES, |room| {
        simd::run(Level::Avx512, ToPanels { from, to: &mut *room, width: QUERIES, factor });
        // SAFETY: `to` has room for as many halves, 64 for each column.
        unsafe { halves(room, to.as_mut_ptr().cast()) }
    })
}
