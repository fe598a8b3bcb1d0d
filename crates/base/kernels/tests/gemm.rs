//! Matrix products against plain loops.
mod common;
use common::{assert_close, assert_same_on_any_threads, at_every_level, noise};
use cupola_kernels::{Mat, matmul, reference};

/// Rows, inner length, columns.
type Shape = (usize, usize, usize);

/// All four layouts of one product, fresh and accumulated.
fn check((m, k, n): Shape) {
    let (a, at) = (noise(m * k, 1), noise(m * k, 1));
    let (b, bt) = (noise(k * n, 2), noise(k * n, 3));
    for a in [Mat::new(&a, m, k), Mat::new(&at, k, m).t()] {
        for b in [Mat::new(&b, k, n), Mat::new(&bt, n, k).t()] {
            for accumulate in [false, true] {
                let mut got = noise(m * n, 4);
                let mut want = got.clone();
                matmul(&mut got, a, b, accumulate);
                reference::matmul(&mut want, a, b, accumulate);
                assert_close(&format!("{m}x{k}x{n} {accumulate}"), &got, &want, 1e-5 * (k as f32).sqrt().max(1.0));
            }
        }
    }
}

#[test]
fn small_products_equal_plain_loops() {
    at_every_level(|| {
        for m in [1, 2, 3, 5, 6, 7, 8, 9, 13, 15] {
            for k in [1, 2, 7, 8, 9, 17] {
                for n in [1, 2, 7, 8, 9, 15, 16, 17, 31, 33] {
                    check((m, k, n));
                }
            }
        }
    });
}

#[test]
fn blocked_products_equal_plain_loops() {
    at_every_level(|| {
        for shape in [(120, 320, 64), (121, 321, 65), (250, 100, 70), (65, 700, 130), (9, 400, 500), (64, 330, 1000)] {
            check(shape);
        }
        check((300, 1000, 3));
        check((3, 1000, 300));
        check((1, 3000, 1200));
        check((2, 40_000, 3));
        check((9, 40_000, 3));
        check((1200, 300, 1));
    });
}

#[test]
fn products_wider_than_the_packing_buffer_equal_plain_loops() {
    let (m, k, n) = (70, 1500, 3001);
    let (a, b) = (noise(m * k, 1), noise(n * k, 2));
    let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t());
    let (mut got, mut want) = (vec![0.0; m * n], vec![0.0; m * n]);
    matmul(&mut got, a, b, false);
    reference::matmul(&mut want, a, b, false);
    assert_close("wide", &got, &want, 1e-4);
}

#[test]
fn an_endless_inner_side_is_cut_into_blocks() {
    let k = 3 << 20;
    let (a, b) = (vec![0.5; 9 * k], vec![0.25; k]);
    let mut c = vec![0.0; 9];
    matmul(&mut c, Mat::new(&a, 9, k), Mat::new(&b, k, 1), false);
    assert_eq!(c, vec![(k / 8) as f32; 9]);
    let mut c = vec![0.0; 18];
    let b = [&b[..], &b[..]].concat();
    matmul(&mut c, Mat::new(&a, 9, k), Mat::new(&b, k, 2), false);
    assert_eq!(c, vec![(k / 8) as f32; 18]);
}

#[test]
fn an_empty_inner_side_gives_zeros_or_keeps_the_sum() {
    let mut c = vec![1.0; 6];
    matmul(&mut c, Mat::new(&[], 2, 0), Mat::new(&[], 0, 3), true);
    assert_eq!(c, vec![1.0; 6]);
    matmul(&mut c, Mat::new(&[], 2, 0), Mat::new(&[], 0, 3), false);
    assert_eq!(c, vec![0.0; 6]);
    matmul(&mut [], Mat::new(&[], 0, 4), Mat::new(&[0.0; 12], 4, 3), false);
    matmul(&mut [], Mat::new(&[0.0; 8], 2, 4), Mat::new(&[], 4, 0), false);
}

#[test]
fn unusual_strides_are_followed() {
    let data = noise(4000, 5);
    let a = Mat { data: &data, rows: 11, cols: 9, row_stride: 40, col_stride: 3 };
    let b = Mat { data: &data[7..], rows: 9, cols: 21, row_stride: 2, col_stride: 19 };
    at_every_level(|| {
        let (mut got, mut want) = (vec![0.0; 231], vec![0.0; 231]);
        matmul(&mut got, a, b, false);
        reference::matmul(&mut want, a, b, false);
        assert_close("strided", &got, &want, 1e-5);
    });
}

#[test]
fn threads_change_no_bit() {
    for (m, k, n) in [(1, 900, 700), (7, 500, 300), (40, 300, 200), (300, 700, 130), (31, 2000, 1100), (257, 64, 999)] {
        assert_same_on_any_threads(|| {
            let (a, b) = (noise(m * k, 1), noise(k * n, 2));
            let mut c = vec![0.0; m * n];
            matmul(&mut c, Mat::new(&a, m, k), Mat::new(&b, n, k).t(), false);
            matmul(&mut c, Mat::new(&a, k, m).t(), Mat::new(&b, k, n), true);
            c
        });
    }
}

#[test]
#[should_panic(expected = "a is [2, 3], b is [4, 2]")]
fn mismatched_sides_are_named() {
    matmul(&mut [0.0; 4], Mat::new(&[0.0; 6], 2, 3), Mat::new(&[0.0; 8], 4, 2), false);
}

#[test]
#[should_panic(expected = "needs 6 floats")]
fn views_outside_their_data_are_refused() {
    let a = Mat { data: &[0.0; 5], rows: 2, cols: 3, row_stride: 3, col_stride: 1 };
    matmul(&mut [0.0; 4], a, Mat::new(&[0.0; 6], 3, 2), false);
}
