//! The weighted key-value recurrence of RWKV-4 (Peng et al. 2023, equations 16 and 19).

use burn::tensor::Tensor;
use cupola_kernels::{Wkv as Problem, WkvGrads, wkv_backward, wkv_forward};

use super::{at, stacked, steps, wanted};
use crate::host::{HostOp, Output, Saved, apply, erase, flex, slice};

#[derive(Debug)]
struct Wkv {
    /// `(B, T, D)`.
    sizes: (usize, usize, usize),
}

impl Wkv {
    fn of(k: &Tensor<2>, v: &Tensor<2>, batch: usize) -> Self {
        let [rows, d] = k.dims();
        assert_eq!([rows, d], v.dims(), "keys and values differ in shape");
        Wkv { sizes: (batch, steps(rows, batch), d) }
    }

    fn problem<'a>(&self, [w, u, k, v]: [&'a [f32]; 4]) -> Problem<'a> {
        Problem { sizes: self.sizes, w, u, k, v }
    }
}

impl HostOp<4> for Wkv {
    fn forward(&self, inputs: [&[f32]; 4], track: bool) -> Output {
        let (wkv, (batch, seq, d)) = (self.problem(inputs), self.sizes);
        let mut starts = vec![0.0; if track { wkv.starts_len() } else { 0 }];
        let mut y = vec![0.0; batch * seq * d];
        wkv_forward(&wkv, &mut wkv.empty_state(), &mut y, &mut starts);
        Output { shape: vec![batch * seq, d], data: y, saved: vec![starts] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 4] {
        let inputs = [0, 1, 2, 3].map(|i| saved.inputs[i]);
        let mut grads = inputs.map(|x| vec![0.0; x.len()]);
        let [w, u, k, v] = &mut grads;
        wkv_backward(&self.problem(inputs), &saved.saved[0], grad, &mut WkvGrads { w, u, k, v });
        wanted(grads, saved.needs)
    }
}

/// For each channel the mean of all values so far with the weights `e^{k_i - (t - 1 - i) w}`, and `e^{u + k_t}` for the
/// present: w (at least 0) and u `[D]`, k and v `[B·T, D]`.
pub fn wkv(w: Tensor<1>, u: Tensor<1>, k: Tensor<2>, v: Tensor<2>, batch: usize) -> Tensor<2> {
    let op = Wkv::of(&k, &v, batch);
    if !crate::is_host(&k.device()) {
        let (device, start) = (k.device(), wkv_start(batch, k.dims()[1]));
        let start = crate::from_vec(start, [batch, 3, k.dims()[1]], &device);
        return composed(w, u, k, v, start).0;
    }
    apply(op, [w, u, erase(k), erase(v)])
}

/// [`wkv`] from `state` `[B, 3, D]` ([`wkv_start`] before the first step), which becomes the state after the last step.
/// Without a tape.
pub fn wkv_from(inputs: [Tensor<1>; 2], k: Tensor<2>, v: Tensor<2>, state: &mut [f32], batch: usize) -> Tensor<2> {
    let (op, shape, device) = (Wkv::of(&k, &v, batch), k.dims(), k.device());
    let [w, u] = inputs;
    if !crate::is_host(&device) {
        let start = crate::from_vec(state.to_vec(), [batch, 3, shape[1]], &device);
        let (y, last) = composed(w, u, k, v, start);
        state.copy_from_slice(&crate::into_vec(last));
        return y;
    }
    let inputs = [w, u, erase(k), erase(v)].map(flex);
    let mut y = vec![0.0; shape[0] * shape[1]];
    wkv_forward(&op.problem(inputs.each_ref().map(slice)), state, &mut y, &mut []);
    crate::from_vec(y, shape, &device)
}

/// The state of a batch that has seen nothing, `[B, 3, D]`.
pub fn wkv_start(batch: usize, d: usize) -> Vec<f32> {
    Problem { sizes: (batch, 0, d), w: &[], u: &[], k: &[], v: &[] }.empty_state()
}

/// The same from the tensor library's operations, from a state `[B, 3, D]`; gives the last state too.
pub(crate) fn composed(
    w: Tensor<1>,
    u: Tensor<1>,
    k: Tensor<2>,
    v: Tensor<2>,
    start: Tensor<3>,
) -> (Tensor<2>, Tensor<3>) {
    let [batch, _, d] = start.dims();
    let [mut a, mut b, mut p] = [0, 1, 2].map(|j| start.clone().narrow(1, j, 1).reshape([batch, d]));
    let (w, u): (Tensor<2>, Tensor<2>) = (w.unsqueeze(), u.unsqueeze());
    // The sums `a e^p` and `b e^p` with `e^k (v, 1)` added.
    let plus = |a: Tensor<2>, b: Tensor<2>, p: Tensor<2>, k: Tensor<2>, v: Tensor<2>| {
        let top = p.clone().max_pair(k.clone());
        let (old, new) = ((p - top.clone()).exp(), (k - top.clone()).exp());
        (a * old.clone() + new.clone() * v, b * old + new, top)
    };
    let mut outputs = Vec::new();
    for t in 0..k.dims()[0] / batch {
        let (k, v) = (at(&k, batch, t), at(&v, batch, t));
        let (sum, weights, _) = plus(a.clone(), b.clone(), p.clone(), k.clone() + u.clone(), v.clone());
        outputs.push(sum / weights);
        (a, b, p) = plus(a, b, p - w.clone(), k, v);
    }
    (stacked(outputs), Tensor::stack(vec![a, b, p], 1))
}
