//! Operations of our own on the CPU: a kernel on plain slices becomes a differentiable tensor operation.
//!
//! On the CPU a tensor is taken apart into its slice, the kernel runs, and the result joins the tape with the kernel's
//! own backward pass. On other devices the public functions of this crate compose the same mathematics from the tensor
//! library's operations, which differentiate themselves.

mod several;

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata};
use burn::tensor::{Bytes, DType, Shape, Tensor};

pub(crate) use several::apply_several;
pub use several::{Gradient, HostOps, Outputs};

/// What a forward pass gives.
pub struct Output {
    /// The result's shape.
    pub shape: Vec<usize>,
    /// The result, row-major.
    pub data: Vec<f32>,
    /// Whatever the backward pass needs besides the inputs.
    pub saved: Vec<Vec<f32>>,
}

/// What a backward pass is given.
pub struct Saved<'a> {
    /// The inputs of the forward pass.
    pub inputs: &'a [&'a [f32]],
    /// The result of the forward pass; empty unless [`HostOp::KEEP_OUTPUT`].
    pub output: &'a [f32],
    /// What the forward pass saved; may be taken.
    pub saved: Vec<Vec<f32>>,
    /// Which inputs want a gradient.
    pub needs: &'a [bool],
}

/// An operation of `N` float tensors with a hand-written backward pass.
pub trait HostOp<const N: usize>: Debug + Send + Sync + 'static {
    /// Whether the backward pass reads the result of the forward pass.
    const KEEP_OUTPUT: bool = false;
    /// Whether the backward pass reads the inputs.
    const KEEP_INPUTS: bool = true;

    /// Computes the result; `track` is false where no gradient will be asked for.
    fn forward(&self, inputs: [&[f32]; N], track: bool) -> Output;

    /// The gradient of each input that wants one, from the gradient of the result.
    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; N];
}

type Tape = Autodiff<Flex, NoCheckpointing>;

/// Forgets a tensor's rank, so that inputs of several ranks fit one array.
pub fn erase<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(tensor.into_dispatch())
}

/// Runs an operation; its inputs must live on the CPU.
pub(crate) fn apply<const N: usize, const D: usize>(op: impl HostOp<N>, inputs: [Tensor<1>; N]) -> Tensor<D> {
    if !inputs.iter().any(Tensor::is_autodiff) {
        let inputs = inputs.map(flex);
        let out = op.forward(slices(&inputs), false);
        return Tensor::from_primitive::<Flex>(make(out.shape, out.data));
    }
    let (guards, inputs) = on_tape(inputs);
    Tensor::from_primitive::<Tape>(record(op, guards, inputs))
}

/// The inputs' places on the tape, and their primitives.
fn on_tape<const N: usize>(inputs: [Tensor<1>; N]) -> ([NodeGuard; N], [FlexTensor; N]) {
    let mut guards = Vec::with_capacity(N);
    let inputs = inputs.map(|tensor| {
        let (primitive, guard) = tape(tensor).into_parts();
        guards.push(guard);
        contiguous(primitive)
    });
    let Ok(guards) = <[_; N]>::try_from(guards) else { unreachable!("one guard per input") };
    (guards, inputs)
}

/// Runs the forward pass and puts it on the tape.
fn record<O: HostOp<N>, const N: usize>(op: O, guards: [NodeGuard; N], inputs: [FlexTensor; N]) -> FloatTensor<Tape> {
    match (Step { op: PhantomData::<O> }).prepare::<NoCheckpointing>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let out = op.forward(slices(&inputs), true);
            let output = make(out.shape, out.data);
            let state = State {
                op: Arc::new(op),
                inputs: if O::KEEP_INPUTS { inputs.to_vec() } else { Vec::new() },
                output: O::KEEP_OUTPUT.then(|| output.clone()),
                saved: Arc::new(out.saved),
                shapes: inputs.iter().map(TensorMetadata::shape).collect(),
            };
            prepared.finish(state, output)
        }
        OpsKind::UnTracked(prepared) => {
            let out = op.forward(slices(&inputs), false);
            prepared.finish(make(out.shape, out.data))
        }
    }
}

/// The backward pass on the tape.
struct Step<O> {
    op: PhantomData<O>,
}

impl<O> Debug for Step<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::any::type_name::<O>())
    }
}

/// What the backward pass keeps.
struct State<O> {
    op: Arc<O>,
    inputs: Vec<FlexTensor>,
    output: Option<FlexTensor>,
    saved: Arc<Vec<Vec<f32>>>,
    shapes: Vec<Shape>,
}

impl<O> Clone for State<O> {
    fn clone(&self) -> Self {
        Self {
            op: Arc::clone(&self.op),
            inputs: self.inputs.clone(),
            output: self.output.clone(),
            saved: Arc::clone(&self.saved),
            shapes: self.shapes.clone(),
        }
    }
}

impl<O> Debug for State<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("shapes", &self.shapes).finish_non_exhaustive()
    }
}

impl<O: HostOp<N>, const N: usize> Backward<Flex, N> for Step<O> {
    type State = State<O>;

    fn backward(self, ops: Ops<State<O>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let state = ops.state;
        let needs: Vec<bool> = ops.parents.iter().map(Option::is_some).collect();
        let inputs: Vec<&[f32]> = state.inputs.iter().map(slice).collect();
        let mut saved = Saved {
            inputs: &inputs,
            output: state.output.as_ref().map_or(&[], slice),
            saved: Arc::try_unwrap(state.saved).unwrap_or_else(|shared| (*shared).clone()),
            needs: &needs,
        };
        let results = state.op.backward(&mut saved, slice(&grad));
        for ((parent, result), shape) in ops.parents.iter().zip(results).zip(&state.shapes) {
            if let (Some(parent), Some(data)) = (parent, result) {
                grads.register::<Flex>(parent.id, make(shape.to_vec(), data));
            }
        }
    }
}

pub(crate) fn tape(tensor: Tensor<1>) -> FloatTensor<Tape> {
    let tensor = if tensor.is_autodiff() { tensor } else { Tensor::from_inner(tensor) };
    match tensor.try_into_primitive::<Tape>() {
        Ok(primitive) => primitive,
        Err(e) => unreachable!("a CPU operation got a tensor of another device: {e:?}"),
    }
}

/// The CPU primitive of a tensor without a tape, contiguous.
pub(crate) fn flex(tensor: Tensor<1>) -> FlexTensor {
    match tensor.try_into_primitive::<Flex>() {
        Ok(primitive) => contiguous(primitive),
        Err(e) => unreachable!("a CPU operation got a tensor of another device: {e:?}"),
    }
}

fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

pub(crate) fn slice(tensor: &FlexTensor) -> &[f32] {
    match tensor.as_slice::<f32>() {
        Some(data) => data,
        None => unreachable!("a CPU operation takes contiguous 32-bit floats, not {:?}", tensor.dtype()),
    }
}

fn slices<const N: usize>(tensors: &[FlexTensor; N]) -> [&[f32]; N] {
    tensors.each_ref().map(slice)
}

/// Adopts a vector as a tensor, without a copy.
fn make(shape: Vec<usize>, data: Vec<f32>) -> FlexTensor {
    debug_assert_eq!(shape.iter().product::<usize>(), data.len());
    FlexTensor::new(Bytes::from_elems(data), Layout::contiguous(Shape::from(shape)), DType::F32)
}
