//! Norms, alone and of a sum, against plain loops and differences.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

const SHAPES: [(usize, usize); 8] = [(1, 1), (3, 5), (2, 8), (70, 33), (65, 64), (33, 257), (100, 288), (0, 4)];

/// Whether it centers, and whether it has a bias.
const KINDS: [(bool, bool); 3] = [(false, false), (true, false), (true, true)];

struct Case {
    x: Vec<f32>,
    delta: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    dy: Vec<f32>,
    d_sum: Vec<f32>,
    center: bool,
    bias: bool,
    eps: f32,
}

struct Results {
    sum: Vec<f32>,
    y: Vec<f32>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
    db: Vec<f32>,
}

type Forward = fn(&Norm, &[f32], &mut [f32], NormStats<'_>);
type AddForward = fn(&Norm, &[f32], &mut [f32], &mut [f32], NormStats<'_>);
type Backward = fn(&Norm, &NormSaved, &[f32], Option<&[f32]>, NormGrads<'_>);

impl Case {
    fn new((n, d): (usize, usize), (center, bias): (bool, bool)) -> Self {
        let [x, delta, dy, d_sum] = [1, 2, 3, 4].map(|seed| noise(n * d, seed));
        // Away from 0, so that a mean that is left out is noticed.
        let x = x.iter().map(|x| x + 0.7).collect();
        Case { x, delta, w: noise(d, 5), b: noise(d, 6), dy, d_sum, center, bias, eps: 1e-3 }
    }

    fn norm(&self) -> Norm<'_> {
        Norm { w: &self.w, b: self.bias.then_some(&self.b), eps: self.eps, center: self.center }
    }

    fn run(&self, add: bool, forward: Forward, add_forward: AddForward, backward: Backward) -> Results {
        let (norm, len, d) = (self.norm(), self.x.len(), self.w.len());
        let n = len / d;
        let [mut sum, mut y, mut dx] = [(); 3].map(|()| vec![9.0; len]);
        let (mut mean, mut rstd) = (vec![9.0; if self.center { n } else { 0 }], vec![9.0; n]);
        let (mut dw, mut db) = (vec![9.0; d], vec![9.0; if self.bias { d } else { 0 }]);
        let stats = NormStats { mean: &mut mean, rstd: &mut rstd };
        if add {
            sum.copy_from_slice(&self.delta);
            add_forward(&norm, &self.x, &mut sum, &mut y, stats);
        } else {
            forward(&norm, &self.x, &mut y, stats);
            sum.copy_from_slice(&self.x);
        }
        let saved = NormSaved { x: &sum, mean: &mean, rstd: &rstd };
        let grads = NormGrads { dx: &mut dx, dw: &mut dw, db: self.bias.then_some(&mut db) };
        backward(&norm, &saved, &self.dy, add.then_some(&self.d_sum), grads);
        Results { sum, y, mean, rstd, dx, dw, db }
    }

    fn fast(&self, add: bool) -> Results {
        self.run(add, norm_forward, add_norm_forward, norm_backward)
    }

    fn plain(&self, add: bool) -> Results {
        self.run(add, reference::norm_forward, reference::add_norm_forward, reference::norm_backward)
    }
}

impl Results {
    fn all(self) -> [Vec<f32>; 7] {
        [self.sum, self.y, self.mean, self.rstd, self.dx, self.dw, self.db]
    }
}

#[test]
fn norms_equal_their_definition() {
    at_every_level(|| {
        for (shape, kind, add) in grid() {
            let case = Case::new(shape, kind);
            let results = case.fast(add).all().into_iter().zip(case.plain(add).all());
            for ((got, want), name) in results.zip(["sum", "y", "mean", "rstd", "dx", "dw", "db"]) {
                assert_close(&format!("{name} of {shape:?}, {kind:?}, {add}"), &got, &want, 3e-5);
            }
        }
    });
}

fn grid() -> impl Iterator<Item = ((usize, usize), (bool, bool), bool)> {
    SHAPES
        .into_iter()
        .flat_map(|shape| KINDS.into_iter().flat_map(move |kind| [false, true].map(|add| (shape, kind, add))))
}

#[test]
fn gradients_are_slopes() {
    for (kind, add) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let case = Case { eps: 0.1, ..Case::new((2, 5), kind) };
        let loss = |case: &Case| {
            let results = case.plain(add);
            let dot = |x: &[f32], g: &[f32]| x.iter().zip(g).map(|(x, g)| f64::from(*x) * f64::from(*g)).sum::<f64>();
            dot(&results.y, &case.dy) + if add { dot(&results.sum, &case.d_sum) } else { 0.0 }
        };
        let moved = |f: &dyn Fn(&mut Case)| {
            let mut case = Case { eps: 0.1, ..Case::new((2, 5), kind) };
            f(&mut case);
            loss(&case)
        };
        let got = case.fast(add);
        assert_slope("dx", &case.x, &got.dx, |x| moved(&|case| case.x = x.to_vec()));
        assert_slope("dw", &case.w, &got.dw, |w| moved(&|case| case.w = w.to_vec()));
        if add {
            assert_slope("delta", &case.delta, &got.dx, |x| moved(&|case| case.delta = x.to_vec()));
        }
        if case.bias {
            assert_slope("db", &case.b, &got.db, |b| moved(&|case| case.b = b.to_vec()));
        }
    }
}

#[test]
fn a_row_far_from_zero_keeps_its_precision() {
    at_every_level(|| {
        let mut case = Case::new((3, 257), (true, true));
        case.x.iter_mut().for_each(|x| *x = *x * 0.5 + 1000.0);
        assert_close("y", &case.fast(false).y, &case.plain(false).y, 1e-3);
    });
}

#[test]
fn nan_and_infinity_reach_their_row_and_no_other() {
    at_every_level(|| {
        for (kind, bad) in KINDS.into_iter().flat_map(|kind| [(kind, f32::NAN), (kind, f32::INFINITY)]) {
            for add in [false, true] {
                let mut case = Case::new((3, 21), kind);
                case.x[21 + 20] = bad;
                let y = case.fast(add).y;
                assert!(y[21 + 20].is_nan() && y[..21].iter().chain(&y[42..]).all(|y| y.is_finite()), "{kind:?} {bad}");
            }
        }
    });
}

#[test]
fn threads_change_no_bit() {
    for kind in KINDS {
        assert_same_on_any_threads(|| Case::new((700, 96), kind).fast(true).all().concat());
    }
}

#[test]
#[should_panic(expected = "b has 3 floats, w 4")]
fn a_bias_of_another_length_is_refused() {
    let mut case = Case::new((2, 4), (true, true));
    case.b.pop();
    case.fast(false);
}
