//! Matrix products of 16-bit numbers.
mod common;
use common::{assert_same_on_any_threads, at_every_level, noise};
use cupola_kernels::{
    How, Mat, PackedB, Precision, available_levels, matmul_packed, matmul_with, reference, with_level,
};

const HALVES: [Precision; 2] = [Precision::Bf16, Precision::F16];

fn matmul_in(precision: Precision, c: &mut [f32], a: Mat, b: Mat, accumulate: bool) {
    matmul_with(c, a, b, How { accumulate, precision, bias: None });
}

/// Whole numbers from -3 to 3: 16-bit products and their sums are exact.
fn whole(len: usize, seed: u64) -> Vec<f32> {
    noise(len, seed).iter().map(|x| (x * 3.0).round()).collect()
}

/// All four layouts of one product, fresh and accumulated, packed before and not, equal to the last bit.
fn check(precision: Precision, (m, k, n): (usize, usize, usize)) {
    let (a, at) = (whole(m * k, 1), whole(m * k, 1));
    let (b, bt) = (whole(k * n, 2), whole(k * n, 3));
    for a in [Mat::new(&a, m, k), Mat::new(&at, k, m).t()] {
        for b in [Mat::new(&b, k, n), Mat::new(&bt, n, k).t()] {
            for accumulate in [false, true] {
                let start = whole(m * n, 4);
                let (mut got, mut packed, mut want) = (start.clone(), start.clone(), start);
                matmul_in(precision, &mut got, a, b, accumulate);
                matmul_packed(&mut packed, a, &PackedB::new(b, precision), accumulate);
                reference::matmul(&mut want, a, b, accumulate);
                assert!(got == want, "{precision:?} {m}x{k}x{n} {accumulate}");
                assert!(packed == want, "{precision:?} {m}x{k}x{n} {accumulate}, packed");
            }
        }
    }
}

#[test]
fn products_of_small_whole_numbers_are_exact() {
    at_every_level(|| {
        for precision in HALVES {
            for m in [1, 7, 65, 77, 85] {
                for k in [1, 2, 3, 16, 63, 65] {
                    for n in [1, 15, 17, 33, 63, 66] {
                        check(precision, (m, k, n));
                    }
                }
            }
            for shape in [(70, 513, 65), (300, 1000, 70), (65, 1030, 130), (500, 129, 300)] {
                check(precision, shape);
            }
        }
    });
}

/// The largest error over the size that sums of `k` such products have.
fn worst(precision: Precision, (m, k, n): (usize, usize, usize), scale: f32) -> f32 {
    let a: Vec<f32> = noise(m * k, 5).iter().map(|x| x * scale).collect();
    let b: Vec<f32> = noise(k * n, 6).iter().map(|x| x / scale).collect();
    let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t());
    let (mut got, mut want) = (vec![0.0; m * n], vec![0.0; m * n]);
    matmul_in(precision, &mut got, a, b, false);
    reference::matmul(&mut want, a, b, false);
    let off = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    off / (k as f32).sqrt()
}

#[test]
fn errors_are_those_of_rounding_at_any_scale() {
    at_every_level(|| {
        for shape in [(96, 288, 200), (70, 2000, 64)] {
            for scale in [1.0, 1e-20, 1e18] {
                assert!(worst(Precision::F32, shape, scale) < 1e-5);
                let (bf16, f16) = (worst(Precision::Bf16, shape, scale), worst(Precision::F16, shape, scale));
                assert!((1e-4..6e-3).contains(&bf16), "bf16 at {scale}: {bf16}");
                assert!(f16 < 3e-3, "f16 at {scale}: {f16}");
                assert!(f16 < bf16, "f16 {f16}, bf16 {bf16}");
            }
        }
    });
}

#[test]
fn infinity_and_nan_reach_exactly_their_rows_and_columns() {
    let (m, k, n) = (70, 80, 90);
    for level in available_levels() {
        for precision in HALVES {
            for bad in [f32::NAN, f32::INFINITY] {
                let (mut a, mut b) = (noise(m * k, 7), noise(k * n, 8));
                a[3 * k + 5] = bad;
                b[70 * n + 66] = bad;
                let mut c = vec![0.0; m * n];
                with_level(level, || matmul_in(precision, &mut c, Mat::new(&a, m, k), Mat::new(&b, k, n), false));
                for (at, x) in c.iter().enumerate() {
                    assert_eq!(x.is_finite(), at / n != 3 && at % n != 66, "{level:?} {precision:?} {bad} at {at}");
                }
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for precision in HALVES {
        for (m, k, n) in [(300, 700, 130), (257, 64, 999)] {
            assert_same_on_any_threads(|| {
                let (a, b) = (noise(m * k, 1), noise(k * n, 2));
                let mut c = vec![0.0; m * n];
                matmul_in(precision, &mut c, Mat::new(&a, m, k), Mat::new(&b, n, k).t(), false);
                matmul_in(precision, &mut c, Mat::new(&a, k, m).t(), Mat::new(&b, k, n), true);
                c
            });
        }
    }
}

#[test]
fn a_bias_is_added_once_to_every_row() {
    for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
        for (m, k, n) in
            [(1, 5, 7), (9, 1200, 70), (30, 9, 1), (70, 0, 3), (70, 900, 129), (3, 40, 2000), (80, 1300, 3000)]
        {
            let (a, b, bias) = (whole(m * k, 1), whole(k * n, 2), whole(n, 3));
            let start = whole(m * n, 4);
            for accumulate in [false, true] {
                let (mut got, mut want) = (start.clone(), start.clone());
                let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
                matmul_with(&mut got, a, b, How { accumulate, precision, bias: Some(&bias) });
                reference::matmul(&mut want, a, b, accumulate);
                want.chunks_mut(n).for_each(|row| row.iter_mut().zip(&bias).for_each(|(x, b)| *x += b));
                assert!(got == want, "{precision:?} {m}x{k}x{n} {accumulate}");
            }
        }
    }
}
