//! Recurrent layers (Elman 1990; Hochreiter and Schmidhuber 1997; Cho et al. 2014) as `torch.nn` defines them.

use std::sync::Arc;

use burn::tensor::activation::{sigmoid, tanh};
use burn::tensor::{Tensor, TensorData};
use cupola_kernels::{Recurrence, RecurrentKind, RecurrentStates, recurrent_backward, recurrent_forward};

use crate::host::{HostOp, Output, Saved, apply, erase};

/// A layer's weights, with `G` gates in PyTorch's order: LSTM `i, f, g, o`, GRU `r, z, n`.
#[derive(Clone, Debug)]
pub struct RecurrentWeights {
    /// `[G·H, D]`.
    pub w_ih: Tensor<2>,
    /// `[G·H, H]`.
    pub w_hh: Tensor<2>,
    /// `[G·H]`.
    pub b_ih: Tensor<1>,
    /// `[G·H]`.
    pub b_hh: Tensor<1>,
}

/// The state of each row of a batch.
#[derive(Clone, Debug)]
pub struct RecurrentState {
    /// `[B, H]`.
    pub h: Tensor<2>,
    /// `[B, H]`: an LSTM's memory; `None` for the other kinds.
    pub c: Option<Tensor<2>>,
}

#[derive(Debug)]
struct Recurrent {
    kind: RecurrentKind,
    sizes: (usize, usize, usize),
    lengths: Option<Arc<[u32]>>,
}

impl Recurrent {
    fn problem<'a>(&'a self, x: &[&'a [f32]]) -> Recurrence<'a> {
        let c0 = x.get(4).copied().unwrap_or(&[]);
        let (kind, sizes, lengths) = (self.kind, self.sizes, self.lengths.as_deref());
        Recurrence { kind, sizes, x: x[0], w: x[1], bias: x[2], h0: x[3], c0, lengths }
    }

    /// The outputs, and below them the rows' final memories.
    fn run(&self, inputs: &[&[f32]], track: bool) -> Output {
        let ((batch, seq, d), states) = (self.sizes, recurrent_forward(&self.problem(inputs)));
        let mut data = states.h.clone();
        let memory = if states.c.is_empty() { 0 } else { batch };
        for b in 0..memory {
            data.extend_from_slice(&states.c[((b + 1) * seq - 1) * d..][..d]);
        }
        let saved = if track { vec![states.h, states.c, states.kept] } else { vec![] };
        Output { shape: vec![batch * seq + memory, d], data, saved }
    }

    /// The gradients of all five inputs.
    fn grads(&self, saved: &Saved<'_>, grad: &[f32]) -> [Vec<f32>; 5] {
        let [h, c, kept] = [0, 1, 2].map(|i| saved.saved[i].clone());
        let (dh, dc) = grad.split_at(h.len());
        let g = recurrent_backward(&self.problem(saved.inputs), &RecurrentStates { h, c, kept }, dh, dc);
        [g.dx, g.dw, g.dbias, g.dh0, g.dc0]
    }
}

impl HostOp<4> for Recurrent {
    fn forward(&self, inputs: [&[f32]; 4], track: bool) -> Output {
        self.run(&inputs, track)
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 4] {
        let [dx, dw, db, dh, _] = self.grads(saved, grad);
        let mut needs = saved.needs.iter();
        [dx, dw, db, dh].map(|g| needs.next().is_some_and(|n| *n).then_some(g))
    }
}

impl HostOp<5> for Recurrent {
    fn forward(&self, inputs: [&[f32]; 5], track: bool) -> Output {
        self.run(&inputs, track)
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 5] {
        let mut needs = saved.needs.iter();
        self.grads(saved, grad).map(|g| needs.next().is_some_and(|n| *n).then_some(g))
    }
}

/// A layer over whole sequences: x `[B·T, D]`, gives the outputs `[B·T, H]` and the final state. With `lengths` `[B]` a
/// row's state is frozen after its last step: the outputs repeat it, and the final state is that of the row's end.
pub fn recurrent(
    kind: RecurrentKind,
    x: Tensor<2>,
    w: RecurrentWeights,
    start: RecurrentState,
    lengths: Option<&Arc<[u32]>>,
) -> (Tensor<2>, RecurrentState) {
    let ([rows, _], [batch, d]) = (x.dims(), start.h.dims());
    assert!(batch > 0 && rows.is_multiple_of(batch), "{rows} rows are no {batch} sequences of equal length");
    assert!(rows > 0, "a recurrent layer needs at least one step");
    assert_eq!(start.c.is_some(), kind.has_memory(), "an LSTM has a memory, and no other kind has one");
    if !crate::is_host(&x.device()) {
        return composed(kind, x, w, start, lengths.map(|l| &**l));
    }
    let seq = rows / batch;
    let gates = crate::linear(x, w.w_ih, Some(w.b_ih), crate::Precision::F32);
    let op = Recurrent { kind, sizes: (batch, seq, d), lengths: lengths.cloned() };
    let inputs = [erase(gates), erase(w.w_hh), w.b_hh, erase(start.h)];
    let (all, c): (Tensor<2>, _) = match start.c {
        None => (apply(op, inputs), None),
        Some(c0) => {
            let [gates, w, b, h0] = inputs;
            let all: Tensor<2> = apply(op, [gates, w, b, h0, erase(c0)]);
            (all.clone().narrow(0, 0, rows), Some(all.narrow(0, rows, batch)))
        }
    };
    let h = all.clone().reshape([batch, seq, d]).narrow(1, seq - 1, 1).reshape([batch, d]);
    (all, RecurrentState { h, c })
}

/// The same from the tensor library's operations.
pub(crate) fn composed(
    kind: RecurrentKind,
    x: Tensor<2>,
    w: RecurrentWeights,
    start: RecurrentState,
    lengths: Option<&[u32]>,
) -> (Tensor<2>, RecurrentState) {
    let ([rows, _], [batch, d], device) = (x.dims(), start.h.dims(), x.device());
    let (seq, width) = (rows / batch, kind.gates() * d);
    let gates: Tensor<3> = (x.matmul(w.w_ih.transpose()) + w.b_ih.unsqueeze::<2>()).reshape([batch, seq, width]);
    let RecurrentState { mut h, mut c } = start;
    let mut outputs = Vec::with_capacity(seq);
    for t in 0..seq {
        let x: Tensor<2> = gates.clone().narrow(1, t, 1).reshape([batch, width]);
        let u = h.clone().matmul(w.w_hh.clone().transpose()) + w.b_hh.clone().unsqueeze::<2>();
        let (next_h, next_c) = step(kind, x, u, h.clone(), c.clone());
        let running: Vec<f32> = (0..batch).map(|b| f32::from(lengths.is_none_or(|l| t < l[b] as usize))).collect();
        let running = Tensor::<2>::from_data(TensorData::new(running, [batch, 1]), &device);
        let mix = |new: Tensor<2>, old: Tensor<2>| old.clone() + (new - old) * running.clone();
        h = mix(next_h, h);
        c = next_c.zip(c).map(|(new, old)| mix(new, old));
        outputs.push(h.clone().reshape([batch, 1, d]));
    }
    (Tensor::<3>::cat(outputs, 1).reshape([rows, d]), RecurrentState { h, c })
}

fn step(
    kind: RecurrentKind,
    x: Tensor<2>,
    u: Tensor<2>,
    h: Tensor<2>,
    c: Option<Tensor<2>>,
) -> (Tensor<2>, Option<Tensor<2>>) {
    let d = h.dims()[1];
    let gate = |t: &Tensor<2>, j: usize| t.clone().narrow(1, j * d, d);
    match (kind, c) {
        (RecurrentKind::Gru, _) => {
            let r = sigmoid(gate(&x, 0) + gate(&u, 0));
            let z = sigmoid(gate(&x, 1) + gate(&u, 1));
            let n = tanh(gate(&x, 2) + r * gate(&u, 2));
            (n.clone() + z * (h - n), None)
        }
        (RecurrentKind::Lstm, Some(c)) => {
            let sum = x + u;
            let c = sigmoid(gate(&sum, 1)) * c + sigmoid(gate(&sum, 0)) * tanh(gate(&sum, 2));
            (sigmoid(gate(&sum, 3)) * tanh(c.clone()), Some(c))
        }
        _ => (tanh(x + u), None),
    }
}
