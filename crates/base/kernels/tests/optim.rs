//! Optimizers and sums of squares against plain loops.
mod common;
use common::{assert_close, assert_same_on_any_threads, at_every_level, noise};
use cupola_kernels::*;

const LENGTHS: [usize; 6] = [0, 1, 8, 19, 1000, 40_001];
const MATRICES: [(usize, usize); 10] =
    [(1, 1), (1, 7), (5, 1), (3, 5), (16, 16), (70, 33), (33, 70), (8, 257), (257, 12), (600, 9)];

fn adamw_at(step: u64) -> AdamW {
    AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step, grad_scale: 0.5 }
}

fn lion_at(step: u64) -> Lion {
    Lion { lr: 1e-2, beta1: 0.9, beta2: 0.99, weight_decay: 0.1, step, grad_scale: 0.5 }
}

fn sgd_at(step: u64, momentum: f32, nesterov: bool) -> Sgd {
    Sgd { lr: 1e-2, momentum, nesterov, weight_decay: 0.1, step, grad_scale: 0.5 }
}

fn muon_at(step: u64, (rows, cols): (usize, usize), nesterov: bool) -> Muon {
    let lr_ratio = Muon::original(rows, cols);
    Muon { lr: 0.02, momentum: 0.95, nesterov, lr_ratio, weight_decay: 0.1, step, grad_scale: 0.5 }
}

fn adafactor_at(step: u64) -> Adafactor {
    let (eps, eps_scale) = (f32::EPSILON, 1e-3);
    Adafactor { lr: 0.02, beta2_decay: -0.8, eps, eps_scale, clip: 1.0, weight_decay: 0.1, step, grad_scale: 0.5 }
}

/// A step of a rule: parameters, gradients, two moments (of which it may use one or none), which step it is.
type Step<T> = fn(&mut [f32], &[f32], &mut [T], &mut [T], u64);

/// Every rule of one element alone, and its reference.
fn rules<T: Moment>() -> [(&'static str, Step<T>, Step<T>); 5] {
    [
        (
            "adamw",
            |p, g, m, v, t| adamw(p, g, m, v, &adamw_at(t)),
            |p, g, m, v, t| {
                reference::adamw(p, g, m, v, &adamw_at(t));
            },
        ),
        ("lion", |p, g, m, _, t| lion(p, g, m, &lion_at(t)), |p, g, m, _, t| reference::lion(p, g, m, &lion_at(t))),
        (
            "sgd",
            |p, g, m, _, t| sgd(p, g, m, &sgd_at(t, 0.0, false)),
            |p, g, m, _, t| {
                reference::sgd(p, g, m, &sgd_at(t, 0.0, false));
            },
        ),
        (
            "sgd with momentum",
            |p, g, m, _, t| sgd(p, g, m, &sgd_at(t, 0.9, false)),
            |p, g, m, _, t| {
                reference::sgd(p, g, m, &sgd_at(t, 0.9, false));
            },
        ),
        (
            "sgd with nesterov",
            |p, g, m, _, t| sgd(p, g, m, &sgd_at(t, 0.9, true)),
            |p, g, m, _, t| {
                reference::sgd(p, g, m, &sgd_at(t, 0.9, true));
            },
        ),
    ]
}

fn floats<T: Moment>(x: &[T]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// Three steps from noise; gives parameters and moments.
fn three_steps<T: Moment>(len: usize, step: Step<T>) -> [Vec<f32>; 3] {
    let zero = T::from_f32(0.0, 0);
    let (mut p, mut m, mut v) = (noise(len, 1), vec![zero; len], vec![zero; len]);
    for t in 1..=3 {
        step(&mut p, &noise(len, 10 + t), &mut m, &mut v, t);
    }
    [p, floats(&m), floats(&v)]
}

#[test]
fn rules_equal_their_definitions_over_steps() {
    at_every_level(|| {
        for len in LENGTHS {
            for (name, fast, plain) in rules::<f32>() {
                let (got, want) = (three_steps(len, fast), three_steps(len, plain));
                for (got, want) in got.iter().zip(&want) {
                    assert_close(&format!("{name} over {len}"), got, want, 2e-6);
                }
            }
        }
    });
}

#[test]
fn rules_equal_their_definitions_with_moments_of_16_bits() {
    at_every_level(|| {
        for len in LENGTHS {
            for (name, fast, plain) in rules::<u16>() {
                let (got, want) = (three_steps(len, fast), three_steps(len, plain));
                // The two differ in the last bit of a float, which may round the other way: one bit of the 8.
                for (got, want) in got[1..].iter().zip(&want[1..]) {
                    assert_close(&format!("{name}'s moments over {len}"), got, want, 1.0 / 128.0);
                }
                assert_close(&format!("{name} over {len}"), &got[0], &want[0], 3e-4);
                let equal = got[1].iter().zip(&want[1]).filter(|(g, w)| g == w).count();
                assert!(equal * 1000 >= len * 999, "{name}: only {equal} of {len} numbers are rounded alike");
            }
        }
    });
}

#[test]
fn sixteen_bits_round_to_a_neighbour_and_keep_what_they_can_hold() {
    for (i, x) in noise(1000, 1).into_iter().enumerate() {
        let x = x * 10f32.powi(i as i32 % 60 - 30);
        let (low, high) = (x.to_bits() >> 16 << 16, (x.to_bits() >> 16 << 16) + 0x10000);
        for dither in [0, 1, 0x7FFF, 0xFFFF] {
            let got = u16::from_f32(x, dither).to_f32();
            assert!([low, high].contains(&got.to_bits()), "{x} became {got}");
            assert_eq!(u16::from_f32(got, dither).to_f32(), got);
        }
        assert_eq!(u16::from_f32(x, 0).to_f32().to_bits(), low);
    }
    let nan = f32::from_bits(0x7FFF_FFFF);
    assert!(nan.is_nan() && u16::from_f32(nan, 0xFFFF).to_f32().is_nan());
    assert!(u16::from_f32(f32::from_bits(0x7F80_0001), 0).to_f32().is_nan());
    assert_eq!(u16::from_f32(f32::NEG_INFINITY, 0xFFFF).to_f32(), f32::NEG_INFINITY);
}

/// With gradients of zero the second moment falls by 0.999 a step. Rounded to nearest it would stand still.
#[test]
fn a_second_moment_of_16_bits_falls_as_it_should() {
    const LEN: usize = 300;
    const STEPS: u64 = 2000;
    let h = AdamW { beta2: 0.999, ..adamw_at(1) };
    let start = noise(LEN, 3);
    let (mut p, mut m) = (vec![0.0; LEN], vec![0u16; LEN]);
    let mut v: Vec<u16> = start.iter().map(|x| u16::from_f32(x * x + 1e-3, 0x8000)).collect();
    let nearest = |x: f32| u16::from_f32(x, 0x7FFF + (x.to_bits() >> 16 & 1));
    let stuck = v.iter().filter(|x| nearest(x.to_f32() * 0.999) == **x).count();
    assert_eq!(stuck, LEN, "to nearest, no number would fall");
    let before = floats(&v);
    for step in 1..=STEPS {
        adamw(&mut p, &[0.0; LEN], &mut m, &mut v, &AdamW { step, ..h });
    }
    let fall = 0.999f32.powi(STEPS as i32);
    for (now, before) in floats(&v).iter().zip(&before) {
        let share = now / before / fall;
        assert!((share - 1.0).abs() < 0.1, "{before} fell to {now}, {share} of what it should be");
    }
    let mean = |x: &[f32]| x.iter().sum::<f32>() / LEN as f32;
    let share = mean(&floats(&v)) / mean(&before) / fall;
    assert!((share - 1.0).abs() < 0.01, "together they fell to {share} of what they should be");
}

/// What a step does to the parameters.
type Update<'a> = &'a dyn Fn(&mut [f32], &[f32], u64);

#[test]
fn training_with_16_bits_follows_training_with_32() {
    const LEN: usize = 64;
    let target = noise(LEN, 5);
    let run = |rule: Update| {
        let mut p = vec![0.0; LEN];
        for step in 1..=400 {
            let error = noise(LEN, 100 + step);
            let g: Vec<f32> = (0..LEN).map(|i| p[i] - target[i] + 0.3 * error[i]).collect();
            rule(&mut p, &g, step);
        }
        p
    };
    let wide = std::cell::RefCell::new((vec![0.0f32; LEN], vec![0.0f32; LEN]));
    let narrow = std::cell::RefCell::new((vec![0u16; LEN], vec![0u16; LEN]));
    let settings = |step| AdamW { beta2: 0.999, weight_decay: 0.0, grad_scale: 1.0, ..adamw_at(step) };
    let exact = run(&|p, g, step| {
        let (m, v) = &mut *wide.borrow_mut();
        adamw(p, g, m, v, &settings(step));
    });
    let halved = run(&|p, g, step| {
        let (m, v) = &mut *narrow.borrow_mut();
        adamw(p, g, m, v, &settings(step));
    });
    assert_close("parameters", &halved, &exact, 0.01);
    let distance = |p: &[f32]| p.iter().zip(&target).map(|(p, t)| (p - t).powi(2)).sum::<f32>();
    assert!(distance(&halved) < 0.02 * distance(&[0.0; LEN]), "it did not get there");
}

#[test]
fn lion_moves_by_the_sign_and_not_at_all_where_there_is_none() {
    at_every_level(|| {
        let g = [3.0, -2.0, 0.0, 1e-45, -1e-45, -1e38, f32::NAN, -0.0, 1e-30];
        let (mut p, mut m) = ([1.0; 9], [0.0f32; 9]);
        let h = Lion { lr: 0.5, beta1: 0.0, beta2: 0.5, weight_decay: 0.0, step: 1, grad_scale: 1.0 };
        lion(&mut p, &g, &mut m, &h);
        assert_eq!((&p[..6], &p[7..]), (&[0.5, 1.5, 1.0, 0.5, 1.5, 1.5][..], &[1.0, 0.5][..]));
        assert!(p[6].is_nan());
    });
}

#[test]
fn gradients_that_are_not_finite_reach_the_parameters() {
    at_every_level(|| {
        for bad in [f32::NAN, f32::INFINITY] {
            for (name, step, _) in rules::<f32>() {
                let mut g = noise(35, 1);
                g[3] = bad;
                let (mut p, mut m, mut v) = (noise(35, 2), vec![0.0; 35], vec![0.0; 35]);
                step(&mut p, &g, &mut m, &mut v, 1);
                assert!(p[2].is_finite(), "{name}");
                assert!(!p[3].is_finite(), "{name}: {bad} gave {}", p[3]);
            }
            let mut g = noise(35, 1);
            g[3] = bad;
            let (mut p, mut m) = (noise(35, 2), vec![0.0f32; 35]);
            muon(&mut p, &g, &mut m, (5, 7), &muon_at(1, (5, 7), true));
            assert!(p.iter().any(|p| p.is_nan()), "muon: {bad} vanished");
            let (mut p, mut row, mut col) = (noise(35, 2), vec![0.0; 5], vec![0.0; 7]);
            adafactor_matrix(&mut p, &g, &mut row, &mut col, &adafactor_at(1));
            assert!(p.iter().any(|p| p.is_nan()), "adafactor: {bad} vanished");
            let (mut p, mut v) = (noise(35, 2), vec![0.0; 35]);
            adafactor_vector(&mut p, &g, &mut v, &adafactor_at(1));
            assert!(p.iter().any(|p| p.is_nan()), "adafactor of a vector: {bad} vanished");
        }
    });
}

#[test]
fn adafactor_equals_its_definition_over_steps() {
    at_every_level(|| {
        for (rows, cols) in MATRICES {
            let len = rows * cols;
            let mut got = [noise(len, 1), vec![0.0; rows], vec![0.0; cols]];
            let mut want = got.clone();
            let (mut vector, mut plain) = ([noise(len, 1), vec![0.0; len]], [noise(len, 1), vec![0.0; len]]);
            for step in 1..=3 {
                let (mut g, h) = (noise(len, 10 + step), adafactor_at(step));
                g[..cols].fill(0.0); // a row without gradient, as of a token that did not occur
                let [p, row, col] = &mut got;
                adafactor_matrix(p, &g, row, col, &h);
                let [p, row, col] = &mut want;
                reference::adafactor_matrix(p, &g, row, col, &h);
                let [p, v] = &mut vector;
                adafactor_vector(p, &g, v, &h);
                let [p, v] = &mut plain;
                reference::adafactor_vector(p, &g, v, &h);
            }
            got.iter().zip(&want).for_each(|(g, w)| assert_close(&format!("[{rows}, {cols}]"), g, w, 3e-6));
            vector.iter().zip(&plain).for_each(|(g, w)| assert_close(&format!("[{len}]"), g, w, 3e-6));
        }
        adafactor_matrix(&mut [], &[], &mut [], &mut [0.0; 3], &adafactor_at(1));
        adafactor_vector(&mut [], &[], &mut [], &adafactor_at(1));
    });
}

#[test]
fn adafactor_scales_down_a_step_that_is_too_large() {
    let (mut p, mut row, mut col) = (vec![1.0; 12], vec![0.0; 3], vec![0.0; 4]);
    // At first the ratio is about 1; then a gradient that is a hundred times as large meets an old moment.
    for (step, size) in [(1, 1.0), (1000, 100.0)] {
        let before = p.clone();
        let g: Vec<f32> = noise(12, step).iter().map(|x| x * size).collect();
        let h = Adafactor { weight_decay: 0.0, ..adafactor_at(step) };
        adafactor_matrix(&mut p, &g, &mut row, &mut col, &h);
        let moved = p.iter().zip(&before).map(|(p, b)| (p - b).powi(2)).sum::<f32>() / 12.0;
        assert!(moved.sqrt() <= 1.01 * 0.02 * 1.1, "step {step} moves by {}", moved.sqrt());
    }
}

#[test]
fn muon_equals_its_definition_over_steps() {
    at_every_level(|| {
        for shape in MATRICES {
            for nesterov in [true, false] {
                let len = shape.0 * shape.1;
                let mut got = [noise(len, 1), vec![0.0; len]];
                let mut want = got.clone();
                for step in 1..=3 {
                    let (g, h) = (noise(len, 10 + step), muon_at(step, shape, nesterov));
                    let [p, m] = &mut got;
                    muon(p, &g, m, shape, &h);
                    let [p, m] = &mut want;
                    reference::muon(p, &g, m, shape, &h);
                }
                got.iter().zip(&want).for_each(|(g, w)| assert_close(&format!("{shape:?}"), g, w, 2e-6));
            }
        }
    });
}

#[test]
fn muon_makes_the_singular_values_alike() {
    let (rows, cols) = (24, 40);
    let g: Vec<f32> = noise(rows * cols, 1).iter().enumerate().map(|(i, x)| x * (1 + i / cols) as f32).collect();
    let (mut p, mut m) = (vec![0.0; g.len()], vec![0.0f32; g.len()]);
    let h = Muon { lr: 1.0, weight_decay: 0.0, ..muon_at(1, (rows, cols), true) };
    muon(&mut p, &g, &mut m, (rows, cols), &h);
    for i in 0..rows {
        let row = &p[i * cols..][..cols];
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((0.6..1.25).contains(&norm), "row {i} has norm {norm}; those of the gradient differ by 24");
        assert!(row.iter().zip(&g[i * cols..]).map(|(p, g)| p * g).sum::<f32>() < 0.0, "row {i} goes uphill");
    }
    assert_eq!(Muon::original(8, 2), 2.0);
    assert_eq!(Muon::original(2, 8), 1.0);
    assert!((Muon::match_rms_adamw(2, 100) - 2.0).abs() < 1e-6);
}

#[test]
fn sums_of_squares_equal_their_definitions() {
    at_every_level(|| {
        for len in [0, 1, 15, 17, 200_003] {
            let x = noise(len, 1);
            let (got, want) = (sum_of_squares(&x), reference::sum_of_squares(&x));
            assert!((got - want).abs() <= 1e-12 * want, "{got} is not {want}");
            let (mut sum, mut plain) = (noise(len, 2), noise(len, 2));
            let (got, want) = (add_with_squares(&mut sum, &x), reference::add_with_squares(&mut plain, &x));
            assert!((got - want).abs() <= 1e-12 * want, "{got} is not {want}");
            assert_eq!(sum, plain);
            assert_eq!(got.to_bits(), sum_of_squares(&sum).to_bits(), "in one pass or in two, the norm is the same");
        }
    });
}

#[test]
#[should_panic(expected = "lion: 3 parameters, but 2 gradients and moments of [3]")]
fn lengths_that_differ_are_refused() {
    lion(&mut [0.0; 3], &[0.0; 2], &mut [0.0f32; 3], &lion_at(1));
}

#[test]
fn threads_change_no_bit() {
    let (rows, cols) = (701, 96);
    let len = rows * cols;
    assert_same_on_any_threads(|| {
        let mut out = Vec::new();
        for (_, step, _) in rules::<f32>() {
            out.extend(three_steps(len, step).concat());
        }
        for (_, step, _) in rules::<u16>() {
            out.extend(three_steps(len, step).concat());
        }
        let (mut p, mut m) = (noise(len, 1), vec![0u16; len]);
        let (mut q, mut row, mut col) = (noise(len, 1), vec![0.0; rows], vec![0.0; cols]);
        for step in 1..=2 {
            let g = noise(len, 10 + step);
            muon(&mut p, &g, &mut m, (rows, cols), &muon_at(step, (rows, cols), true));
            adafactor_matrix(&mut q, &g, &mut row, &mut col, &adafactor_at(step));
        }
        let sum = add_with_squares(&mut p, &q);
        out.extend([p, q, floats(&m), row, col].concat());
        out.extend([sum as f32, (sum - f64::from(sum as f32)) as f32]);
        out
    });
}
