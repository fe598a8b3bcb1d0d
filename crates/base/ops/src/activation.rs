//! Activations of feed-forward layers, plain and gated.

use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, gelu_approximate, relu, silu};
use cupola_kernels::{activation_backward, activation_forward, gated_backward, gated_forward, room};

use crate::host::{HostOp, Output, Saved, apply, erase};

pub use cupola_kernels::Activation;

#[derive(Debug)]
struct Gated {
    f: Activation,
    shape: [usize; 2],
}

impl HostOp<2> for Gated {
    fn forward(&self, [gate, up]: [&[f32]; 2], _: bool) -> Output {
        let mut y = room(gate.len());
        gated_forward(self.f, gate, up, &mut y);
        Output { shape: self.shape.to_vec(), data: y, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        let (mut dgate, mut dup) = (room(grad.len()), room(grad.len()));
        gated_backward(self.f, saved.inputs[0], saved.inputs[1], grad, &mut dgate, &mut dup);
        [saved.needs[0].then_some(dgate), saved.needs[1].then_some(dup)]
    }
}

#[derive(Debug)]
struct Plain {
    f: Activation,
    shape: [usize; 2],
}

impl HostOp<1> for Plain {
    fn forward(&self, [x]: [&[f32]; 1], _: bool) -> Output {
        let mut y = room(x.len());
        activation_forward(self.f, x, &mut y);
        Output { shape: self.shape.to_vec(), data: y, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        let mut dx = room(grad.len());
        activation_backward(self.f, saved.inputs[0], grad, &mut dx);
        [Some(dx)]
    }
}

/// `f(gate) · up`, element by element, both `[N, F]` (Shazeer 2020: SwiGLU, GEGLU, ReGLU).
pub fn gated(f: Activation, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if !crate::is_host(&gate.device()) {
        return composed(f, gate) * up;
    }
    let shape = gate.dims();
    assert_eq!(shape, up.dims(), "gate and up differ in shape");
    apply(Gated { f, shape }, [erase(gate), erase(up)])
}

/// `f(x)`, element by element, `[N, F]`.
pub fn activation(f: Activation, x: Tensor<2>) -> Tensor<2> {
    if !crate::is_host(&x.device()) {
        return composed(f, x);
    }
    apply(Plain { f, shape: x.dims() }, [erase(x)])
}

/// The curve from the tensor library's operations.
pub(crate) fn composed(f: Activation, x: Tensor<2>) -> Tensor<2> {
    match f {
        Activation::Silu => silu(x),
        Activation::GeluTanh => gelu_approximate(x),
        Activation::GeluErf => gelu(x),
        Activation::Relu => relu(x),
        Activation::ReluSquared => relu(x).powi_scalar(2),
    }
}
