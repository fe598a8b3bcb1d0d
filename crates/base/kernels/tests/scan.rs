//! Selective scans, causal convolutions, RWKV's and Griffin's recurrences against plain loops.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

/// `(B, T, D, N)`: single steps, several chunks, several blocks of channels, odd rests.
const SIZES: [(usize, usize, usize, usize); 6] =
    [(1, 1, 1, 1), (2, 5, 3, 2), (1, 70, 17, 4), (3, 33, 16, 16), (2, 4, 130, 3), (1, 100, 67, 5)];

fn dot(x: &[f32], g: &[f32]) -> f64 {
    x.iter().zip(g).map(|(x, g)| f64::from(*x) * f64::from(*g)).sum()
}

/// Which variant of the selective scan.
#[derive(Clone, Copy, Debug)]
struct Variant {
    softplus: bool,
    one_decay: bool,
    gated: bool,
}

const VARIANTS: [Variant; 3] = [
    Variant { softplus: true, one_decay: false, gated: true },
    Variant { softplus: false, one_decay: false, gated: false },
    Variant { softplus: true, one_decay: true, gated: false },
];

/// x, dt, a, b, c, skip, z, and the state to start from.
fn selective_numbers((batch, seq, d, n): (usize, usize, usize, usize), v: Variant) -> [Vec<f32>; 8] {
    let all = batch * seq * d;
    let dt = noise(all, 2).into_iter().map(|x| if v.softplus { 2.0 * x } else { 0.5 + 0.4 * x }).collect();
    let a = noise(if v.one_decay { d } else { d * n }, 3).into_iter().map(|x| x - 1.1).collect();
    let (skip, z) = if v.gated { (noise(d, 6), noise(all, 7)) } else { (vec![], vec![]) };
    let (b, c) = (noise(batch * seq * n, 4), noise(batch * seq * n, 5));
    [noise(all, 1), dt, a, b, c, skip, z, noise(batch * n * d, 8)]
}

fn selective(sizes: (usize, usize, usize, usize), v: Variant, n: &[Vec<f32>; 8]) -> SelectiveScan<'_> {
    let [x, dt, a, b, c, skip, z, _] = n;
    SelectiveScan { sizes, x, dt, softplus: v.softplus, a, b, c, skip, z }
}

/// All gradients, in the order of the numbers.
fn selective_grads(scan: &SelectiveScan, start: &[f32], dy: &[f32], d_last: &[f32]) -> [Vec<f32>; 8] {
    let (mut state, mut y, mut starts) = (start.to_vec(), vec![0.0; dy.len()], vec![0.0; scan.starts_len()]);
    selective_scan_forward(scan, &mut state, &mut y, &mut starts);
    let like = |x: &[f32]| vec![9.0; x.len()];
    let mut g = [scan.x, scan.dt, scan.a, scan.b, scan.c, scan.skip, scan.z, d_last].map(like);
    let [x, dt, a, b, c, skip, z, d_state] = &mut g;
    d_state.copy_from_slice(d_last);
    selective_scan_backward(scan, &starts, dy, d_state, &mut SelectiveGrads { x, dt, a, b, c, skip, z });
    g
}

#[test]
fn a_selective_scan_equals_its_definition() {
    at_every_level(|| {
        for (sizes, v) in SIZES.into_iter().flat_map(|s| VARIANTS.map(|v| (s, v))) {
            let n = selective_numbers(sizes, v);
            let scan = selective(sizes, v, &n);
            let (mut state, mut want_state) = (n[7].clone(), n[7].clone());
            let (mut y, mut want) = (vec![0.0; n[0].len()], vec![0.0; n[0].len()]);
            selective_scan_forward(&scan, &mut state, &mut y, &mut []);
            reference::selective_scan(&scan, &mut want_state, &mut want);
            assert_close(&format!("{sizes:?} {v:?}"), &y, &want, 1e-5);
            assert_close(&format!("{sizes:?} {v:?}, state"), &state, &want_state, 1e-5);
        }
    });
}

#[test]
fn gradients_of_a_selective_scan_are_slopes() {
    const NAMES: [&str; 8] = ["x", "dt", "a", "b", "c", "skip", "z", "start"];
    at_every_level(|| {
        for (sizes, v) in
            [(1, 3, 2, 2), (2, 2, 67, 1), (1, 40, 2, 3)].into_iter().flat_map(|s| VARIANTS.map(|v| (s, v)))
        {
            let n = selective_numbers(sizes, v);
            let (dy, d_last) = (noise(n[0].len(), 11), noise(n[7].len(), 12));
            let grads = selective_grads(&selective(sizes, v, &n), &n[7], &dy, &d_last);
            let loss = |n: &[Vec<f32>; 8]| {
                let (mut state, mut y) = (n[7].clone(), vec![0.0; dy.len()]);
                reference::selective_scan(&selective(sizes, v, n), &mut state, &mut y);
                dot(&y, &dy) + dot(&state, &d_last)
            };
            for i in 0..8 {
                assert_slope(&format!("{sizes:?} {v:?} {}", NAMES[i]), &n[i], &grads[i], |x| {
                    let mut moved = n.clone();
                    moved[i] = x.to_vec();
                    loss(&moved)
                });
            }
        }
    });
}

#[test]
fn steps_of_a_selective_scan_give_the_whole() {
    let (sizes, v) = ((1, 37, 19, 4), VARIANTS[0]);
    let n = selective_numbers(sizes, v);
    let scan = selective(sizes, v, &n);
    let (mut whole_state, mut whole) = (n[7].clone(), vec![0.0; 37 * 19]);
    selective_scan_forward(&scan, &mut whole_state, &mut whole, &mut []);
    let (mut state, mut y) = (n[7].clone(), vec![0.0; 37 * 19]);
    for t in 0..37 {
        let of = |width: usize| t * width..(t + 1) * width;
        let (row, few) = (of(19), of(4));
        let step = SelectiveScan {
            sizes: (1, 1, 19, 4),
            x: &scan.x[row.clone()],
            dt: &scan.dt[row.clone()],
            b: &scan.b[few.clone()],
            c: &scan.c[few],
            z: &scan.z[row.clone()],
            ..scan
        };
        selective_scan_forward(&step, &mut state, &mut y[row], &mut []);
    }
    assert_eq!((state, y), (whole_state, whole));
}

#[test]
fn a_causal_convolution_equals_its_definition_and_its_steps() {
    at_every_level(|| {
        for (batch, seq, d, k) in [(1, 1, 1, 1), (2, 3, 5, 4), (1, 2, 17, 4), (3, 40, 70, 4), (2, 9, 64, 3)] {
            let (x, w, bias) = (noise(batch * seq * d, 1), noise(d * k, 2), noise(d, 3));
            let conv = CausalConv { sizes: (batch, seq, d, k), x: &x, w: &w, bias: &bias };
            let (mut y, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let mut last = vec![0.0; batch * (k - 1) * d];
            causal_conv_forward(&conv, &mut last, &mut y);
            reference::causal_conv(&conv, &mut want);
            assert_close("whole", &y, &want, 2e-6);
            let mut before = vec![0.0; last.len()];
            for t in 0..seq {
                let row = |b: usize| (b * seq + t) * d..(b * seq + t + 1) * d;
                let now: Vec<f32> = (0..batch).flat_map(|b| x[row(b)].to_vec()).collect();
                let step = CausalConv { sizes: (batch, 1, d, k), x: &now, ..conv };
                let mut out = vec![0.0; now.len()];
                causal_conv_forward(&step, &mut before, &mut out);
                let of_whole: Vec<f32> = (0..batch).flat_map(|b| y[row(b)].to_vec()).collect();
                assert_eq!(out, of_whole, "step {t}");
            }
            assert_eq!(before, last);
        }
    });
}

#[test]
fn gradients_of_a_causal_convolution_are_slopes() {
    at_every_level(|| {
        for (batch, seq, d, k) in [(2, 3, 2, 4), (1, 7, 3, 4), (2, 2, 66, 2)] {
            let (x, w, bias, dy) = (noise(batch * seq * d, 1), noise(d * k, 2), noise(d, 3), noise(batch * seq * d, 4));
            let sizes = (batch, seq, d, k);
            let loss = |x: &[f32], w: &[f32], bias: &[f32]| {
                let mut y = vec![0.0; dy.len()];
                reference::causal_conv(&CausalConv { sizes, x, w, bias }, &mut y);
                dot(&y, &dy)
            };
            let (mut dx, mut dw, mut db) = (vec![9.0; x.len()], vec![9.0; w.len()], vec![9.0; d]);
            let conv = CausalConv { sizes, x: &x, w: &w, bias: &bias };
            causal_conv_backward(&conv, &dy, &mut ConvGrads { x: &mut dx, w: &mut dw, bias: &mut db });
            assert_slope("dx", &x, &dx, |x| loss(x, &w, &bias));
            assert_slope("dw", &w, &dw, |w| loss(&x, w, &bias));
            assert_slope("dbias", &bias, &db, |b| loss(&x, &w, b));
        }
    });
}

/// w, u, k, v.
fn wkv_numbers((batch, seq, d): (usize, usize, usize), size: f32) -> [Vec<f32>; 4] {
    let keys = noise(batch * seq * d, 3).into_iter().map(|k| k * size).collect();
    [noise(d, 1).into_iter().map(f32::abs).collect(), noise(d, 2), keys, noise(batch * seq * d, 4)]
}

fn wkv(sizes: (usize, usize, usize), n: &[Vec<f32>; 4]) -> Wkv<'_> {
    Wkv { sizes, w: &n[0], u: &n[1], k: &n[2], v: &n[3] }
}

#[test]
fn wkv_equals_its_definition() {
    at_every_level(|| {
        for (batch, seq, d, _) in SIZES {
            let n = wkv_numbers((batch, seq, d), 4.0);
            let problem = wkv((batch, seq, d), &n);
            let (mut y, mut want) = (vec![0.0; n[2].len()], vec![0.0; n[2].len()]);
            wkv_forward(&problem, &mut problem.empty_state(), &mut y, &mut []);
            reference::wkv(&problem, &mut want);
            assert_close(&format!("{batch}x{seq}x{d}"), &y, &want, 1e-5);
        }
    });
}

fn wkv_grads(problem: &Wkv, dy: &[f32]) -> [Vec<f32>; 4] {
    let (mut y, mut starts) = (vec![0.0; dy.len()], vec![0.0; problem.starts_len()]);
    wkv_forward(problem, &mut problem.empty_state(), &mut y, &mut starts);
    let mut g = [problem.w, problem.u, problem.k, problem.v].map(|x| vec![9.0; x.len()]);
    let [w, u, k, v] = &mut g;
    wkv_backward(problem, &starts, dy, &mut WkvGrads { w, u, k, v });
    g
}

#[test]
fn gradients_of_wkv_are_slopes() {
    at_every_level(|| {
        for sizes in [(1, 1, 1), (2, 5, 3), (1, 70, 2), (1, 2, 67)] {
            let n = wkv_numbers(sizes, 1.0);
            let dy = noise(n[2].len(), 5);
            let grads = wkv_grads(&wkv(sizes, &n), &dy);
            for (i, name) in ["w", "u", "k", "v"].into_iter().enumerate() {
                assert_slope(&format!("{sizes:?} {name}"), &n[i], &grads[i], |x| {
                    let mut moved = n.clone();
                    moved[i] = x.to_vec();
                    let mut y = vec![0.0; dy.len()];
                    reference::wkv(&wkv(sizes, &moved), &mut y);
                    dot(&y, &dy)
                });
            }
        }
    });
}

#[test]
fn keys_far_beyond_the_range_of_exp_change_nothing_when_shifted() {
    at_every_level(|| {
        let sizes = (1, 40, 9);
        let n = wkv_numbers(sizes, 3.0);
        let dy = noise(n[2].len(), 5);
        let run = |shift: f32| {
            let mut n = n.clone();
            n[2].iter_mut().for_each(|k| *k += shift);
            let problem = wkv(sizes, &n);
            let mut y = vec![0.0; dy.len()];
            wkv_forward(&problem, &mut problem.empty_state(), &mut y, &mut []);
            (y, wkv_grads(&problem, &dy))
        };
        let ((y, grads), (far_y, far_grads)) = (run(0.0), run(512.0));
        assert_close("y", &far_y, &y, 2e-4);
        far_grads.iter().zip(&grads).for_each(|(far, near)| assert_close("gradients", far, near, 5e-4));
    });
}

/// x, r, i, λ, h0.
fn lru_numbers((batch, seq, d): (usize, usize, usize)) -> [Vec<f32>; 5] {
    let all = batch * seq * d;
    let lambda = noise(d, 4).into_iter().map(|x| 2.0 * x - 2.0).collect();
    [noise(all, 1), noise(all, 2), noise(all, 3), lambda, noise(batch * d, 5)]
}

fn lru(sizes: (usize, usize, usize), n: &[Vec<f32>; 5]) -> RgLru<'_> {
    RgLru { sizes, x: &n[0], r: &n[1], i: &n[2], lambda: &n[3], h0: &n[4] }
}

#[test]
fn the_gated_linear_recurrence_equals_its_definition() {
    at_every_level(|| {
        for (batch, seq, d, _) in SIZES {
            let mut n = lru_numbers((batch, seq, d));
            // Decays as close to 1 as these are where 1 - a² loses its digits when computed as it stands.
            n[3][0] = -12.0;
            let problem = lru((batch, seq, d), &n);
            let (mut h, mut want) = (vec![0.0; n[0].len()], vec![0.0; n[0].len()]);
            rg_lru_forward(&problem, &mut h);
            reference::rg_lru(&problem, &mut want);
            assert_close(&format!("{batch}x{seq}x{d}"), &h, &want, 5e-6);
        }
    });
}

fn lru_grads(problem: &RgLru, dh: &[f32]) -> [Vec<f32>; 5] {
    let mut h = vec![0.0; dh.len()];
    rg_lru_forward(problem, &mut h);
    let mut g = [problem.x, problem.r, problem.i, problem.lambda, problem.h0].map(|x| vec![9.0; x.len()]);
    let [x, r, i, lambda, h0] = &mut g;
    rg_lru_backward(problem, &h, dh, &mut RgLruGrads { x, r, i, lambda, h0 });
    g
}

#[test]
fn gradients_of_the_gated_linear_recurrence_are_slopes() {
    at_every_level(|| {
        for sizes in [(1, 1, 1), (2, 5, 3), (1, 40, 2), (2, 2, 67)] {
            let n = lru_numbers(sizes);
            let dh = noise(n[0].len(), 6);
            let grads = lru_grads(&lru(sizes, &n), &dh);
            for (i, name) in ["x", "r", "i", "lambda", "h0"].into_iter().enumerate() {
                assert_slope(&format!("{sizes:?} {name}"), &n[i], &grads[i], |x| {
                    let mut moved = n.clone();
                    moved[i] = x.to_vec();
                    let mut h = vec![0.0; dh.len()];
                    reference::rg_lru(&lru(sizes, &moved), &mut h);
                    dot(&h, &dh)
                });
            }
        }
    });
}

#[test]
fn nan_reaches_what_follows_in_its_channel_and_no_other() {
    at_every_level(|| {
        let (seq, d) = (4, 19);
        let spread = |y: &[f32]| {
            for (at, y) in y.iter().enumerate() {
                assert_eq!(y.is_nan(), at % d == 18 && at / d >= 1, "element {at}: {y}");
            }
        };
        let poisoned = d + 18;
        let mut n = selective_numbers((1, seq, d, 3), VARIANTS[0]);
        n[0][poisoned] = f32::NAN;
        let (mut state, mut y) = (n[7].clone(), vec![0.0; seq * d]);
        selective_scan_forward(&selective((1, seq, d, 3), VARIANTS[0], &n), &mut state, &mut y, &mut []);
        spread(&y);
        let mut n = wkv_numbers((1, seq, d), 1.0);
        n[2][poisoned] = f32::NAN;
        let problem = wkv((1, seq, d), &n);
        wkv_forward(&problem, &mut problem.empty_state(), &mut y, &mut []);
        spread(&y);
        let mut n = lru_numbers((1, seq, d));
        n[1][poisoned] = f32::NAN;
        rg_lru_forward(&lru((1, seq, d), &n), &mut y);
        spread(&y);
        let (mut x, w) = (noise(seq * d, 1), noise(d * 4, 2));
        x[poisoned] = f32::NAN;
        let conv = CausalConv { sizes: (1, seq, d, 4), x: &x, w: &w, bias: &[] };
        causal_conv_forward(&conv, &mut vec![0.0; 3 * d], &mut y);
        spread(&y);
    });
}

#[test]
fn threads_change_no_bit() {
    assert_same_on_any_threads(|| {
        let (batch, seq, d, states) = (3, 40, 200, 5);
        let n = selective_numbers((batch, seq, d, states), VARIANTS[0]);
        let dy = noise(batch * seq * d, 20);
        let mut all = selective_grads(&selective((batch, seq, d, states), VARIANTS[0], &n), &n[7], &dy, &n[7]).concat();
        all.extend(wkv_grads(&wkv((batch, seq, d), &wkv_numbers((batch, seq, d), 1.0)), &dy).concat());
        all.extend(lru_grads(&lru((batch, seq, d), &lru_numbers((batch, seq, d))), &dy).concat());
        let (w, bias) = (noise(d * 4, 2), noise(d, 3));
        let conv = CausalConv { sizes: (batch, seq, d, 4), x: &n[0], w: &w, bias: &bias };
        let (mut dx, mut dw, mut db) = (vec![0.0; dy.len()], vec![0.0; d * 4], vec![0.0; d]);
        causal_conv_backward(&conv, &dy, &mut ConvGrads { x: &mut dx, w: &mut dw, bias: &mut db });
        [all, dx, dw, db].concat()
    });
}
