//! Recurrences whose channels do not mix. Sequences are `[B·T, D]`, the steps of one row of the batch after those of
//! another. Each has a form that goes on from a state, for generation; it keeps no tape.

use burn::tensor::Tensor;

pub(crate) mod conv;
pub(crate) mod rglru;
pub(crate) mod selective;
pub(crate) mod wkv;

/// Steps per sequence.
fn steps(rows: usize, batch: usize) -> usize {
    assert!(batch > 0 && rows.is_multiple_of(batch), "{rows} rows are no {batch} sequences of equal length");
    rows / batch
}

/// The gradients that are asked for.
fn wanted<const N: usize>(grads: [Vec<f32>; N], needs: &[bool]) -> [Option<Vec<f32>>; N] {
    let mut needs = needs.iter();
    grads.map(|g| needs.next().is_some_and(|n| *n).then_some(g))
}

/// Step `t` of all sequences, `[B, D]`.
fn at(x: &Tensor<2>, batch: usize, t: usize) -> Tensor<2> {
    let [rows, d] = x.dims();
    x.clone().reshape([batch, rows / batch, d]).narrow(1, t, 1).reshape([batch, d])
}

/// The steps `[B, D]` of all sequences as `[B·T, D]`.
fn stacked(steps: Vec<Tensor<2>>) -> Tensor<2> {
    let (count, [batch, d]) = (steps.len(), steps[0].dims());
    Tensor::stack::<3>(steps, 1).reshape([batch * count, d])
}

/// `log(1 + e^x)`
fn softplus(x: Tensor<2>) -> Tensor<2> {
    burn::tensor::activation::relu(x.clone()) + x.abs().neg().exp().log1p()
}
