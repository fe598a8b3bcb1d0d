//! The gated linear recurrence of Griffin (De et al. 2024, equations 1 to 4).

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use cupola_kernels::{RgLru as Problem, RgLruGrads, rg_lru_backward, rg_lru_forward};

use super::{at, softplus, stacked, steps, wanted};
use crate::host::{HostOp, Output, Saved, apply, erase};

/// What the recurrence is made of.
#[derive(Clone, Debug)]
pub struct GatedRecurrence {
    /// `[B·T, D]`.
    pub x: Tensor<2>,
    /// `[B·T, D]`: the recurrence gate before its logistic function.
    pub r: Tensor<2>,
    /// `[B·T, D]`: the input gate before its logistic function.
    pub i: Tensor<2>,
    /// `[D]`: minus the paper's Λ, as in RecurrentGemma's weights.
    pub lambda: Tensor<1>,
    /// `[B, D]`: the state before the first step.
    pub start: Tensor<2>,
}

#[derive(Debug)]
struct RgLru {
    /// `(B, T, D)`.
    sizes: (usize, usize, usize),
}

impl RgLru {
    fn problem<'a>(&self, [x, r, i, lambda, h0]: [&'a [f32]; 5]) -> Problem<'a> {
        Problem { sizes: self.sizes, x, r, i, lambda, h0 }
    }
}

impl HostOp<5> for RgLru {
    const KEEP_OUTPUT: bool = true;

    fn forward(&self, inputs: [&[f32]; 5], _: bool) -> Output {
        let ((batch, seq, d), mut h) = (self.sizes, vec![0.0; inputs[0].len()]);
        rg_lru_forward(&self.problem(inputs), &mut h);
        Output { shape: vec![batch * seq, d], data: h, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 5] {
        let inputs = [0, 1, 2, 3, 4].map(|i| saved.inputs[i]);
        let mut grads = inputs.map(|x| vec![0.0; x.len()]);
        let [x, r, i, lambda, h0] = &mut grads;
        rg_lru_backward(&self.problem(inputs), saved.output, grad, &mut RgLruGrads { x, r, i, lambda, h0 });
        wanted(grads, saved.needs)
    }
}

/// `h_t = a_t h_{t-1} + sqrt(1 - a_t²) σ(i_t) x_t` with `log a_t = -8 log(1 + e^λ) σ(r_t)`: the states of all steps,
/// `[B·T, D]`; the last step's are the start of what follows.
pub fn rg_lru(g: GatedRecurrence) -> Tensor<2> {
    let ([rows, d], [batch, _]) = (g.x.dims(), g.start.dims());
    let sizes = (batch, steps(rows, batch), d);
    if !crate::is_host(&g.x.device()) {
        return composed(g);
    }
    apply(RgLru { sizes }, [erase(g.x), erase(g.r), erase(g.i), g.lambda, erase(g.start)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed(g: GatedRecurrence) -> Tensor<2> {
    let batch = g.start.dims()[0];
    let rate = softplus(g.lambda.unsqueeze::<2>()).mul_scalar(-8.0);
    let log_a = sigmoid(g.r) * rate;
    let root = log_a.clone().mul_scalar(2.0).exp().neg().add_scalar(1.0).sqrt();
    let (a, taken) = (log_a.exp(), root * sigmoid(g.i) * g.x);
    let mut h = g.start;
    let mut outputs = Vec::new();
    for t in 0..a.dims()[0] / batch {
        h = at(&a, batch, t) * h + at(&taken, batch, t);
        outputs.push(h.clone());
    }
    stacked(outputs)
}
