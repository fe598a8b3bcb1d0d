//! Activation checkpointing (Chen et al. 2016): a part of a model keeps its input alone and is computed again when its
//! gradients are wanted.

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;

use crate::host::{erase, flex, tape};

/// A part of a model: from its input to its result and its parameters, fresh leaves of a tape in an order that does not
/// change. It must give the same numbers each time: dropout needs a seed.
pub type Part = dyn Fn(Tensor<2>) -> (Tensor<2>, Vec<Tensor<1>>) + Send + Sync;

#[derive(Debug)]
struct Recompute;

#[derive(Clone)]
struct State {
    part: Arc<Part>,
    input: FlexTensor,
    parameters: Vec<burn::backend::autodiff::NodeId>,
}

impl Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("parameters", &self.parameters.len()).finish_non_exhaustive()
    }
}

impl Backward<Flex, 1> for Recompute {
    type State = State;

    fn backward(self, ops: Ops<State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let slope: Tensor<2> = Tensor::from_primitive::<Flex>(grads.consume::<Flex>(&ops.node));
        let State { part, input, parameters } = ops.state;
        let leaf = Tensor::<2>::from_inner(Tensor::from_primitive::<Flex>(input)).require_grad();
        let (result, leaves) = part(leaf.clone());
        let mut inner = (result * Tensor::from_inner(slope)).sum().backward();
        if let ([Some(parent)], Some(gradient)) = (&ops.parents, leaf.grad_remove(&mut inner)) {
            grads.register::<Flex>(parent.id, flex(erase(gradient)));
        }
        for (id, leaf) in parameters.into_iter().zip(leaves) {
            if let Some(gradient) = leaf.grad_remove(&mut inner) {
                grads.register::<Flex>(id, flex(gradient));
            }
        }
    }
}

/// Runs `part` on `x [N, D]` without keeping what it computes on the way; `result` is what it gives, `[N, D]`, without
/// a tape, and `parameters` are its parameters on the tape, in the order of `part`'s.
pub fn recompute(x: Tensor<2>, result: Tensor<2>, parameters: &[Tensor<1>], part: Arc<Part>) -> Tensor<2> {
    // A leaf of its own where the input has no gradient: the parameters' would be lost.
    let x = if x.is_autodiff() { x } else { Tensor::from_inner(x).require_grad() };
    let parameters = parameters.iter().filter(|p| p.is_autodiff()).map(|p| tape(p.clone()).id()).collect();
    let (input, guard) = tape(erase(x)).into_parts();
    let result = flex(erase(result));
    match Recompute.prepare::<NoCheckpointing>([guard]).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let state = State { part, input, parameters };
            Tensor::from_primitive::<Autodiff<Flex>>(prepared.finish(state, result))
        }
        OpsKind::UnTracked(prepared) => Tensor::from_primitive::<Autodiff<Flex>>(prepared.finish(result)),
    }
}
