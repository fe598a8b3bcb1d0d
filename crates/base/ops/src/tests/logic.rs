//! The logic program against its composed form, going on from beliefs too.

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Device, Tensor};

use super::{close, leaf, noise, same};
use crate::logic::composed;
use crate::*;

/// `(batch, steps, constants, relations)`.
const SIZES: [(usize, usize, usize, usize); 4] = [(1, 1, 1, 1), (2, 5, 3, 2), (1, 17, 16, 3), (3, 4, 5, 4)];

/// Probabilities out of scores.
fn reading([back, names, relations, tells, rules]: [Tensor<2>; 5]) -> LogicReading {
    LogicReading {
        back: softmax(back, 1),
        names: softmax(names, 1),
        relations: softmax(relations, 1),
        tells: sigmoid(tells),
        rules: softmax(rules, 1).mul_scalar(0.9),
    }
}

#[test]
fn the_logic_program_equals_its_composed_form() {
    for (batch, seq, s, r) in SIZES {
        let n = batch * seq;
        let shapes = [[n, LOGIC_SPAN], [n, s], [n, r], [n, 1], [r, r * r]];
        let start = || Tensor::zeros([batch, beliefs_len(s, r)], &Device::flex().autodiff());
        let leaf = |i: usize| leaf(shapes[i], i as u64 + 1);
        // What has no gradient of its own at a single step gets one all the same.
        let more =
            |x: &[Tensor<2>; 5]| x.iter().fold(Tensor::<1>::zeros([1], &x[0].device()), |sum, x| sum + x.clone().sum());
        same(
            &format!("logic {batch}x{seq}, {s} constants, {r} relations"),
            [0, 1, 2, 3, 4].map(leaf),
            |x| logic(reading(x.clone()), batch) + more(&x).unsqueeze::<2>(),
            |x| composed(reading(x.clone()), start()).0 + more(&x).unsqueeze::<2>(),
        );
        let plain = || reading([0, 1, 2, 3, 4].map(|i| leaf(i).inner()));
        let from = noise(batch * beliefs_len(s, r), 9).into_iter().map(|x| x.abs() / s as f32).collect();
        let start = from_vec(from, [batch, beliefs_len(s, r)], &Device::flex());
        let mut beliefs = to_vec(&start);
        let y = logic_from(plain(), &mut beliefs, batch);
        let (want, last) = composed(plain(), start);
        close("answers", &to_vec(&y), &to_vec(&want));
        close("beliefs", &beliefs, &to_vec(&last));
    }
}
