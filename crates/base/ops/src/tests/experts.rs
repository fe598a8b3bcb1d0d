//! Mixtures of experts against their composed forms.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::{close, leaf, same};
use crate::*;

/// `(tokens, k, experts, d, f)`.
const CASES: [(usize, usize, usize, usize, usize); 4] =
    [(1, 1, 1, 1, 1), (7, 2, 5, 9, 6), (33, 3, 4, 16, 24), (20, 2, 16, 8, 12)];

fn choices(n: usize, k: usize, experts: usize) -> Arc<[u32]> {
    (0..n * k).map(|p| ((p / k * 3 + p % k) % experts.min(6)) as u32).collect()
}

#[test]
fn the_parts_of_a_mixture_equal_their_composed_forms() {
    for (n, k, e, d, f) in CASES {
        let order = Arc::new(ExpertOrder::new(&choices(n, k, e), k, e));
        let what = |name: &str| format!("{name}, {n} tokens, {e} experts");
        same(
            &what("permute"),
            [leaf([n, d], 1)],
            |[x]| permute(x, &order),
            |[x]| crate::experts::composed_permute(x, &order),
        );
        same(
            &what("grouped_linear"),
            [leaf([n * k, d], 2), leaf([e * f, d], 3)],
            |[x, w]| grouped_linear(x, w.reshape([e, f, d]), &order, Precision::F32),
            |[x, w]| crate::experts::composed_linear(x, w.reshape([e, f, d]), &order),
        );
        same(
            &what("combine"),
            [leaf([n * k, d], 4), leaf([n, k], 5)],
            |[rows, w]| combine(rows, w, &order),
            |[rows, w]| crate::experts::composed_combine(rows, w, &order),
        );
    }
}

#[test]
fn a_mixture_equals_dense_layers_weighted_by_their_choices() {
    for (n, k, e, d, f) in CASES {
        let chosen = choices(n, k, e);
        let order = Arc::new(ExpertOrder::new(&chosen, k, e));
        let leaves = [leaf([n, d], 1), leaf([n, k], 2), leaf([e * f, d], 3), leaf([e * f, d], 4), leaf([e * d, f], 5)];
        same(
            &format!("mixture, {n} tokens, {e} experts"),
            leaves,
            |[x, weights, gate, up, down]| {
                let (gate, up) = (gate.reshape([e, f, d]), up.reshape([e, f, d]));
                let w = ExpertWeights { gate, up, down: down.reshape([e, d, f]) };
                experts_gated(Activation::Silu, x, weights, w, &order, Precision::F32)
            },
            |[x, weights, gate, up, down]| {
                let rows = (0..n * k).map(|pair| {
                    let expert = chosen[pair] as usize;
                    let of = |w: &Tensor<2>, rows: usize| w.clone().narrow(0, expert * rows, rows);
                    let x = x.clone().narrow(0, pair / k, 1);
                    let gated = crate::activation::composed(
                        crate::Activation::Silu,
                        crate::linear::composed(x.clone(), of(&gate, f), None),
                    ) * crate::linear::composed(x, of(&up, f), None);
                    let weight = weights.clone().narrow(0, pair / k, 1).narrow(1, pair % k, 1);
                    crate::linear::composed(gated, of(&down, d), None) * weight
                });
                Tensor::cat(rows.collect(), 0).reshape([n, k, d]).sum_dim(1).reshape([n, d])
            },
        );
    }
}

#[test]
fn the_router_equals_its_composed_form() {
    for (n, k, e, ..) in CASES {
        let chosen = choices(n, k, e);
        let balance = cupola_kernels::Balance::new(&chosen, e, n);
        for how in [Scores::Softmax, Scores::Sigmoid] {
            for normalize in [false, true] {
                same(
                    &format!("router {how:?}"),
                    [leaf([n, e], 1)],
                    |[z]| expert_weights(router_scores(z, how), &chosen, normalize),
                    |[z]| {
                        let scores = crate::experts::router::composed_scores(z, how);
                        crate::experts::router::composed_weights(scores, &chosen, normalize)
                    },
                );
            }
        }
        same(
            "losses of the router",
            [leaf([n, e], 2)],
            |[z]| balance_loss(router_scores(z.clone(), Scores::Softmax), &chosen) + router_z_loss(z),
            |[z]| {
                let scores = crate::experts::router::composed_scores(z.clone(), Scores::Softmax);
                crate::experts::router::composed_balance(scores, &balance) + crate::experts::router::composed_z_loss(z)
            },
        );
    }
}

#[test]
fn the_chosen_are_the_experts_of_the_highest_scores() {
    let scores: Tensor<2> =
        from_vec(vec![0.1, 0.4, 0.4, 0.1, 0.5, 0.2, 0.2, 0.1], [2, 4], &burn::tensor::Device::flex());
    assert_eq!(*choose_experts(&scores, 2, None), [1, 2, 0, 1]);
    assert_eq!(*choose_experts(&scores, 2, Some(&[0.0, 0.0, 0.1, 1.0])), [3, 2, 3, 0]);
    close(
        "weights",
        &to_vec(&expert_weights(scores, &vec![1, 2, 0, 1].into(), true)),
        &[0.5, 0.5, 5.0 / 7.0, 2.0 / 7.0],
    );
}
