//! Whole feed-forward layers.
mod common;
use common::{assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::{
    Activation, Affine, AffineGrads, FeedForward, FeedForwardGrads, FeedForwardWants, Precision, feed_forward,
    feed_forward_backward, reference,
};

const ALL: FeedForwardWants = FeedForwardWants { x: true, gate: true, up: true, down: true };

/// Weights of a layer, and its input and the gradient of its output.
struct Case {
    shape: (usize, usize, usize),
    weights: [Vec<f32>; 3],
    biases: [Vec<f32>; 3],
    x: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new(rows: usize, d: usize, ff: usize) -> Self {
        let scaled = |len, seed, by: usize| noise(len, seed).iter().map(|x| x / (by as f32).sqrt()).collect();
        Case {
            shape: (rows, d, ff),
            weights: [scaled(d * ff, 1, d), scaled(d * ff, 2, d), scaled(d * ff, 3, ff)],
            biases: [noise(ff, 4), noise(ff, 5), noise(d, 6)],
            x: noise(rows * d, 7),
            dy: noise(rows * d, 8),
        }
    }

    fn layer(&self, f: Activation, (gated, biased): (bool, bool), precision: Precision) -> FeedForward<'_> {
        let affine = |i: usize| Affine { weight: &self.weights[i], bias: biased.then_some(&self.biases[i][..]) };
        let (_, d_model, d_ff) = self.shape;
        FeedForward { f, d_model, d_ff, gate: gated.then(|| affine(0)), up: affine(1), down: affine(2), precision }
    }
}

fn run(l: &FeedForward, case: &Case) -> (Vec<f32>, FeedForwardGrads) {
    let mut y = vec![f32::NAN; case.x.len()];
    let kept = feed_forward(l, &case.x, &mut y, true);
    (y, feed_forward_backward(l, &case.x, &kept, &case.dy, ALL))
}

/// All results one after another, named.
fn named<'a>(y: &'a [f32], g: &'a FeedForwardGrads) -> Vec<(String, &'a [f32])> {
    let layer = |name: &str, g: &'a Option<AffineGrads>| {
        let parts = g.iter().flat_map(|g| [("weight", &g.weight[..]), ("bias", &g.bias[..])]);
        parts.map(|(part, x)| (format!("{name}.{part}"), x)).collect::<Vec<_>>()
    };
    let mut all = vec![("y".to_string(), y)];
    all.extend(g.x.iter().map(|x| ("x".to_string(), &x[..])));
    all.extend([layer("gate", &g.gate), layer("up", &g.up), layer("down", &g.down)].concat());
    all
}

/// The largest difference over the largest number.
fn distance(got: &[f32], want: &[f32]) -> f32 {
    let size = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    got.iter().zip(want).fold(0f32, |m, (x, y)| m.max((x - y).abs())) / size.max(f32::MIN_POSITIVE)
}

#[track_caller]
fn check(case: &Case, l: &FeedForward, tolerance: f32) {
    let (y, got) = run(l, case);
    let (want_y, want) = (reference::feed_forward(l, &case.x), reference::feed_forward_backward(l, &case.x, &case.dy));
    let (got, want) = (named(&y, &got), named(&want_y, &want));
    assert_eq!(got.len(), want.len());
    for ((name, got), (_, want)) in got.iter().zip(&want) {
        assert_eq!(got.len(), want.len(), "{name}");
        let off = distance(got, want);
        assert!(off <= tolerance, "{:?} {:?} {}: {name} is off by {off}", case.shape, l.precision, l.gate.is_some());
    }
}

#[test]
fn layers_equal_their_reference_over_a_grid_of_shapes() {
    at_every_level(|| {
        for shape in [(1, 1, 1), (2, 3, 5), (13, 17, 31), (65, 16, 48), (85, 33, 97), (170, 20, 66)] {
            let case = Case::new(shape.0, shape.1, shape.2);
            for form in [(true, false), (true, true), (false, true), (false, false)] {
                check(&case, &case.layer(Activation::Silu, form, Precision::F32), 1e-5);
                check(&case, &case.layer(Activation::Silu, form, Precision::Bf16), 4e-2);
                check(&case, &case.layer(Activation::Silu, form, Precision::F16), 5e-3);
            }
        }
    });
}

#[test]
fn every_activation_is_followed() {
    let case = Case::new(9, 8, 24);
    for f in Activation::ALL {
        check(&case, &case.layer(f, (true, true), Precision::F32), 1e-5);
        check(&case, &case.layer(f, (false, true), Precision::F32), 1e-5);
    }
}

#[test]
fn rows_go_in_chunks_and_blocks_of_any_length() {
    for rows in [83, 84, 85, 600] {
        let case = Case::new(rows, 6, 10);
        check(&case, &case.layer(Activation::GeluTanh, (true, true), Precision::F32), 1e-4);
    }
    // Chunks of 252, 252 and 246 rows.
    let case = Case::new(750, 3, 3000);
    check(&case, &case.layer(Activation::Silu, (true, false), Precision::F32), 1e-4);
}

#[test]
fn gradients_are_slopes() {
    let case = Case::new(3, 4, 6);
    let l = case.layer(Activation::Silu, (true, true), Precision::F32);
    let (_, grads) = run(&l, &case);
    let value = |l: &FeedForward, x: &[f32]| {
        let y = reference::feed_forward(l, x);
        y.iter().zip(&case.dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum::<f64>()
    };
    assert_slope("x", &case.x, &grads.x.expect("x"), |x| value(&l, x));
    let (gate, up) = (grads.gate.expect("gate"), grads.up.expect("up"));
    assert_slope("gate", &case.weights[0], &gate.weight, |w| {
        let gate = Affine { weight: w, bias: Some(&case.biases[0]) };
        value(&FeedForward { gate: Some(gate), ..l }, &case.x)
    });
    assert_slope("up", &case.weights[1], &up.weight, |weight| {
        value(&FeedForward { up: Affine { weight, bias: l.up.bias }, ..l }, &case.x)
    });
    assert_slope("down", &case.biases[2], &grads.down.expect("down").bias, |b| {
        value(&FeedForward { down: Affine { weight: &case.weights[2], bias: Some(b) }, ..l }, &case.x)
    });
}

#[test]
fn only_wanted_gradients_are_computed() {
    let case = Case::new(20, 8, 12);
    let l = case.layer(Activation::Relu, (true, false), Precision::F32);
    let (_, all) = run(&l, &case);
    let kept = feed_forward(&l, &case.x, &mut vec![0.0; case.x.len()], true);
    let only =
        |x, gate, up, down| feed_forward_backward(&l, &case.x, &kept, &case.dy, FeedForwardWants { x, gate, up, down });
    let x = only(true, false, false, false);
    assert!(x.x == all.x && x.gate.is_none() && x.up.is_none() && x.down.is_none());
    let up = only(false, false, true, false);
    assert!(up.x.is_none() && up.gate.is_none() && up.down.is_none());
    assert!(up.up.map(|g| g.weight) == all.up.map(|g| g.weight));
}

#[test]
fn nan_reaches_its_row_and_all_weights() {
    for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
        let mut case = Case::new(100, 8, 20);
        case.x[3] = f32::NAN;
        let l = case.layer(Activation::Silu, (true, false), precision);
        let (y, grads) = run(&l, &case);
        assert!(y[..8].iter().all(|y| y.is_nan()) && y[8..].iter().all(|y| y.is_finite()), "{precision:?}");
        let x = grads.x.expect("x");
        assert!(x[..8].iter().all(|y| y.is_nan()) && x[8..].iter().all(|y| y.is_finite()), "{precision:?}");
        assert!(grads.up.expect("up").weight.iter().all(|w| w.is_nan()), "{precision:?}");
    }
}

#[test]
fn no_rows_give_zero_gradients() {
    let case = Case::new(0, 4, 6);
    let l = case.layer(Activation::Silu, (true, true), Precision::F32);
    let (y, grads) = run(&l, &case);
    let all = named(&y, &grads);
    assert!(all.iter().all(|(_, x)| x.iter().all(|x| *x == 0.0)));
    assert_eq!(grads.down.expect("down").bias.len(), 4);
}

#[test]
fn threads_change_no_bit() {
    let case = Case::new(1200, 3, 2000);
    for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
        let l = case.layer(Activation::Silu, (true, true), precision);
        assert_same_on_any_threads(|| {
            let (y, grads) = run(&l, &case);
            named(&y, &grads).iter().flat_map(|(_, x)| x.to_vec()).collect()
        });
    }
}

#[test]
#[should_panic(expected = "the bias of up")]
fn a_bias_of_another_length_is_refused() {
    let mut case = Case::new(2, 3, 5);
    case.biases[1].pop();
    run(&case.layer(Activation::Silu, (true, true), Precision::F32), &case);
}
