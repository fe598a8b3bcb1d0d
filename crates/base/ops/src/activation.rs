//! Gated activations.

use burn::tensor::{Tensor, activation::silu};
use cupola_kernels::{room, swiglu_backward, swiglu_forward};

use crate::host::{HostOp, Output, Saved, apply, erase};

#[derive(Debug)]
struct SwiGlu {
    shape: [usize; 2],
}

impl HostOp<2> for SwiGlu {
    fn forward(&self, [gate, up]: [&[f32]; 2], _: bool) -> Output {
        let mut y = room(gate.len());
        swiglu_forward(gate, up, &mut y);
        Output { shape: self.shape.to_vec(), data: y, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        let (mut dgate, mut dup) = (room(grad.len()), room(grad.len()));
        swiglu_backward(saved.inputs[0], saved.inputs[1], grad, &mut dgate, &mut dup);
        [saved.needs[0].then_some(dgate), saved.needs[1].then_some(dup)]
    }
}

/// SwiGLU (Shazeer 2020): `silu(gate) · up`, element by element, both `[N, F]`.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if !crate::is_host(&gate.device()) {
        return composed(gate, up);
    }
    let shape = gate.dims();
    assert_eq!(shape, up.dims(), "gate and up differ in shape");
    apply(SwiGlu { shape }, [erase(gate), erase(up)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    silu(gate) * up
}
