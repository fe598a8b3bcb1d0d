//! Rows kept for a backward pass in as many bits as the products multiply.

use super::format::{Format, Precision};
#[cfg(target_arch = "x86_64")]
use super::pack_half;
use crate::simd::Level;

/// How rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// As they are.
    F32,
    /// As 16-bit numbers, two in a word, then (float16) the row's scale.
    Half(Format),
}

impl Kept {
    /// As what products in `precision` are computed from, where the processor has that format.
    pub fn new(level: Level, precision: Precision) -> Self {
        match Format::new(level, precision) {
            format @ (Format::Bf16 | Format::F16) => Kept::Half(format),
            Format::F32 | Format::Rounded(_) => Kept::F32,
        }
    }

    /// Words of a row of `width` numbers.
    pub fn words(self, width: usize) -> usize {
        match self {
            Kept::F32 => width,
            Kept::Half(_) => width.div_ceil(2) + 1,
        }
    }

    /// Keeps rows of `width` numbers.
    pub fn put(self, rows: &[f32], width: usize, to: &mut [f32]) {
        assert_eq!(
            rows.len() / width * self.words(width),
            to.len(),
            "kept: {} words for {} numbers",
            to.len(),
            rows.len()
        );
        let Kept::Half(format) = self else { return to.copy_from_slice(rows) };
        for (row, to) in rows.chunks_exact(width).zip(to.chunks_exact_mut(self.words(width))) {
            put(row, to, format);
        }
    }

    /// Gives the rows back.
    pub fn get(self, from: &[f32], width: usize, rows: &mut [f32]) {
        assert_eq!(
            rows.len() / width * self.words(width),
            from.len(),
            "kept: {} words for {} numbers",
            from.len(),
            rows.len()
        );
        let Kept::Half(format) = self else { return rows.copy_from_slice(from) };
        for (row, from) in rows.chunks_exact_mut(width).zip(from.chunks_exact(self.words(width))) {
            get(from, row, format);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn put(row: &[f32], to: &mut [f32], format: Format) {
    // SAFETY: the format exists only where the CPU has its instructions.
    unsafe { pack_half::keep(row, to, format) }
}

#[cfg(target_arch = "x86_64")]
fn get(from: &[f32], row: &mut [f32], format: Format) {
    // SAFETY: as above.
    unsafe { pack_half::kept(from, row, format) }
}

#[cfg(not(target_arch = "x86_64"))]
fn put(_: &[f32], _: &mut [f32], format: Format) {
    unreachable!("{format:?} exists on x86-64 only")
}

#[cfg(not(target_arch = "x86_64"))]
fn get(_: &[f32], _: &mut [f32], format: Format) {
    unreachable!("{format:?} exists on x86-64 only")
}

#[cfg(test)]
mod tests {
    use super::{Kept, Precision};
    use crate::simd;

    #[test]
    fn rows_come_back_to_the_precision_of_their_format() {
        for (precision, bits) in [(Precision::F32, 24), (Precision::Bf16, 8), (Precision::F16, 11)] {
            let kept = Kept::new(simd::level(), precision);
            for width in [1, 2, 15, 16, 17, 31, 33, 768] {
                let rows: Vec<f32> =
                    (0..3 * width).map(|i| ((i * 37 % 101) as f32 - 50.0) * [1e-20, 1.0, 1e20][i / width]).collect();
                let (mut words, mut back) = (vec![f32::NAN; 3 * kept.words(width)], vec![f32::NAN; 3 * width]);
                kept.put(&rows, width, &mut words);
                kept.get(&words, width, &mut back);
                for (x, y) in rows.iter().zip(&back) {
                    assert!(
                        (x - y).abs() <= x.abs() * 0.5f32.powi(bits),
                        "{precision:?} {width}: {x} came back as {y}"
                    );
                }
            }
        }
    }

    #[test]
    fn nan_and_infinity_come_back() {
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let kept = Kept::new(simd::level(), precision);
            let (mut words, mut back) = (vec![0.0; kept.words(3)], [0.0; 3]);
            kept.put(&[1.0, f32::NAN, f32::NEG_INFINITY], 3, &mut words);
            kept.get(&words, 3, &mut back);
            assert_eq!(back[0], 1.0);
            assert!(back[1].is_nan());
            assert_eq!(back[2], f32::NEG_INFINITY);
        }
    }
}
