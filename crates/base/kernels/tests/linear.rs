//! Linear layers of one input.
mod common;
use common::{assert_close, assert_same_on_any_threads, at_every_level, noise};
use cupola_kernels::*;

/// Rows, inputs, and the outputs of each layer.
const SHAPES: [(usize, usize, &[usize]); 8] = [
    (1, 1, &[1, 1, 1]),
    (3, 5, &[7, 2]),
    (64, 33, &[40, 8, 8]),
    (65, 33, &[40, 8, 9]),
    (131, 17, &[64]),
    (300, 70, &[65, 96, 33]),
    (257, 600, &[20, 31]),
    (70, 8, &[]),
];

struct Case {
    x: Vec<f32>,
    weights: Vec<Vec<f32>>,
    biases: Vec<Vec<f32>>,
    dys: Vec<Vec<f32>>,
    shape: (usize, usize),
}

impl Case {
    fn new((rows, d_in, d_out): (usize, usize, &[usize])) -> Self {
        let each = |seed: u64, width: usize| {
            d_out.iter().enumerate().map(|(i, n)| noise(n * width, seed + i as u64)).collect()
        };
        Case {
            x: noise(rows * d_in, 1),
            weights: each(10, d_in),
            biases: each(20, 1),
            dys: each(30, rows),
            shape: (rows, d_in),
        }
    }

    /// Results, the gradient of x, those of the weights.
    fn run(&self, biased: bool, precision: Precision) -> (Vec<Vec<f32>>, Vec<f32>, Vec<Vec<f32>>) {
        let (rows, d_in) = self.shape;
        let x = Mat::new(&self.x, rows, d_in);
        let mut ys: Vec<Vec<f32>> = self.dys.iter().map(|dy| vec![f32::NAN; dy.len()]).collect();
        let layers: Vec<Affine> = (self.weights.iter().zip(&self.biases))
            .map(|(weight, bias)| Affine { weight, bias: biased.then_some(&bias[..]) })
            .collect();
        linear_each(x, &layers, &mut ys.iter_mut().map(|y| &mut y[..]).collect::<Vec<_>>(), precision);
        let dy = |i: usize| Mat::new(&self.dys[i], rows, self.dys[i].len() / rows);
        let mut dx = vec![f32::NAN; self.x.len()];
        let slopes: Vec<_> = self.weights.iter().enumerate().map(|(i, weight)| (dy(i), &weight[..])).collect();
        linear_each_input_grad(&mut dx, &slopes, d_in, precision);
        let mut dws: Vec<Vec<f32>> = self.weights.iter().map(|weight| vec![f32::NAN; weight.len()]).collect();
        let mut slopes: Vec<_> = dws.iter_mut().enumerate().map(|(i, dw)| (dy(i), &mut dw[..])).collect();
        linear_each_weight_grads(x, &mut slopes, precision);
        (ys, dx, dws)
    }
}

/// The numbers of all parts over their largest.
fn check(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    let size = want.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let scaled = |x: &[f32]| x.iter().map(|x| x / size).collect::<Vec<_>>();
    assert_close(what, &scaled(got), &scaled(want), tolerance);
}

#[test]
fn layers_of_one_input_equal_their_definition() {
    at_every_level(|| {
        for (shape, biased) in SHAPES.iter().flat_map(|shape| [(*shape, false), (*shape, true)]) {
            let case = Case::new(shape);
            let (rows, d_in) = case.shape;
            for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 2e-2), (Precision::F16, 4e-3)] {
                let (ys, dx, dws) = case.run(biased, precision);
                let x = Mat::new(&case.x, rows, d_in);
                let mut want_dx = vec![0.0; case.x.len()];
                for (i, weight) in case.weights.iter().enumerate() {
                    let n = weight.len() / d_in;
                    let (w, dy) = (Mat::new(weight, n, d_in), Mat::new(&case.dys[i], rows, n));
                    let (mut y, mut dw) = (vec![0.0; rows * n], vec![0.0; n * d_in]);
                    if biased {
                        y.chunks_mut(n).for_each(|y| y.copy_from_slice(&case.biases[i]));
                    }
                    reference::matmul(&mut y, x, w.t(), true);
                    reference::matmul(&mut want_dx, dy, w, true);
                    reference::matmul(&mut dw, dy.t(), x, false);
                    check(&format!("{shape:?} {precision:?}: y {i}"), &ys[i], &y, tolerance);
                    check(&format!("{shape:?} {precision:?}: dw {i}"), &dws[i], &dw, tolerance);
                }
                check(&format!("{shape:?} {precision:?}: dx"), &dx, &want_dx, tolerance);
            }
        }
    });
}

#[test]
fn threads_change_no_bit() {
    for precision in [Precision::F32, Precision::F16] {
        let case = Case::new((700, 70, &[65, 96, 33]));
        assert_same_on_any_threads(|| {
            let (ys, dx, dws) = case.run(true, precision);
            [ys.concat(), dx, dws.concat()].concat()
        });
    }
}

#[test]
fn what_is_not_a_number_reaches_its_rows_and_columns_alone() {
    for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
        let mut case = Case::new((90, 20, &[30, 7]));
        case.x[41 * 20 + 3] = f32::NAN;
        let (ys, dx, _) = case.run(false, precision);
        for (y, n) in ys.iter().zip([30, 7]) {
            for (i, row) in y.chunks(n).enumerate() {
                assert_eq!(row.iter().all(|x| x.is_nan()), i == 41, "{precision:?}, row {i}");
            }
        }
        assert!(dx.iter().all(|x| x.is_finite()));
    }
}
