//! Whole feed-forward layers.

use burn::tensor::Tensor;
use cupola_kernels::{
    Affine, AffineGrads, FeedForward, FeedForwardKept, FeedForwardWants, Precision, feed_forward as forward_kernel,
    feed_forward_backward, room,
};

use crate::activation::{Activation, activation, gated};
use crate::host::{HostOp, Output, Saved, apply, erase};
use crate::linear::linear;

/// A linear layer's weight `[d_out, d_in]` and bias `[d_out]`.
pub type LinearTensors = (Tensor<2>, Option<Tensor<1>>);

/// `down(f(gate(x)) · up(x))`, or without a gate `down(f(up(x)))`, of `N` tensors: x, then each layer's weight and,
/// where there is one, bias.
#[derive(Clone, Copy, Debug)]
struct Layer {
    f: Activation,
    d_model: usize,
    d_ff: usize,
    /// Whether gate, up and down have a bias; none without a gate.
    biases: [Option<bool>; 3],
    precision: Precision,
}

impl Layer {
    /// Where weight and bias of gate, up and down stand among the inputs.
    fn places(&self) -> [Option<(usize, Option<usize>)>; 3] {
        let mut next = 1;
        self.biases.map(|layer| {
            let at = next;
            layer.map(|bias| {
                next += 1 + usize::from(bias);
                (at, bias.then_some(at + 1))
            })
        })
    }

    fn kernel<'a>(&self, inputs: &[&'a [f32]]) -> FeedForward<'a> {
        let [gate, up, down] = self.places().map(|place| {
            place.map(|(weight, bias)| Affine { weight: inputs[weight], bias: bias.map(|bias| inputs[bias]) })
        });
        let (Some(up), Some(down)) = (up, down) else { unreachable!("a feed-forward layer widens and narrows") };
        FeedForward { f: self.f, d_model: self.d_model, d_ff: self.d_ff, gate, up, down, precision: self.precision }
    }
}

impl<const N: usize> HostOp<N> for Layer {
    fn forward(&self, inputs: [&[f32]; N], track: bool) -> Output {
        let x = inputs[0];
        let mut y = room(x.len());
        let kept = forward_kernel(&self.kernel(&inputs), x, &mut y, track);
        let saved = if track { vec![kept.gate, kept.up] } else { vec![] };
        Output { shape: vec![x.len() / self.d_model, self.d_model], data: y, saved }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; N] {
        let places = self.places();
        let wanted = |place: Option<(usize, Option<usize>)>| {
            place.is_some_and(|(weight, bias)| saved.needs[weight] || bias.is_some_and(|bias| saved.needs[bias]))
        };
        let wants = FeedForwardWants {
            x: saved.needs[0],
            gate: wanted(places[0]),
            up: wanted(places[1]),
            down: wanted(places[2]),
        };
        let mut kept = std::mem::take(&mut saved.saved).into_iter();
        let kept = FeedForwardKept { gate: kept.next().unwrap_or_default(), up: kept.next().unwrap_or_default() };
        let grads = feed_forward_backward(&self.kernel(saved.inputs), saved.inputs[0], &kept, grad, wants);
        let mut out = [const { None }; N];
        out[0] = grads.x;
        for (place, grads) in places.into_iter().zip([grads.gate, grads.up, grads.down]) {
            if let (Some((weight, bias)), Some(AffineGrads { weight: dw, bias: db })) = (place, grads) {
                out[weight] = saved.needs[weight].then_some(dw);
                if let Some(bias) = bias {
                    out[bias] = saved.needs[bias].then_some(db);
                }
            }
        }
        out
    }
}

/// `down(f(gate(x)) · up(x))`, or without a gate `down(f(up(x)))`: x `[N, d_model]`, gate and up `[d_ff, d_model]`, down
/// `[d_model, d_ff]` (Shazeer 2020). On the CPU products multiply in `precision`, and in 16-bit precisions the backward
/// pass keeps what the activation is given in 16 bits.
pub fn feed_forward(
    f: Activation,
    x: Tensor<2>,
    gate: Option<LinearTensors>,
    up: LinearTensors,
    down: LinearTensors,
    precision: Precision,
) -> Tensor<2> {
    if !crate::is_host(&x.device()) {
        return composed(f, x, gate, up, down, precision);
    }
    let [d_ff, d_model] = up.0.dims();
    assert_eq!(x.dims()[1], d_model, "x is {:?}, but the layer takes {d_model}", x.dims());
    let has_bias = |layer: &LinearTensors| layer.1.is_some();
    let biases = [gate.as_ref().map(has_bias), Some(has_bias(&up)), Some(has_bias(&down))];
    let layer = Layer { f, d_model, d_ff, biases, precision };
    let mut inputs = vec![erase(x)];
    for (weight, bias) in gate.into_iter().chain([up, down]) {
        inputs.push(erase(weight));
        inputs.extend(bias);
    }
    match inputs.len() {
        3 => with::<3>(layer, inputs),
        4 => with::<4>(layer, inputs),
        5 => with::<5>(layer, inputs),
        6 => with::<6>(layer, inputs),
        _ => with::<7>(layer, inputs),
    }
}

fn with<const N: usize>(layer: Layer, inputs: Vec<Tensor<1>>) -> Tensor<2> {
    let Ok(inputs) = <[_; N]>::try_from(inputs) else { unreachable!("the inputs were counted") };
    apply::<N, 2>(layer, inputs)
}

/// The same from single layers.
pub(crate) fn composed(
    f: Activation,
    x: Tensor<2>,
    gate: Option<LinearTensors>,
    up: LinearTensors,
    down: LinearTensors,
    precision: Precision,
) -> Tensor<2> {
    let wide = match gate {
        Some(gate) => gated(f, linear(x.clone(), gate.0, gate.1, precision), linear(x, up.0, up.1, precision)),
        None => activation(f, linear(x, up.0, up.1, precision)),
    };
    linear(wide, down.0, down.1, precision)
}
