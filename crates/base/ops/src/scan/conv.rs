//! Causal convolution of each channel over time, as in front of Mamba's scan.

use burn::tensor::Tensor;
use cupola_kernels::{CausalConv, ConvGrads, causal_conv_backward, causal_conv_forward};

use super::{steps, wanted};
use crate::host::{HostOp, Output, Saved, apply, erase, flex, slice};

#[derive(Debug)]
struct Conv {
    /// `(B, T, D, K)`.
    sizes: (usize, usize, usize, usize),
}

impl Conv {
    fn of(x: &Tensor<2>, w: &Tensor<2>, batch: usize) -> Self {
        let ([rows, d], [channels, k]) = (x.dims(), w.dims());
        assert_eq!(d, channels, "x has rows of {d}, the kernel is [{channels}, {k}]");
        Conv { sizes: (batch, steps(rows, batch), d, k) }
    }

    fn problem<'a>(&self, [x, w, bias]: [&'a [f32]; 3]) -> CausalConv<'a> {
        CausalConv { sizes: self.sizes, x, w, bias }
    }
}

impl HostOp<3> for Conv {
    fn forward(&self, inputs: [&[f32]; 3], _: bool) -> Output {
        let ((batch, seq, d, k), mut y) = (self.sizes, vec![0.0; inputs[0].len()]);
        causal_conv_forward(&self.problem(inputs), &mut vec![0.0; batch * (k - 1) * d], &mut y);
        Output { shape: vec![batch * seq, d], data: y, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 3] {
        let inputs = [saved.inputs[0], saved.inputs[1], saved.inputs[2]];
        let mut grads = inputs.map(|x| vec![0.0; x.len()]);
        let [x, w, bias] = &mut grads;
        causal_conv_backward(&self.problem(inputs), grad, &mut ConvGrads { x, w, bias });
        wanted(grads, saved.needs)
    }
}

/// `y_t = bias + sum over k of w[k] x_{t - K + 1 + k}` for each channel, from a past of zeros: x `[B·T, D]`, w `[D, K]`,
/// bias `[D]`.
pub fn causal_conv(x: Tensor<2>, w: Tensor<2>, bias: Tensor<1>, batch: usize) -> Tensor<2> {
    let conv = Conv::of(&x, &w, batch);
    if !crate::is_host(&x.device()) {
        let (_, _, d, k) = conv.sizes;
        let before = Tensor::zeros([batch, k - 1, d], &x.device());
        return composed(x, w, bias, before).0;
    }
    apply(conv, [erase(x), erase(w), bias])
}

/// [`causal_conv`] after the inputs `before` `[B, K - 1, D]`, which become the last ones. Without a tape.
pub fn causal_conv_from(x: Tensor<2>, w: Tensor<2>, bias: Tensor<1>, before: &mut [f32], batch: usize) -> Tensor<2> {
    let (conv, device, shape) = (Conv::of(&x, &w, batch), x.device(), x.dims());
    let (_, _, d, k) = conv.sizes;
    if !crate::is_host(&device) {
        let (y, last) = composed(x, w, bias, crate::from_vec(before.to_vec(), [batch, k - 1, d], &device));
        before.copy_from_slice(&crate::into_vec(last));
        return y;
    }
    let inputs = [erase(x), erase(w), bias].map(flex);
    let mut y = vec![0.0; shape[0] * d];
    causal_conv_forward(&conv.problem(inputs.each_ref().map(slice)), before, &mut y);
    crate::from_vec(y, shape, &device)
}

/// The same from the tensor library's operations; gives the last inputs too.
pub(crate) fn composed(x: Tensor<2>, w: Tensor<2>, bias: Tensor<1>, before: Tensor<3>) -> (Tensor<2>, Tensor<3>) {
    let ([rows, d], [_, k], batch) = (x.dims(), w.dims(), before.dims()[0]);
    let seq = rows / batch;
    let x: Tensor<3> = x.reshape([batch, seq, d]);
    let all = if k > 1 { Tensor::cat(vec![before, x], 1) } else { x };
    let mut y: Tensor<3> = bias.reshape([1, 1, d]).expand([batch, seq, d]);
    for j in 0..k {
        let weight: Tensor<3> = w.clone().narrow(1, j, 1).reshape([1, 1, d]);
        y = y + all.clone().narrow(1, j, seq) * weight;
    }
    (y.reshape([rows, d]), all.slice([0..batch, seq..seq + k - 1]))
}
