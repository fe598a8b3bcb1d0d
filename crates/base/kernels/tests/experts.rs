//! Mixtures of experts against plain loops.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

/// `(tokens, k, experts, d_in, d_out)`; the choices leave some experts empty and crowd others.
const CASES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 1, 1, 1, 1),
    (1, 2, 8, 7, 5),
    (13, 1, 3, 17, 16),
    (40, 2, 5, 33, 31),
    (130, 3, 7, 20, 41),
    (300, 2, 64, 48, 24),
    (257, 4, 4, 9, 130),
];

/// Distinct experts per token, the low numbers far more often; the last one never where there are enough.
fn choices(n: usize, k: usize, n_experts: usize) -> Vec<u32> {
    let usable = if n_experts > k { n_experts - 1 } else { n_experts };
    let first = |i: usize| if i.is_multiple_of(3) { i * 7 } else { 0 };
    (0..n * k).map(|p| ((first(p / k) + p % k) % usable) as u32).collect()
}

struct Mixture {
    y: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
    d_weights: Vec<f32>,
}

/// Gather, product and combination, and back with `dy`.
fn run(x: &[f32], w: &[f32], order: &ExpertOrder, weights: &[f32], dims: (usize, usize), dy: &[f32]) -> Mixture {
    let (rows, (d_in, d_out)) = (order.pairs.len(), dims);
    let (mut xs, mut ys, mut y) = (vec![9.0; rows * d_in], vec![9.0; rows * d_out], vec![9.0; dy.len()]);
    expert_gather(x, order, d_in, &mut xs);
    grouped_matmul(&xs, w, order, dims, Precision::F32, &mut ys);
    expert_combine(&ys, weights, order, d_out, &mut y);
    let (mut d_ys, mut d_xs, mut d_weights) = (ys.clone(), xs.clone(), vec![9.0; rows]);
    let (mut dx, mut dw) = (vec![9.0; x.len()], vec![9.0; w.len()]);
    expert_combine_backward(&CombineSaved { rows: &ys, weights, dy }, order, d_out, &mut d_ys, &mut d_weights);
    grouped_input_grad(&d_ys, w, order, dims, Precision::F32, &mut d_xs);
    grouped_weight_grad(&d_ys, &xs, order, dims, Precision::F32, &mut dw);
    expert_gather_backward(&d_xs, order, d_in, &mut dx);
    let saved = CombineSaved { rows: &ys, weights, dy };
    let plain = reference::combine_weight_grad(&saved, &order.rows, d_out);
    assert_close("weights' slopes", &d_weights, &plain, 2e-5);
    Mixture { y, dx, dw, d_weights }
}

#[test]
fn the_order_is_a_stable_sort_by_expert() {
    for (n, k, e, ..) in CASES {
        let chosen = choices(n, k, e);
        let order = ExpertOrder::new(&chosen, k, e);
        let mut sorted: Vec<u32> = (0..(n * k) as u32).collect();
        sorted.sort_by_key(|&pair| chosen[pair as usize]);
        assert_eq!(order.pairs, sorted);
        assert!(order.rows.iter().enumerate().all(|(pair, &row)| order.pairs[row as usize] == pair as u32));
        for expert in 0..e {
            let own = &order.pairs[order.offsets[expert]..order.offsets[expert + 1]];
            assert!(own.iter().all(|&pair| chosen[pair as usize] as usize == expert));
        }
        assert_eq!((order.tokens(), order.n_experts()), (n, e));
    }
}

#[test]
fn a_mixture_equals_its_sum_over_choices() {
    at_every_level(|| {
        for (n, k, e, d_in, d_out) in CASES {
            let (x, w, weights) = (noise(n * d_in, 1), noise(e * d_in * d_out, 2), noise(n * k, 3));
            let chosen = choices(n, k, e);
            let order = ExpertOrder::new(&chosen, k, e);
            let got = run(&x, &w, &order, &weights, (d_in, d_out), &noise(n * d_out, 4));
            let want = reference::mixture(&x, &w, &chosen, &weights, (d_in, d_out));
            assert_close(&format!("{n}x{k} of {e}"), &got.y, &want, 2e-5);
        }
    });
}

#[test]
fn gradients_of_a_mixture_are_slopes() {
    let (n, k, e, d_in, d_out) = (5, 2, 4, 3, 2);
    let chosen = choices(n, k, e);
    let order = ExpertOrder::new(&chosen, k, e);
    let (x, w, weights, dy) = (noise(n * d_in, 1), noise(e * d_in * d_out, 2), noise(n * k, 3), noise(n * d_out, 4));
    let loss = |x: &[f32], w: &[f32], weights: &[f32]| -> f64 {
        let y = reference::mixture(x, w, &chosen, weights, (d_in, d_out));
        y.iter().zip(&dy).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum()
    };
    let got = run(&x, &w, &order, &weights, (d_in, d_out), &dy);
    assert_slope("dx", &x, &got.dx, |x| loss(x, &w, &weights));
    assert_slope("dw", &w, &got.dw, |w| loss(&x, w, &weights));
    assert_slope("d_weights", &weights, &got.d_weights, |p| loss(&x, &w, p));
    let idle = &got.dw[(e - 1) * d_in * d_out..];
    assert!(idle.iter().all(|&g| g == 0.0), "an expert without rows has no gradient: {idle:?}");
}

#[test]
fn nan_stays_with_the_tokens_that_share_an_expert_with_it() {
    at_every_level(|| {
        let (chosen, d) = ([0, 1, 2, 1, 0, 2], 19);
        let order = ExpertOrder::new(&chosen, 2, 4);
        let (mut x, w, weights, dy) = (noise(3 * d, 1), noise(4 * d * d, 2), noise(6, 3), noise(3 * d, 4));
        x[d + 18] = f32::NAN;
        let got = run_without_check(&x, &w, &order, &weights, d, &dy);
        for (i, row) in got.y.chunks(d).enumerate() {
            assert!(row.iter().all(|y| y.is_nan() == (i == 1)), "token {i}: {row:?}");
        }
        let of = |e: usize| got.dw[e * d * d..][..d * d].iter().any(|g| g.is_nan());
        assert_eq!([of(0), of(1), of(2), of(3)], [false, true, true, false]);
    });
}

fn run_without_check(x: &[f32], w: &[f32], order: &ExpertOrder, weights: &[f32], d: usize, dy: &[f32]) -> Mixture {
    let rows = order.pairs.len();
    let (mut xs, mut ys, mut y) = (vec![0.0; rows * d], vec![0.0; rows * d], vec![0.0; dy.len()]);
    expert_gather(x, order, d, &mut xs);
    grouped_matmul(&xs, w, order, (d, d), Precision::F32, &mut ys);
    expert_combine(&ys, weights, order, d, &mut y);
    let mut dw = vec![0.0; w.len()];
    grouped_weight_grad(&ys, &xs, order, (d, d), Precision::F32, &mut dw);
    Mixture { y, dx: vec![], dw, d_weights: vec![] }
}

#[test]
fn scores_equal_their_definition_and_their_gradients_are_slopes() {
    at_every_level(|| {
        for how in [Scores::Softmax, Scores::Sigmoid] {
            for (n, e) in [(1, 1), (3, 5), (300, 8), (600, 67)] {
                let logits: Vec<f32> = noise(n * e, 1).iter().map(|x| 9.0 * x).collect();
                let (mut got, mut want) = (vec![0.0; n * e], vec![0.0; n * e]);
                router_scores(&logits, e, how, &mut got);
                reference::router_scores(&logits, e, how, &mut want);
                assert_close("scores", &got, &want, 2e-6);
            }
            let (logits, g) = (noise(10, 1), noise(10, 2));
            let (mut p, mut d) = (vec![0.0; 10], vec![0.0; 10]);
            router_scores(&logits, 5, how, &mut p);
            router_scores_backward(&p, &g, 5, how, &mut d);
            assert_slope("d_logits", &logits, &d, |z| {
                let mut p = vec![0.0; 10];
                reference::router_scores(z, 5, how, &mut p);
                p.iter().zip(&g).map(|(p, g)| f64::from(*p) * f64::from(*g)).sum()
            });
        }
    });
}

#[test]
fn the_choice_is_the_largest_and_of_equals_the_first() {
    for (n, e, k) in [(1, 1, 1), (9, 5, 2), (700, 64, 8), (5, 6, 6), (3, 4, 0)] {
        // Few distinct values, so that many are equal.
        let scores: Vec<f32> = noise(n * e, 1).iter().map(|x| (4.0 * x).round()).collect();
        let bias: Vec<f32> = noise(e, 2).iter().map(|x| x.round()).collect();
        assert_eq!(top_k(&scores, e, k, None), reference::top_k(&scores, e, k, None));
        assert_eq!(top_k(&scores, e, k, Some(&bias)), reference::top_k(&scores, e, k, Some(&bias)));
    }
    assert_eq!(top_k(&[1.0, 2.0, 2.0, 2.0], 4, 2, None), [1, 2]);
    assert_eq!(top_k(&[1.0, f32::INFINITY, f32::NAN, -1.0], 4, 2, None), [2, 1]);
}

#[test]
fn only_the_best_groups_stay_in_the_choice() {
    for (n, e, groups) in [(1, 1, [1, 1]), (9, 6, [3, 2]), (700, 64, [8, 4]), (5, 4, [4, 1]), (3, 8, [2, 0])] {
        // Few distinct values, so that many are equal.
        let scores: Vec<f32> = noise(n * e, 1).iter().map(|x| (4.0 * x).round()).collect();
        let bias: Vec<f32> = noise(e, 2).iter().map(|x| x.round()).collect();
        let got = rank_in_groups(&scores, e, Some(&bias), groups);
        assert_eq!(got, reference::rank_in_groups(&scores, e, &bias, groups));
        let plain = rank_in_groups(&scores, e, None, groups);
        assert_eq!(plain, reference::rank_in_groups(&scores, e, &vec![0.0; e], groups));
        assert_same_on_any_threads(|| rank_in_groups(&scores, e, Some(&bias), groups));
    }
    // The best expert alone does not make its group the best.
    let ranks = rank_in_groups(&[9.0, 0.0, 5.0, 5.0], 4, None, [2, 1]);
    assert_eq!(ranks, [f32::NEG_INFINITY, f32::NEG_INFINITY, 5.0, 5.0]);
    let ranks = rank_in_groups(&[f32::NAN, 0.0, 5.0, 5.0], 4, None, [2, 1]);
    assert!(ranks[0].is_nan(), "a NaN reaches the choice");
}

#[test]
fn products_of_experts_round_to_sixteen_bits_where_they_are_told_to() {
    let (n, k, e, d_in, d_out) = (500, 2, 3, 40, 33);
    let order = ExpertOrder::new(&choices(n, k, e), k, e);
    let (x, w, dy) = (noise(n * k * d_in, 1), noise(e * d_out * d_in, 2), noise(n * k * d_out, 3));
    let run = |precision| {
        let (mut y, mut dx, mut dw) = (vec![9.0; dy.len()], vec![9.0; x.len()], vec![9.0; w.len()]);
        grouped_matmul(&x, &w, &order, (d_in, d_out), precision, &mut y);
        grouped_input_grad(&dy, &w, &order, (d_in, d_out), precision, &mut dx);
        grouped_weight_grad(&dy, &x, &order, (d_in, d_out), precision, &mut dw);
        [y, dx, dw]
    };
    let exact = run(Precision::F32);
    for (precision, tolerance) in [(Precision::Bf16, 2e-2), (Precision::F16, 3e-3)] {
        for (got, want) in run(precision).iter().zip(&exact) {
            let off = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let size = want.iter().map(|x| x.abs()).fold(0.0, f32::max);
            assert!(off <= tolerance * size, "{precision:?} is off by {off} of {size}");
        }
    }
}

#[test]
fn picked_weights_add_up_and_their_gradients_are_slopes() {
    let (n, e) = (4, 5);
    let scores: Vec<f32> = noise(n * e, 1).iter().map(|x| x.abs() + 0.3).collect();
    let (chosen, g) = (top_k(&scores, e, 3, None), noise(n * 3, 2));
    for normalize in [false, true] {
        let (mut w, mut d) = (vec![0.0; n * 3], vec![0.0; n * e]);
        pick_forward(&scores, e, &chosen, normalize, &mut w);
        let sums = w.chunks(3).map(|w| w.iter().sum::<f32>());
        assert!(sums.into_iter().all(|sum| !normalize || (sum - 1.0).abs() < 1e-6));
        pick_backward(&scores, e, &chosen, normalize, &g, &mut d);
        assert_slope("d_scores", &scores, &d, |p| {
            let mut w = vec![0.0; n * 3];
            pick_forward(p, e, &chosen, normalize, &mut w);
            w.iter().zip(&g).map(|(w, g)| f64::from(*w) * f64::from(*g)).sum()
        });
    }
}

#[test]
fn the_losses_of_the_router_equal_their_definitions_and_slopes() {
    at_every_level(|| {
        for (n, e, k) in [(1, 1, 1), (7, 5, 2), (900, 16, 2)] {
            let logits: Vec<f32> = noise(n * e, 1).iter().map(|x| 3.0 * x).collect();
            let mut scores = vec![0.0; n * e];
            router_scores(&logits, e, Scores::Softmax, &mut scores);
            let chosen = top_k(&scores, e, k, None);
            let balance = Balance::new(&chosen, e, n);
            let want = reference::balance_loss(&scores, &chosen, e);
            assert!((f64::from(balance.loss(&scores)) - want).abs() < 1e-5 * (1.0 + want));
            let mut lse = vec![0.0; n];
            let (got, want) = (router_z_loss(&logits, e, &mut lse), reference::router_z_loss(&logits, e));
            assert!((f64::from(got) - want).abs() < 1e-5 * (1.0 + want), "{got} is not {want}");
            if n < 10 {
                let slopes: Vec<f32> = (0..n).flat_map(|_| balance.slope.clone()).collect();
                assert_slope("balance", &scores, &slopes, |p| reference::balance_loss(p, &chosen, e));
                let mut d = vec![0.0; n * e];
                router_z_backward(&logits, e, &lse, 1.0, &mut d);
                assert_slope("z", &logits, &d, |z| reference::router_z_loss(z, e));
            }
        }
    });
    let even: Vec<u32> = (0..8).collect();
    assert_eq!(Balance::new(&even, 8, 4).loss(&[0.125; 32]), 2.0, "even choices of two each give 2");
}

#[test]
fn threads_change_no_bit() {
    let (n, k, e, d_in, d_out) = (900, 2, 6, 64, 80);
    assert_same_on_any_threads(|| {
        let logits = noise(n * e, 9);
        let mut scores = vec![0.0; n * e];
        router_scores(&logits, e, Scores::Softmax, &mut scores);
        let chosen = top_k(&scores, e, k, None);
        let order = ExpertOrder::new(&chosen, k, e);
        let (x, w, weights) = (noise(n * d_in, 1), noise(e * d_in * d_out, 2), noise(n * k, 3));
        let got = run(&x, &w, &order, &weights, (d_in, d_out), &noise(n * d_out, 4));
        let mut lse = vec![0.0; n];
        let losses = vec![router_z_loss(&logits, e, &mut lse), Balance::new(&chosen, e, n).loss(&scores)];
        [got.y, got.dx, got.dw, got.d_weights, losses, lse].concat()
    });
}

#[test]
#[should_panic(expected = "choice 1 is expert 4, but there are 4")]
fn an_expert_that_is_not_there_is_refused() {
    ExpertOrder::new(&[0, 4], 2, 4);
}
