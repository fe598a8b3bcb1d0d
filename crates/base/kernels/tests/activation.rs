//! Activations, plain and gated, against plain loops and differences.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

/// y, dx, gated y, dgate and dup.
fn run(f: Activation, x: &[f32], up: &[f32], dy: &[f32]) -> [Vec<f32>; 5] {
    let [mut y, mut dx, mut gated, mut dgate, mut dup] = [(); 5].map(|()| vec![9.0; x.len()]);
    activation_forward(f, x, &mut y);
    activation_backward(f, x, dy, &mut dx);
    gated_forward(f, x, up, &mut gated);
    gated_backward(f, x, up, dy, &mut dgate, &mut dup);
    [y, dx, gated, dgate, dup]
}

fn plain(f: Activation, x: &[f32], up: &[f32], dy: &[f32]) -> [Vec<f32>; 5] {
    let [mut y, mut dx, mut gated, mut dgate, mut dup] = [(); 5].map(|()| vec![9.0; x.len()]);
    reference::activation_forward(f, x, &mut y);
    reference::activation_backward(f, x, dy, &mut dx);
    reference::gated_forward(f, x, up, &mut gated);
    reference::gated_backward(f, x, up, dy, &mut dgate, &mut dup);
    [y, dx, gated, dgate, dup]
}

#[test]
fn activations_equal_their_definition() {
    at_every_level(|| {
        for (f, len) in Activation::ALL.into_iter().flat_map(|f| [0, 1, 7, 8, 17, 1000, 40_001].map(|len| (f, len))) {
            let x: Vec<f32> = noise(len, 1).iter().map(|x| x * 12.0).collect();
            let (up, dy) = (noise(len, 2), noise(len, 3));
            let names = ["y", "dx", "gated", "dgate", "dup"];
            for ((got, want), name) in run(f, &x, &up, &dy).iter().zip(&plain(f, &x, &up, &dy)).zip(names) {
                assert_close(&format!("{f:?} {name}"), got, want, 2e-6);
            }
        }
    });
}

#[test]
fn the_normal_distribution_is_exact_to_a_millionth_of_one() {
    at_every_level(|| {
        let x: Vec<f32> = (-8000..=8000).map(|i| i as f32 * 1e-3).filter(|x| *x != 0.0).collect();
        let ones = vec![1.0; x.len()];
        let [got, want] = [run, plain].map(|f| f(Activation::GeluErf, &x, &ones, &ones)[0].clone());
        for (i, x) in x.iter().enumerate() {
            // erf is twice Φ, less one.
            let off = 2.0 * f64::from(got[i] - want[i]).abs() / f64::from(*x).abs();
            assert!(off < 1e-6, "erf at {x} is off by {off}");
        }
    });
}

#[test]
fn gradients_are_slopes() {
    for f in Activation::ALL {
        // Away from the kink at 0.
        let x: Vec<f32> = (-20..20).map(|i| (i as f32 + 0.5) * 0.2).collect();
        let (up, dy) = (noise(x.len(), 2), noise(x.len(), 3));
        let [_, dx, _, dgate, dup] = run(f, &x, &up, &dy);
        let loss = |out: Vec<f32>| out.iter().zip(&dy).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum::<f64>();
        assert_slope("dx", &x, &dx, |x| loss(plain(f, x, &up, &dy)[0].clone()));
        assert_slope("dgate", &x, &dgate, |x| loss(plain(f, x, &up, &dy)[2].clone()));
        assert_slope("dup", &up, &dup, |up| loss(plain(f, &x, up, &dy)[2].clone()));
    }
}

#[test]
fn extreme_inputs_saturate_and_nan_survives() {
    at_every_level(|| {
        let x = [-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, f32::NAN, 1e15, f32::NAN];
        for f in Activation::ALL {
            let [y, dx, gated, ..] = run(f, &x, &[1.0; 9], &[1.0; 9]);
            assert!(gated.iter().zip(&y).all(|(g, y)| g == y || g.is_nan() && y.is_nan()), "{f:?}: {gated:?}");
            let power = if f == Activation::ReluSquared { 2 } else { 1 };
            let slope = |x: f32| if power == 2 { 2.0 * x } else { 1.0 };
            assert!(y[1].abs() < 1e-6 && y[2].abs() < 1e-6 && y[3] == 0.0, "{f:?}: {y:?}");
            assert!(y[4] == 90.0f32.powi(power) && y[5] == 200.0f32.powi(power), "{f:?}: {y:?}");
            assert!(dx[1].abs() < 1e-6 && dx[5] == slope(200.0) && dx[7] == slope(1e15), "{f:?}: {dx:?}");
            assert!(y[6].is_nan() && y[8].is_nan(), "{f:?}: {y:?}");
        }
    });
}

#[test]
fn threads_change_no_bit() {
    assert_same_on_any_threads(|| {
        let (x, up, dy) = (noise(70_001, 1), noise(70_001, 2), noise(70_001, 3));
        Activation::ALL.map(|f| run(f, &x, &up, &dy).concat()).concat()
    });
}
