//! Selective state spaces: Mamba (Gu and Dao 2023, algorithm 2) and the recurrence of Mamba-2 (Dao and Gu 2024).

use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use cupola_kernels::{SelectiveGrads, SelectiveScan, selective_scan_backward, selective_scan_forward};

use super::{at, softplus, stacked, steps, wanted};
use crate::host::{HostOp, Output, Saved, apply, erase, flex, slice};

/// What a scan is made of, with a state of `N` numbers per channel.
#[derive(Clone, Debug)]
pub struct Selective {
    /// `[B·T, D]`.
    pub x: Tensor<2>,
    /// `[B·T, D]`.
    pub dt: Tensor<2>,
    /// `[D, N]`, or `[D, 1]` where a channel has one decay, as in Mamba-2.
    pub a: Tensor<2>,
    /// `[B·T, N]`.
    pub b: Tensor<2>,
    /// `[B·T, N]`.
    pub c: Tensor<2>,
    /// `[D]`: the paper's D.
    pub skip: Tensor<1>,
    /// `[B·T, D]`: the gate, if there is one.
    pub z: Option<Tensor<2>>,
}

#[derive(Clone, Copy, Debug)]
struct Scan {
    sizes: (usize, usize, usize, usize),
    softplus: bool,
}

impl Scan {
    fn of(s: &Selective, batch: usize, softplus: bool) -> Self {
        let ([rows, d], n) = (s.x.dims(), s.b.dims()[1]);
        assert!([1, n].contains(&s.a.dims()[1]), "a is {:?}, but the state has {n} numbers", s.a.dims());
        Scan { sizes: (batch, steps(rows, batch), d, n), softplus }
    }

    fn problem<'a>(&self, i: &[&'a [f32]]) -> SelectiveScan<'a> {
        let z = i.get(6).copied().unwrap_or(&[]);
        let (sizes, softplus) = (self.sizes, self.softplus);
        SelectiveScan { sizes, x: i[0], dt: i[1], softplus, a: i[2], b: i[3], c: i[4], skip: i[5], z }
    }

    fn run(&self, inputs: &[&[f32]], track: bool) -> Output {
        let ((batch, seq, d, n), scan) = (self.sizes, self.problem(inputs));
        let mut starts = vec![0.0; if track { scan.starts_len() } else { 0 }];
        let mut y = vec![0.0; scan.x.len()];
        selective_scan_forward(&scan, &mut vec![0.0; batch * n * d], &mut y, &mut starts);
        Output { shape: vec![batch * seq, d], data: y, saved: vec![starts] }
    }

    fn grads(&self, saved: &Saved<'_>, grad: &[f32]) -> [Vec<f32>; 7] {
        let ((batch, _, d, n), s) = (self.sizes, self.problem(saved.inputs));
        let mut grads = [s.x, s.dt, s.a, s.b, s.c, s.skip, s.z].map(|x| vec![0.0; x.len()]);
        let [x, dt, a, b, c, skip, z] = &mut grads;
        let mut d_state = vec![0.0; batch * n * d];
        let to = &mut SelectiveGrads { x, dt, a, b, c, skip, z };
        selective_scan_backward(&s, &saved.saved[0], grad, &mut d_state, to);
        grads
    }
}

impl HostOp<6> for Scan {
    fn forward(&self, inputs: [&[f32]; 6], track: bool) -> Output {
        self.run(&inputs, track)
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 6] {
        let [x, dt, a, b, c, skip, _] = self.grads(saved, grad);
        wanted([x, dt, a, b, c, skip], saved.needs)
    }
}

impl HostOp<7> for Scan {
    fn forward(&self, inputs: [&[f32]; 7], track: bool) -> Output {
        self.run(&inputs, track)
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 7] {
        wanted(self.grads(saved, grad), saved.needs)
    }
}

/// `h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t`, `y_t = (C_t · h_t + skip x_t) silu(z_t)` from a state of zeros, `[B·T, D]`.
/// With `soft_steps` the step is `log(1 + e^dt)` instead of `dt`.
pub fn selective_scan(s: Selective, batch: usize, soft_steps: bool) -> Tensor<2> {
    let scan = Scan::of(&s, batch, soft_steps);
    if !crate::is_host(&s.x.device()) {
        let (_, _, d, n) = scan.sizes;
        let start = Tensor::zeros([batch, d, n], &s.x.device());
        return composed(s, start, soft_steps).0;
    }
    let Selective { x, dt, a, b, c, skip, z } = s;
    let [x, dt, a, b, c] = [x, dt, a, b, c].map(erase);
    match z {
        Some(z) => apply(scan, [x, dt, a, b, c, skip, erase(z)]),
        None => apply(scan, [x, dt, a, b, c, skip]),
    }
}

/// [`selective_scan`] from `state` `[B, N, D]` (zeros before the first step), which becomes the state after the last
/// step. Without a tape.
pub fn selective_scan_from(s: Selective, state: &mut [f32], batch: usize, soft_steps: bool) -> Tensor<2> {
    let (scan, device) = (Scan::of(&s, batch, soft_steps), s.x.device());
    let (_, _, d, n) = scan.sizes;
    if !crate::is_host(&device) {
        let start: Tensor<3> = crate::from_vec(state.to_vec(), [batch, n, d], &device);
        let (y, last) = composed(s, start.swap_dims(1, 2), soft_steps);
        state.copy_from_slice(&crate::into_vec(last.swap_dims(1, 2)));
        return y;
    }
    let shape = s.x.dims();
    let inputs = [s.x, s.dt, s.a, s.b, s.c].map(erase).into_iter().chain([s.skip]).chain(s.z.map(erase));
    let inputs: Vec<_> = inputs.map(flex).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(slice).collect();
    let mut y = vec![0.0; shape[0] * d];
    selective_scan_forward(&scan.problem(&inputs), state, &mut y, &mut []);
    crate::from_vec(y, shape, &device)
}

/// The same from the tensor library's operations, from a state `[B, D, N]`; gives the last state too.
pub(crate) fn composed(s: Selective, mut state: Tensor<3>, soft_steps: bool) -> (Tensor<2>, Tensor<3>) {
    let [batch, d, n] = state.dims();
    let decays = s.a.dims()[1];
    let dt = if soft_steps { softplus(s.dt) } else { s.dt };
    let a: Tensor<3> = s.a.reshape([1, d, decays]);
    let mut outputs = Vec::new();
    for t in 0..s.x.dims()[0] / batch {
        let (x, dt) = (at(&s.x, batch, t), at(&dt, batch, t));
        let per_channel = |v: Tensor<2>| -> Tensor<3> { v.reshape([batch, d, 1]) };
        let per_number = |v: &Tensor<2>| -> Tensor<3> { at(v, batch, t).reshape([batch, 1, n]) };
        let decay = (per_channel(dt.clone()) * a.clone()).exp();
        state = state * decay + per_channel(dt * x.clone()) * per_number(&s.b);
        let read: Tensor<2> = (state.clone() * per_number(&s.c)).sum_dim(2).reshape([batch, d]);
        let y = read + x * s.skip.clone().unsqueeze::<2>();
        outputs.push(match &s.z {
            Some(z) => y * silu(at(z, batch, t)),
            None => y,
        });
    }
    (stacked(outputs), state)
}
