//! Matrix products against plain loops.
mod common;
use common::{assert_close, assert_same_on_any_threads, at_every_level, noise};
use cupola_kernels::{How, Mat, PackedB, Precision, matmul, matmul_packed, matmul_with, reference};

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

/// Rows and columns in any order and any distance; what lies between them is no number and must not be seen.
#[test]
fn views_with_gaps_give_the_products_of_their_copies() {
    let draw = noise(6 * 40, 9);
    let mut draw = draw.iter().map(|x| (x.abs() * 1000.0) as usize);
    let mut up_to = |most: usize| draw.next().expect("enough numbers") % (most + 1);
    for _ in 0..40 {
        let (m, k, n) = (1 + up_to(80), 1 + up_to(40), 1 + up_to(70));
        let (a, b) = (Gapped::new((m, k), up_to(9)), Gapped::new((k, n), up_to(9)));
        at_every_level(|| {
            for (a, b) in [(a.rows(), b.rows()), (a.columns(), b.rows()), (a.rows(), b.columns()), (a.both(), b.both())]
            {
                for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
                    let (mut got, mut packed, mut want) = (vec![1.0; m * n], vec![1.0; m * n], vec![1.0; m * n]);
                    matmul_with(&mut got, a, b, How { accumulate: true, precision, bias: None });
                    matmul_packed(&mut packed, a, &PackedB::new(b, precision), true);
                    reference::matmul(&mut want, a, b, true);
                    assert!(got == want && packed == want, "{precision:?} {m}x{k}x{n}");
                }
            }
        });
    }
}

/// Small whole numbers, which every precision holds, in three layouts with gaps.
struct Gapped {
    shape: (usize, usize),
    gap: usize,
    layouts: [Vec<f32>; 3],
}

impl Gapped {
    fn new(shape: (usize, usize), gap: usize) -> Self {
        let mut new = Gapped { shape, gap, layouts: [(); 3].map(|()| vec![]) };
        let (rows, cols) = shape;
        let numbers: Vec<f32> = noise(rows * cols, 1).iter().map(|x| (x * 3.0).round()).collect();
        for which in 0..3 {
            let (down, right) = new.strides(which);
            let mut data = vec![f32::NAN; (rows - 1) * down + (cols - 1) * right + 1];
            numbers.iter().enumerate().for_each(|(i, x)| data[i / cols * down + i % cols * right] = *x);
            new.layouts[which] = data;
        }
        new
    }

    /// Rows whose numbers are neighbours, columns whose are, neither.
    fn strides(&self, which: usize) -> (usize, usize) {
        let (rows, cols) = self.shape;
        [(cols + self.gap, 1), (1, rows + self.gap), (3 * cols + self.gap, 3)][which]
    }

    fn view(&self, which: usize) -> Mat<'_> {
        let ((rows, cols), (row_stride, col_stride)) = (self.shape, self.strides(which));
        Mat { data: &self.layouts[which], rows, cols, row_stride, col_stride }
    }

    fn rows(&self) -> Mat<'_> {
        self.view(0)
    }

    fn columns(&self) -> Mat<'_> {
        self.view(1)
    }

    fn both(&self) -> Mat<'_> {
        self.view(2)
    }
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

#[test]
#[should_panic(expected = "needs 18446744073709551615 floats")]
fn strides_beyond_every_address_are_refused() {
    let a = Mat { data: &[0.0; 5], rows: 3, cols: 1, row_stride: 1 << 63, col_stride: 1 };
    matmul(&mut [0.0; 3], a, Mat::new(&[0.0; 1], 1, 1), false);
}

#[test]
#[should_panic(expected = "c has 0 floats")]
fn a_result_beyond_every_address_is_refused() {
    let a = Mat { data: &[0.0], rows: 1 << 32, cols: 1, row_stride: 0, col_stride: 1 };
    matmul(&mut [], a, a.t(), false);
}
