//! From packed 32-bit floats to the panels of the other formats.

use super::format::Format;
use super::pack::Lanes;
use std::arch::x86_64::*;

/// Converts a panel of `width` lanes by `k` floats into words; gives the scale that the panel's numbers are to be
/// multiplied with (1 but in float16).
///
/// # Safety
/// The CPU must have AVX-512 F, BW and VL and the format's instructions.
pub unsafe fn convert(from: &[f32], to: &mut [f32], width: usize, format: Format) -> f32 {
    let words = format.steps(from.len() / width) * format.step_words(width);
    assert!(to.len() >= words, "convert: {} words do not hold {words}", to.len());
    // SAFETY: the instructions are the caller's promise, `to` was checked.
    unsafe {
        match format {
            Format::Bf16 => pairs(from, to.as_mut_ptr().cast(), width),
            Format::F16 => {
                let (up, down) = scales(largest(from));
                keep_halves(from, to.as_mut_ptr().cast(), up);
                return down;
            }
            Format::F32 | Format::Rounded(_) => unreachable!("{format:?} panels hold 32-bit floats"),
        }
    }
    1.0
}

/// Converts lanes of `k` neighbouring floats into rows of 16-bit numbers, `stride` words apart; gives their scale.
///
/// # Safety
/// The CPU must have AVX-512 F, BW and VL and the format's instructions; the lanes must be readable for `k` elements.
pub unsafe fn convert_rows(lanes: Lanes, k: usize, to: &mut [f32], stride: usize, format: Format) -> f32 {
    assert!(to.len() >= lanes.count() * stride && k <= 2 * stride, "convert: {} words are too few", to.len());
    let rows = 0..lanes.count();
    // SAFETY: the caller's promise; each row's words end before the next row's.
    unsafe {
        let to = to.as_mut_ptr().cast::<u32>();
        let row = |i| (lanes.contiguous(i, k), to.add(i * stride));
        if format == Format::Bf16 {
            rows.map(row).for_each(|(from, to)| neighbours(from, to));
            return 1.0;
        }
        let (up, down) = scales(rows.clone().map(|i| largest(row(i).0)).max().unwrap_or(0));
        rows.map(row).for_each(|(from, to)| keep_halves(from, to.cast(), up));
        down
    }
}

/// The most lanes that [`convert_columns`] takes.
pub const GROUP: usize = 64;

/// Converts up to [`GROUP`] lanes that lie side by side into a block of panels of `width` lanes, `words` apart; gives
/// the panels' scales.
///
/// # Safety
/// As [`convert_rows`]; `to` must be writable for a block of `k` in each panel.
pub unsafe fn convert_columns(
    lanes: Lanes,
    k: usize,
    (to, words): (*mut f32, usize),
    width: usize,
    format: Format,
) -> [f32; GROUP] {
    assert!(lanes.are_columns() && lanes.count() <= GROUP);
    let mut found = [1.0; GROUP];
    // SAFETY: the caller's promises.
    unsafe {
        let largest = if format == Format::F16 { largest_of_columns(lanes, k) } else { [0; GROUP] };
        for (panel, first) in (0..lanes.count()).step_by(width).enumerate() {
            let lanes = lanes.part(first, width);
            let to = to.add(panel * words).cast::<u32>();
            if format == Format::Bf16 {
                column_pairs(lanes, k, to, width);
                continue;
            }
            let (up, down) = scales(largest[first..first + lanes.count()].iter().copied().max().unwrap_or(0));
            found[panel] = down;
            columns_halved(lanes, k, (to.cast(), width), up);
        }
    }
    found
}

/// A mask of the lanes `from..from + 16` of `count`.
fn mask(count: usize, from: usize) -> u16 {
    ((1u32 << count.saturating_sub(from).min(16)) - 1) as u16
}

/// Each lane's largest absolute value, as [`largest`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn largest_of_columns(lanes: Lanes, k: usize) -> [u32; GROUP] {
    let sign = _mm512_set1_epi32(i32::MAX);
    let mut top = [_mm512_setzero_si512(); GROUP / 16];
    let masks: [u16; GROUP / 16] = [0, 16, 32, 48].map(|from| mask(lanes.count(), from));
    for p in 0..k {
        let row = lanes.step(p);
        for v in 0..GROUP / 16 {
            // SAFETY: the masked lanes are readable at step `p`.
            let bits = unsafe { _mm512_maskz_loadu_epi32(masks[v], row.wrapping_add(16 * v).cast()) };
            top[v] = _mm512_max_epu32(top[v], _mm512_and_si512(bits, sign));
        }
    }
    let mut found = [0; GROUP];
    for v in 0..GROUP / 16 {
        // SAFETY: four vectors of room.
        unsafe { _mm512_storeu_si512(found.as_mut_ptr().add(16 * v).cast(), top[v]) };
    }
    found
}

/// A panel of up to [`GROUP`] lanes, neighbours side by side, each number times `up`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn columns_halved(lanes: Lanes, k: usize, (to, width): (*mut u16, usize), up: f32) {
    let factor = _mm512_set1_ps(up);
    let vectors = width.div_ceil(16);
    let masks: [[u16; 2]; GROUP / 16] = [0, 16, 32, 48].map(|from| [mask(lanes.count(), from), mask(width, from)]);
    for p in 0..k {
        for (v, [from, all]) in masks.into_iter().enumerate().take(vectors) {
            // SAFETY: the masked lanes are readable at step `p`, and `width` halves are writable for each step.
            unsafe {
                let x = _mm512_maskz_loadu_ps(from, lanes.step(p).wrapping_add(16 * v));
                let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_mul_ps(x, factor));
                _mm256_mask_storeu_epi16(to.add(p * width + 16 * v).cast(), all, half);
            }
        }
    }
}

/// A panel of lanes as bfloat16, two steps in a word, as [`pairs`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn column_pairs(lanes: Lanes, k: usize, to: *mut u32, width: usize) {
    let word = |x: __m512| _mm512_cvtepu16_epi32(bits(_mm512_cvtneps_pbh(x)));
    for p in (0..k).step_by(2) {
        for l in (0..width).step_by(16) {
            let from = mask(lanes.count(), l);
            let second = if p + 1 < k { from } else { 0 };
            // SAFETY: the masked lanes are readable at steps p and, with a mask, p + 1; `width` words are writable.
            unsafe {
                let low = word(_mm512_maskz_loadu_ps(from, lanes.step(p).wrapping_add(l)));
                let high = word(_mm512_maskz_loadu_ps(second, lanes.step(p + 1).wrapping_add(l)));
                let both = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                _mm512_mask_storeu_epi32(to.add(p / 2 * width + l).cast(), mask(width, l), both);
            }
        }
    }
}

/// Neighbours in a word, the earlier in the lower half; a missing last one is 0.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn neighbours(from: &[f32], to: *mut u32) {
    for i in (0..from.len()).step_by(16) {
        let left = (from.len() - i).min(16);
        let mask = ((1u32 << left) - 1) as u16;
        // SAFETY: the masked numbers lie inside `from`, half as many words, rounded up, inside `to`.
        unsafe {
            let x = _mm512_maskz_loadu_ps(mask, from.as_ptr().add(i));
            let words = _mm512_castsi256_si512(bits(_mm512_cvtneps_pbh(x)));
            let mask = ((1u32 << left.div_ceil(2)) - 1) as u16;
            _mm512_mask_storeu_epi32(to.add(i / 2).cast(), mask, words);
        }
    }
}

/// Neighbours in `k` as bfloat16, the earlier in the lower half of a word; a missing last one is 0.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs(from: &[f32], to: *mut u32, width: usize) {
    let k = from.len() / width;
    let word = |x: __m512| _mm512_cvtepu16_epi32(bits(_mm512_cvtneps_pbh(x)));
    for p in (0..k).step_by(2) {
        for l in (0..width).step_by(16) {
            let mask = ((1u32 << (width - l).min(16)) - 1) as u16;
            let second = if p + 1 < k { mask } else { 0 };
            // SAFETY: the masked lanes of steps p and p + 1 lie inside `from`, those of their words inside `to`.
            unsafe {
                let low = word(_mm512_maskz_loadu_ps(mask, from.as_ptr().add(p * width + l)));
                let high = word(_mm512_maskz_loadu_ps(second, from.as_ptr().wrapping_add((p + 1) * width + l)));
                let both = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                _mm512_mask_storeu_epi32(to.add(p / 2 * width + l).cast(), mask, both);
            }
        }
    }
}

/// A bfloat16 vector's bits.
fn bits(x: __m256bh) -> __m256i {
    // SAFETY: both types are 256 bits without invalid values.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(x) }
}

/// Each number, times `up`, twice in a word.
///
/// # Safety
/// The CPU must have the instructions; `to` takes as many words as there are numbers.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn doubled(from: &[f32], to: *mut u32, up: f32) {
    let factor = _mm512_set1_ps(up);
    for i in (0..from.len()).step_by(16) {
        let mask = ((1u32 << (from.len() - i).min(16)) - 1) as u16;
        // SAFETY: the masked numbers lie inside `from`, as many words inside `to`.
        unsafe {
            let x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, from.as_ptr().add(i)), factor);
            let half = _mm512_cvtepu16_epi32(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
            _mm512_mask_storeu_epi32(to.add(i).cast(), mask, _mm512_or_si512(half, _mm512_slli_epi32::<16>(half)));
        }
    }
}

/// Neighbouring columns side by side; gives their scale.
///
/// # Safety
/// The CPU must have the instructions; `to` takes as many halves as there are numbers, a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn halves(from: &[f32], to: *mut u16) -> f32 {
    let (up, down) = scales(largest(from));
    let factor = _mm512_set1_ps(up);
    for (i, x) in from.as_chunks::<16>().0.iter().enumerate() {
        // SAFETY: chunk `i` holds 16 floats; `to` holds as many halves.
        unsafe {
            let x = _mm512_mul_ps(_mm512_loadu_ps(x.as_ptr()), factor);
            _mm256_storeu_si256(to.add(16 * i).cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
        }
    }
    down
}

/// Keeps a row as 16-bit numbers, two in a word, and behind them the row's scale.
///
/// # Safety
/// The CPU must have AVX-512 F, BW and VL and the format's instructions.
pub unsafe fn keep(row: &[f32], to: &mut [f32], format: Format) {
    let words = row.len().div_ceil(2);
    assert!(to.len() > words, "keep: {} words for {} numbers", to.len(), row.len());
    // SAFETY: `to` was checked, the instructions are the caller's promise.
    unsafe {
        if format == Format::Bf16 {
            neighbours(row, to.as_mut_ptr().cast());
            return;
        }
        let (up, down) = scales(largest(row));
        keep_halves(row, to.as_mut_ptr().cast(), up);
        to[words] = down;
    }
}

/// Gives back what [`keep`] kept.
///
/// # Safety
/// As [`keep`].
pub unsafe fn kept(from: &[f32], row: &mut [f32], format: Format) {
    let words = row.len().div_ceil(2);
    assert!(from.len() > words, "kept: {} words for {} numbers", from.len(), row.len());
    // SAFETY: as in `keep`.
    unsafe { widen(from.as_ptr().cast(), row, (format == Format::F16).then(|| from[words])) }
}

/// Each number, times `up`, as float16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn keep_halves(from: &[f32], to: *mut u16, up: f32) {
    let factor = _mm512_set1_ps(up);
    for i in (0..from.len()).step_by(16) {
        let mask = mask(from.len(), i);
        // SAFETY: the masked numbers lie inside `from`, as many halves inside `to`.
        unsafe {
            let x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, from.as_ptr().add(i)), factor);
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm256_mask_storeu_epi16(to.add(i).cast(), mask, half);
        }
    }
}

/// 16-bit numbers as 32-bit floats: float16 times a scale, or without one bfloat16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn widen(from: *const u16, to: &mut [f32], scale: Option<f32>) {
    for i in (0..to.len()).step_by(16) {
        let mask = mask(to.len(), i);
        // SAFETY: the masked halves are readable, as many floats lie inside `to`.
        unsafe {
            let halves = _mm256_maskz_loadu_epi16(mask, from.add(i).cast());
            let x = match scale {
                Some(scale) => _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(scale)),
                None => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves))),
            };
            _mm512_mask_storeu_ps(to.as_mut_ptr().add(i), mask, x);
        }
    }
}

/// The largest absolute value, as the bits of a float: they order like numbers, and infinity and NaN come last.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn largest(x: &[f32]) -> u32 {
    let mut top = _mm512_setzero_si512();
    let sign = _mm512_set1_epi32(i32::MAX);
    let (chunks, rest) = x.as_chunks::<16>();
    for x in chunks {
        // SAFETY: a chunk is 16 floats.
        let bits = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
        top = _mm512_max_epu32(top, _mm512_and_si512(bits, sign));
    }
    rest.iter().fold(_mm512_reduce_max_epu32(top), |top, x| top.max(x.to_bits() & 0x7fff_ffff))
}

/// The power of two that brings the largest number into 8..16, and its inverse. Without a finite largest number above
/// 0, and beyond 2^±120, there is nothing to gain.
pub fn scales(largest: u32) -> (f32, f32) {
    let exponent = (largest >> 23) as i32 - 127;
    if largest == 0 || exponent == 128 {
        return (1.0, 1.0);
    }
    let shift = (3 - exponent).clamp(-120, 120);
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    (power(shift), power(-shift))
}

#[cfg(test)]
mod tests {
    use super::scales;

    #[test]
    fn scales_bring_the_largest_number_below_sixteen() {
        for x in [1e-30f32, 0.3, 1.0, 7.99, 8.0, 15.9, 16.0, 1e30] {
            let (up, down) = scales(x.to_bits());
            assert!((8.0..16.0).contains(&(x * up)), "{x} becomes {}", x * up);
            assert_eq!(up * down, 1.0);
        }
        for x in [0.0, f32::INFINITY, f32::NAN] {
            assert_eq!(scales(x.to_bits()), (1.0, 1.0));
        }
    }
}
