//! Recurrent layers against their composed form and against PyTorch.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use cupola_testkit::Golden;

use super::{leaf, same};
use crate::*;

const KINDS: [(&str, RecurrentKind); 3] =
    [("rnn", RecurrentKind::Tanh), ("lstm", RecurrentKind::Lstm), ("gru", RecurrentKind::Gru)];

/// Outputs and final state below one another.
fn joined((y, state): (Tensor<2>, RecurrentState)) -> Tensor<2> {
    Tensor::cat([Some(y), Some(state.h), state.c].into_iter().flatten().collect(), 0)
}

#[test]
fn a_recurrent_layer_equals_its_composed_form() {
    for (name, kind) in KINDS {
        for (batch, seq, d, h) in [(1, 1, 1, 1), (2, 5, 3, 7), (4, 3, 8, 16)] {
            let g = kind.gates() * h;
            let lengths: Arc<[u32]> = (0..batch).map(|b| (b * 3 % (seq + 1)) as u32).collect();
            for lengths in [None, Some(&lengths)] {
                let leaves = [
                    leaf([batch * seq, d], 1),
                    leaf([g, d], 2),
                    leaf([g, h], 3),
                    leaf([2, g], 4),
                    leaf([2 * batch, h], 5),
                ];
                let parts = |[x, w_ih, w_hh, bias, start]: [Tensor<2>; 5]| {
                    let row = |i: usize| bias.clone().narrow(0, i, 1).reshape([g]);
                    let w = RecurrentWeights { w_ih, w_hh, b_ih: row(0), b_hh: row(1) };
                    let c = kind.has_memory().then(|| start.clone().narrow(0, batch, batch));
                    (x, w, RecurrentState { h: start.narrow(0, 0, batch), c })
                };
                same(
                    &format!("{name} {batch}x{seq}"),
                    leaves,
                    |leaves| {
                        let (x, w, start) = parts(leaves);
                        joined(recurrent(kind, x, w, start, lengths))
                    },
                    |leaves| {
                        let (x, w, start) = parts(leaves);
                        joined(crate::recurrent::composed(kind, x, w, start, lengths.map(|l| &**l)))
                    },
                );
            }
        }
    }
}

#[test]
fn recurrent_layers_equal_those_of_pytorch() {
    let golden = Golden::load("recurrent");
    for (name, kind) in KINDS {
        check(&golden, name, kind, None);
        let lengths = golden.i64("in.lengths").1.into_iter().map(|l| l as u32).collect();
        check(&golden, name, kind, Some(&lengths));
    }
}

fn check(golden: &Golden, name: &str, kind: RecurrentKind, lengths: Option<&Arc<[u32]>>) {
    let device = Device::flex().autodiff();
    let matrix = |name: &str| -> Tensor<2> {
        let (shape, data) = golden.f32(name);
        let width = *shape.last().unwrap();
        let rows = data.len() / width;
        from_vec(data, [rows, width], &device).require_grad()
    };
    let vector = |name: &str| -> Tensor<1> {
        let data = golden.f32(name).1;
        let n = data.len();
        from_vec(data, [n], &device).require_grad()
    };
    let (x, h0, c0) = (matrix("in.x"), matrix("in.h0"), kind.has_memory().then(|| matrix("in.c0")));
    let w = RecurrentWeights {
        w_ih: matrix(&format!("{name}.w_ih")),
        w_hh: matrix(&format!("{name}.w_hh")),
        b_ih: vector(&format!("{name}.b_ih")),
        b_hh: vector(&format!("{name}.b_hh")),
    };
    let (y, last) = recurrent(kind, x.clone(), w.clone(), RecurrentState { h: h0.clone(), c: c0.clone() }, lengths);
    // PyTorch's packed outputs are 0 after a row's end, ours repeat its last state.
    let ([rows, d], batch) = (y.dims(), h0.dims()[0]);
    let (seq, kept) = (rows / batch, |b: usize, t: usize| lengths.is_none_or(|l| t < l[b] as usize));
    let mask = (0..rows).flat_map(|i| vec![f32::from(kept(i / seq, i % seq)); d]).collect();
    let y = y * from_vec(mask, [rows, d], &device);
    let prefix = if lengths.is_some() { format!("{name}.packed") } else { name.to_owned() };
    let outputs = [("y", Some(y)), ("h", Some(last.h)), ("c", last.c)];
    let mut loss: Tensor<1> = from_vec(vec![0.0], [1], &device);
    for (output, value) in outputs.into_iter().filter_map(|(n, v)| Some((n, v?))) {
        golden.check(&format!("{prefix}.out.{output}"), &to_vec(&value));
        loss = loss + (value * matrix(&format!("in.projection.{output}"))).sum();
    }
    let grads = loss.backward();
    let check = |leaf: &str, grad: Option<Vec<f32>>| golden.check(&format!("{prefix}.grad.{leaf}"), &grad.unwrap());
    let matrices = [("x", Some(x)), ("h0", Some(h0)), ("c0", c0), ("w_ih", Some(w.w_ih)), ("w_hh", Some(w.w_hh))];
    for (leaf, tensor) in matrices.into_iter().filter_map(|(n, t)| Some((n, t?))) {
        check(leaf, tensor.grad(&grads).map(|g| to_vec(&g)));
    }
    for (leaf, tensor) in [("b_ih", w.b_ih), ("b_hh", w.b_hh)] {
        check(leaf, tensor.grad(&grads).map(|g| to_vec(&g)));
    }
}
