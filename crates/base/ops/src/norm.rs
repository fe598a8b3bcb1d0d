//! RMSNorm (Zhang and Sennrich 2019, equation 4) and LayerNorm (Ba et al. 2016), alone or of a sum: the residual
//! stream's addition and the norm after it are one pass over memory, forward and backward.

use burn::tensor::Tensor;
use cupola_kernels::{Norm, NormGrads, NormSaved, NormStats, add_norm_forward, norm_backward, norm_forward, room};

use crate::host::{Gradient, HostOp, HostOps, Output, Outputs, Saved, apply, apply_several, erase};

/// What a norm does besides its weights.
#[derive(Clone, Copy, Debug)]
struct Form {
    rows: usize,
    d: usize,
    eps: f32,
    center: bool,
}

/// The gradients of a norm: dx, dw and, where there is a bias, db.
type Grads = [Vec<f32>; 3];

impl Form {
    fn of(x: &Tensor<2>, w: &Tensor<1>, b: Option<&Tensor<1>>, eps: f32, center: bool) -> Self {
        let [rows, d] = x.dims();
        assert_eq!(w.dims(), [d], "the norm's weight does not fit rows of {d}");
        assert!(b.is_none_or(|b| b.dims() == [d]), "the norm's bias does not fit rows of {d}");
        Self { rows, d, eps, center }
    }

    /// The norm of weights `[w]` or `[w, b]`.
    fn norm<'a>(&self, weights: &[&'a [f32]]) -> Norm<'a> {
        Norm { w: weights[0], b: weights.get(1).copied(), eps: self.eps, center: self.center }
    }

    /// Room for mean and rstd.
    fn stats(&self) -> [Vec<f32>; 2] {
        [vec![0.0; if self.center { self.rows } else { 0 }], vec![0.0; self.rows]]
    }

    fn gradients(&self, weights: &[&[f32]], x: &[f32], stats: &[Vec<f32>], dy: &[f32], d_sum: Option<&[f32]>) -> Grads {
        let (mut dx, mut dw, mut db) = (room(x.len()), vec![0.0; self.d], vec![0.0; self.d]);
        let saved = NormSaved { x, mean: &stats[0], rstd: &stats[1] };
        let db_wanted = (weights.len() > 1).then_some(db.as_mut_slice());
        norm_backward(&self.norm(weights), &saved, dy, d_sum, NormGrads { dx: &mut dx, dw: &mut dw, db: db_wanted });
        [dx, dw, db]
    }
}

/// x, w and possibly b.
#[derive(Debug)]
struct NormOp(Form);

impl<const N: usize> HostOp<N> for NormOp {
    fn forward(&self, inputs: [&[f32]; N], _: bool) -> Output {
        let (mut y, [mut mean, mut rstd]) = (room(inputs[0].len()), self.0.stats());
        let stats = NormStats { mean: &mut mean, rstd: &mut rstd };
        norm_forward(&self.0.norm(&inputs[1..]), inputs[0], &mut y, stats);
        Output { shape: vec![self.0.rows, self.0.d], data: y, saved: vec![mean, rstd] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; N] {
        let mut grads = self.0.gradients(&saved.inputs[1..], saved.inputs[0], &saved.saved, grad, None);
        std::array::from_fn(|i| saved.needs[i].then(|| std::mem::take(&mut grads[i])))
    }
}

/// delta, x, w and possibly b; gives `x + delta` and its norm.
#[derive(Debug)]
struct AddNormOp(Form);

impl<const N: usize> HostOps<N, 2> for AddNormOp {
    const IN_PLACE: Option<usize> = Some(0);

    /// The weights, and the sum.
    fn keep_inputs(&self) -> [bool; N] {
        std::array::from_fn(|i| i >= 2)
    }

    fn keep_results(&self) -> [bool; 2] {
        [true, false]
    }

    fn forward(&self, inputs: [&[f32]; N], sum: &mut [f32]) -> Outputs<2> {
        let (mut y, [mut mean, mut rstd]) = (room(sum.len()), self.0.stats());
        let stats = NormStats { mean: &mut mean, rstd: &mut rstd };
        add_norm_forward(&self.0.norm(&inputs[2..]), inputs[1], sum, &mut y, stats);
        Outputs { results: [None, Some((vec![self.0.rows, self.0.d], y))], saved: vec![mean, rstd] }
    }

    fn backward(&self, saved: &mut Saved<'_>, [d_sum, dy]: [Option<&[f32]>; 2]) -> [Gradient; N] {
        let (sum, weights) = (saved.inputs[N - 2], &saved.inputs[..N - 2]);
        let [dx, dw, db] = match dy {
            Some(dy) => self.0.gradients(weights, sum, &saved.saved, dy, d_sum),
            // Only the sum was used.
            None => [d_sum.unwrap_or_default().to_vec(), vec![0.0; self.0.d], vec![0.0; self.0.d]],
        };
        let mut grads = [Gradient::Own(dx), Gradient::Like(0), Gradient::Own(dw), Gradient::Own(db)].into_iter();
        std::array::from_fn(|_| grads.next().unwrap_or(Gradient::Nothing))
    }
}

/// `y = w · x / sqrt(mean(x²) + eps)`, row by row: x `[N, D]`, w `[D]`.
pub fn rms_norm(x: Tensor<2>, w: Tensor<1>, eps: f32) -> Tensor<2> {
    if !crate::is_host(&x.device()) {
        return composed(x, w, eps);
    }
    let form = Form::of(&x, &w, None, eps, false);
    apply(NormOp(form), [erase(x), w])
}

/// `y = w · (x - mean(x)) / sqrt(var(x) + eps) + b`, row by row: x `[N, D]`, w and b `[D]`.
pub fn layer_norm(x: Tensor<2>, w: Tensor<1>, b: Option<Tensor<1>>, eps: f32) -> Tensor<2> {
    if !crate::is_host(&x.device()) {
        return composed_layer(x, w, b, eps);
    }
    let form = Form::of(&x, &w, b.as_ref(), eps, true);
    match b {
        Some(b) => apply(NormOp(form), [erase(x), w, b]),
        None => apply(NormOp(form), [erase(x), w]),
    }
}

/// `sum = x + delta` and `rms_norm(sum)` in one pass: x and delta `[N, D]`, w `[D]`.
pub fn add_rms_norm(x: Tensor<2>, delta: Tensor<2>, w: Tensor<1>, eps: f32) -> [Tensor<2>; 2] {
    assert_eq!(x.dims(), delta.dims(), "x and what is added to it differ in shape");
    if !crate::is_host(&x.device()) {
        let sum = x + delta;
        return [sum.clone(), composed(sum, w, eps)];
    }
    let form = Form::of(&x, &w, None, eps, false);
    apply_several(AddNormOp(form), [erase(delta), erase(x), w])
}

/// `sum = x + delta` and `layer_norm(sum)` in one pass: x and delta `[N, D]`, w and b `[D]`.
pub fn add_layer_norm(x: Tensor<2>, delta: Tensor<2>, w: Tensor<1>, b: Option<Tensor<1>>, eps: f32) -> [Tensor<2>; 2] {
    assert_eq!(x.dims(), delta.dims(), "x and what is added to it differ in shape");
    if !crate::is_host(&x.device()) {
        let sum = x + delta;
        return [sum.clone(), composed_layer(sum, w, b, eps)];
    }
    let form = Form::of(&x, &w, b.as_ref(), eps, true);
    match b {
        Some(b) => apply_several(AddNormOp(form), [erase(delta), erase(x), w, b]),
        None => apply_several(AddNormOp(form), [erase(delta), erase(x), w]),
    }
}

/// RMSNorm from the tensor library's operations.
pub(crate) fn composed(x: Tensor<2>, w: Tensor<1>, eps: f32) -> Tensor<2> {
    let rstd = x.clone().powi_scalar(2).mean_dim(1).add_scalar(eps).sqrt().recip();
    x * rstd * w.unsqueeze::<2>()
}

/// LayerNorm from the tensor library's operations.
pub(crate) fn composed_layer(x: Tensor<2>, w: Tensor<1>, b: Option<Tensor<1>>, eps: f32) -> Tensor<2> {
    let centered = x.clone() - x.mean_dim(1);
    let y = composed(centered, w, eps);
    match b {
        Some(b) => y + b.unsqueeze::<2>(),
        None => y,
    }
}
