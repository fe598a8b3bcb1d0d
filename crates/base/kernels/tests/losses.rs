//! The linear head's losses against their definition.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

struct Case {
    x: Vec<f32>,
    w: Vec<f32>,
    targets: Vec<i32>,
    weights: Vec<f32>,
    d_model: usize,
    vocab: usize,
    form: LossForm,
}

/// The plain loss, smoothed labels, a penalty on the log-sum-exp, and both.
const FORMS: [LossForm; 4] = [
    LossForm { label_smoothing: 0.0, z_loss: 0.0 },
    LossForm { label_smoothing: 0.1, z_loss: 0.0 },
    LossForm { label_smoothing: 0.0, z_loss: 0.02 },
    LossForm { label_smoothing: 0.3, z_loss: 0.01 },
];

impl Case {
    fn new(n: usize, d_model: usize, vocab: usize) -> Self {
        let targets = (0..n).map(|i| if i % 5 == 3 { IGNORE } else { (i * 7 % vocab) as i32 }).collect();
        let mut weights = noise(n, 3);
        weights.iter_mut().skip(1).step_by(4).for_each(|w| *w = 0.0);
        Case {
            x: noise(n * d_model, 1),
            w: noise(vocab * d_model, 2),
            targets,
            weights,
            d_model,
            vocab,
            form: FORMS[0],
        }
    }

    fn loss(&self) -> LinearLoss<'_> {
        LinearLoss {
            x: &self.x,
            w: &self.w,
            targets: &self.targets,
            d_model: self.d_model,
            vocab: self.vocab,
            precision: Precision::F32,
            form: self.form,
        }
    }

    /// nll, lse, then dx and dw in two passes, then nll, dx and dw in one.
    fn run(&self) -> [Vec<f32>; 7] {
        let (l, n) = (self.loss(), self.targets.len());
        let [mut nll, mut lse, mut nll1] = [(); 3].map(|()| vec![9.0; n]);
        let [mut dx, mut dx1] = [(); 2].map(|()| vec![9.0; self.x.len()]);
        let [mut dw, mut dw1] = [(); 2].map(|()| vec![9.0; self.w.len()]);
        linear_nll_forward(&l, &mut nll, &mut lse);
        linear_nll_backward(&l, &lse, &self.weights, &mut dx, &mut dw);
        linear_cross_entropy(&l, &self.weights, &mut nll1, &mut dx1, &mut dw1);
        [nll, lse, dx, dw, nll1, dx1, dw1]
    }
}

#[test]
fn losses_equal_their_definition() {
    at_every_level(|| {
        let sizes = [(1, 1, 1), (4, 3, 5), (17, 8, 33), (300, 20, 65), (140, 16, 20_000)];
        for ((n, d, v), form) in sizes.into_iter().flat_map(|size| FORMS.map(|form| (size, form))) {
            let case = Case { form, ..Case::new(n, d, v) };
            let l = case.loss();
            let (mut nll, mut lse) = (vec![0.0; n], vec![0.0; n]);
            let (mut dx, mut dw) = (vec![0.0; n * d], vec![0.0; v * d]);
            reference::linear_nll_forward(&l, &mut nll, &mut lse);
            reference::linear_nll_backward(&l, &case.weights, &mut dx, &mut dw);
            let want = [&nll, &lse, &dx, &dw, &nll, &dx, &dw];
            for (i, (got, want)) in case.run().iter().zip(want).enumerate() {
                assert_close(&format!("result {i} of [{n}, {d}, {v}], {form:?}"), got, want, 2e-5);
            }
        }
    });
}

#[test]
fn gradients_are_slopes() {
    for form in FORMS {
        let case = Case { form, ..Case::new(5, 3, 4) };
        let [_, _, dx, dw, ..] = case.run();
        let loss = |x: &[f32], w: &[f32]| {
            let l = LinearLoss { x, w, ..case.loss() };
            let (mut nll, mut lse) = ([0.0; 5], [0.0; 5]);
            reference::linear_nll_forward(&l, &mut nll, &mut lse);
            nll.iter().zip(&case.weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        assert_slope("dx", &case.x, &dx, |x| loss(x, &case.w));
        assert_slope("dw", &case.w, &dw, |w| loss(&case.x, w));
    }
}

#[test]
fn nothing_to_learn_gives_zero_gradients() {
    let mut case = Case::new(6, 4, 5);
    case.targets.fill(IGNORE);
    assert!(case.run().concat().iter().all(|x| *x == 0.0));
}

#[test]
fn threads_change_no_bit() {
    assert_same_on_any_threads(|| Case { form: FORMS[3], ..Case::new(700, 24, 900) }.run().concat());
}

#[test]
#[should_panic(expected = "target 5 at row 0 is outside the vocabulary of 5")]
fn a_target_outside_the_vocabulary_is_refused() {
    let mut case = Case::new(1, 2, 5);
    case.targets[0] = 5;
    case.run();
}
