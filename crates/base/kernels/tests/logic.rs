//! The logic program against its clauses.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

/// `(B, T, S, R)`.
const SIZES: [(usize, usize, usize, usize); 7] =
    [(1, 1, 1, 1), (2, 5, 3, 2), (1, 9, 16, 3), (3, 12, 5, 4), (2, 7, 17, 1), (1, 20, 7, 5), (2, 6, 2, 8)];

/// Rows of numbers that are shares of 1, with something left over.
fn shares(rows: usize, width: usize, seed: u64) -> Vec<f32> {
    let drawn: Vec<f32> = noise(rows * width, seed).into_iter().map(|x| (2.0 * x).exp()).collect();
    drawn.chunks(width).flat_map(|row| row.iter().map(|x| x / (row.iter().sum::<f32>() + 0.1))).collect()
}

/// back, names, relations, tells, rules.
fn numbers((b, t, s, r): (usize, usize, usize, usize)) -> [Vec<f32>; 5] {
    let n = b * t;
    let tells = noise(n, 4).into_iter().map(|x| 1.0 / (1.0 + (-3.0 * x).exp())).collect();
    [shares(n, LOGIC_SPAN, 1), shares(n, s, 2), shares(n, r, 3), tells, shares(r, r * r, 5)]
}

fn problem(sizes: (usize, usize, usize, usize), n: &[Vec<f32>; 5]) -> LogicScan<'_> {
    let [back, names, relations, tells, rules] = n;
    LogicScan { sizes, back, names, relations, tells, rules }
}

fn answers(scan: &LogicScan) -> Vec<f32> {
    let mut y = vec![0.0; scan.names.len()];
    logic_forward(scan, &mut vec![0.0; scan.sizes.0 * scan.beliefs_len()], &mut y, &mut []);
    y
}

fn grads(scan: &LogicScan, dy: &[f32]) -> [Vec<f32>; 5] {
    let (b, t, ..) = scan.sizes;
    let (mut y, mut kept) = (vec![0.0; dy.len()], vec![9.0; b * t * scan.beliefs_len()]);
    logic_forward(scan, &mut vec![0.0; b * scan.beliefs_len()], &mut y, &mut kept);
    assert_eq!(y, answers(scan));
    let mut g = [scan.back, scan.names, scan.relations, scan.tells, scan.rules].map(|x| vec![9.0; x.len()]);
    let [back, names, relations, tells, rules] = &mut g;
    logic_backward(scan, &kept, dy, &mut LogicGrads { back, names, relations, tells, rules });
    g
}

#[test]
fn the_program_equals_its_clauses() {
    at_every_level(|| {
        for sizes in SIZES {
            let n = numbers(sizes);
            let scan = problem(sizes, &n);
            let mut want = vec![0.0; n[1].len()];
            reference::logic(&scan, &mut want);
            assert_close(&format!("{sizes:?}"), &answers(&scan), &want, 1e-5);
            let most = want.chunks(sizes.2).map(|answer| answer.iter().sum::<f32>()).fold(0.0, f32::max);
            assert!(most <= 1.0 + 1e-5, "probabilities of an answer add up to {most}");
        }
    });
}

#[test]
fn gradients_of_the_program_are_slopes() {
    at_every_level(|| {
        for sizes in SIZES.into_iter().filter(|(b, t, s, r)| b * t * s * s * r * r * r < 9_000) {
            let n = numbers(sizes);
            let dy = noise(n[1].len(), 6);
            let grads = grads(&problem(sizes, &n), &dy);
            for (i, name) in ["back", "names", "relations", "tells", "rules"].into_iter().enumerate() {
                assert_slope(&format!("{sizes:?} {name}"), &n[i], &grads[i], |x| {
                    let mut moved = n.clone();
                    moved[i] = x.to_vec();
                    let mut y = vec![0.0; dy.len()];
                    reference::logic(&problem(sizes, &moved), &mut y);
                    y.iter().zip(&dy).map(|(y, d)| f64::from(*y) * f64::from(*d)).sum()
                });
            }
        }
    });
}

#[test]
fn a_sequence_goes_on_from_its_beliefs() {
    at_every_level(|| {
        let (t, s, r) = (11, 5, 3);
        let n = numbers((1, t, s, r));
        let whole = answers(&problem((1, t, s, r), &n));
        let (mut got, mut from) = (vec![], 0);
        let mut beliefs = vec![0.0; problem((1, t, s, r), &n).beliefs_len()];
        for rows in [1, 4, 0, 6] {
            let part = |i: usize, width: usize| n[i][from * width..(from + rows) * width].to_vec();
            let own = [part(0, LOGIC_SPAN), part(1, s), part(2, r), part(3, 1), n[4].clone()];
            let mut y = vec![0.0; rows * s];
            logic_forward(&problem((1, rows, s, r), &own), &mut beliefs, &mut y, &mut []);
            got.extend(y);
            from += rows;
        }
        assert_eq!(got, whole);
    });
}

#[test]
fn what_is_no_number_stays_none() {
    at_every_level(|| {
        let sizes = (2, 8, 5, 3);
        for i in 0..5 {
            let mut n = numbers(sizes);
            n[i][0] = f32::NAN;
            let y = answers(&problem(sizes, &n));
            assert!(y[7 * 5..8 * 5].iter().any(|y| y.is_nan()), "input {i}");
            assert!(i == 4 || y[8 * 5..].iter().all(|y| y.is_finite()), "input {i} reaches another sequence");
        }
    });
}

#[test]
fn threads_change_no_bit() {
    assert_same_on_any_threads(|| {
        let sizes = (7, 20, 6, 4);
        let n = numbers(sizes);
        [answers(&problem(sizes, &n)), grads(&problem(sizes, &n), &noise(n[1].len(), 6)).concat()].concat()
    });
}
