//! Operations of several results.
//!
//! The tape gives each step one result. So the operation itself is a step whose result is a single number that nobody
//! sees, and each real result is a step of its own that hangs from it: backward, those leave their gradients with the
//! operation, which runs last and finds them all. Nothing of a result's size is copied on the way.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Shape, Tensor};

use super::{NoCheckpointing, Saved, Tape, contiguous, flex, make, on_tape, slice, tape};

/// What a forward pass gives.
pub struct Outputs<const M: usize> {
    /// The results' shapes and numbers, row-major; `None` for the input that was changed in place.
    pub results: [Option<(Vec<usize>, Vec<f32>)>; M],
    /// Whatever the backward pass needs besides inputs and results.
    pub saved: Vec<Vec<f32>>,
}

/// The gradient of one input.
pub enum Gradient {
    /// None is wanted.
    Nothing,
    /// These numbers.
    Own(Vec<f32>),
    /// The same as that of an earlier input; shares its memory.
    Like(usize),
}

/// An operation of `N` float tensors and `M` results with a hand-written backward pass.
pub trait HostOps<const N: usize, const M: usize>: Debug + Send + Sync + 'static {
    /// Which inputs the backward pass reads.
    fn keep_inputs(&self) -> [bool; N];

    /// Which results the backward pass reads.
    fn keep_results(&self) -> [bool; M];

    /// The input whose memory becomes a result, if any; copied first where somebody else holds it.
    const IN_PLACE: Option<usize>;

    /// Computes the results; the input to change is in `place` (else empty), and empty in `inputs`.
    fn forward(&self, inputs: [&[f32]; N], place: &mut [f32]) -> Outputs<M>;

    /// The gradient of each input, from those of the results that have one. `saved.inputs` holds what was
    /// kept: inputs first, then results; the input that was changed is none.
    fn backward(&self, saved: &mut Saved<'_>, grads: [Option<&[f32]>; M]) -> [Gradient; N];
}

/// Runs an operation; its inputs must live on the CPU.
pub(crate) fn apply_several<const N: usize, const M: usize, const D: usize>(
    op: impl HostOps<N, M>,
    inputs: [Tensor<1>; N],
) -> [Tensor<D>; M] {
    if !inputs.iter().any(Tensor::is_autodiff) {
        let inputs = inputs.map(flex);
        return run(&op, inputs).0.map(Tensor::from_primitive::<Flex>);
    }
    let (guards, inputs) = on_tape(inputs);
    record(op, guards, inputs).map(Tensor::from_primitive::<Tape>)
}

/// The results, what was saved, and the inputs, of which the one that was changed is left out.
type Ran<const N: usize, const M: usize> = ([FlexTensor; M], Vec<Vec<f32>>, [Option<FlexTensor>; N]);

fn run<O: HostOps<N, M>, const N: usize, const M: usize>(op: &O, inputs: [FlexTensor; N]) -> Ran<N, M> {
    let mut inputs = inputs.map(Some);
    let mut place = O::IN_PLACE.and_then(|i| inputs[i].take()).map(whole);
    let slices = inputs.each_ref().map(|input| input.as_ref().map_or(&[][..], slice));
    let out = op.forward(slices, place.as_mut().map_or(&mut [], |place| place.storage_mut::<f32>()));
    let results = out.results.map(|result| match (result, &place) {
        (Some((shape, data)), _) => make(shape, data),
        (None, Some(place)) => place.clone(),
        (None, None) => unreachable!("no input is changed in place"),
    });
    (results, out.saved, inputs)
}

/// A tensor that is all of its storage.
fn whole(tensor: FlexTensor) -> FlexTensor {
    let count = tensor.shape().num_elements();
    if tensor.layout().start_offset() == 0 && tensor.storage::<f32>().len() == count {
        return tensor;
    }
    make(tensor.shape().to_vec(), slice(&tensor).to_vec())
}

/// The gradients that the results have left; empty where a result had none.
type Left = Arc<Mutex<Vec<Option<FlexTensor>>>>;

fn record<O: HostOps<N, M>, const N: usize, const M: usize>(
    op: O,
    guards: [NodeGuard; N],
    inputs: [FlexTensor; N],
) -> [FloatTensor<Tape>; M] {
    match (Hub::<O, M> { op: PhantomData }).prepare::<NoCheckpointing>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let shapes = inputs.iter().map(TensorMetadata::shape).collect();
            let (results, saved, inputs) = run(&op, inputs);
            let keep = op.keep_inputs().into_iter().chain(op.keep_results());
            let all = inputs.iter().map(Option::as_ref).chain(results.iter().map(Some));
            let kept = all.zip(keep).filter_map(|(tensor, keep)| tensor.filter(|_| keep).cloned()).collect();
            let left = Left::new(Mutex::new(vec![None; M]));
            let state = HubState { op: Arc::new(op), kept, saved: Arc::new(saved), shapes, left: Arc::clone(&left) };
            let hub: FloatTensor<Tape> = prepared.finish(state, token());
            let mut index = 0;
            results.map(|result| {
                let step = Result.prepare::<NoCheckpointing>([hub.node()]).compute_bound().stateful();
                let OpsKind::Tracked(prepared) = step else { unreachable!("the operation is tracked") };
                index += 1;
                prepared.finish((Arc::clone(&left), index - 1), result)
            })
        }
        OpsKind::UnTracked(_) => run(&op, inputs).0.map(|result| tape(Tensor::from_primitive::<Flex>(result))),
    }
}

/// The number that stands for the operation on the tape.
fn token() -> FlexTensor {
    make(vec![1], vec![0.0])
}

/// One result's backward pass: it leaves its gradient with the operation.
#[derive(Debug)]
struct Result;

impl Backward<Flex, 1> for Result {
    type State = (Left, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let (left, index) = ops.state;
        left.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(grad);
        for parent in ops.parents.iter().flatten() {
            grads.register::<Flex>(parent.id, token());
        }
    }
}

/// The operation's backward pass.
struct Hub<O, const M: usize> {
    op: PhantomData<O>,
}

impl<O, const M: usize> Debug for Hub<O, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::any::type_name::<O>())
    }
}

/// What the backward pass keeps.
struct HubState<O> {
    op: Arc<O>,
    kept: Vec<FlexTensor>,
    saved: Arc<Vec<Vec<f32>>>,
    shapes: Vec<Shape>,
    left: Left,
}

impl<O> Clone for HubState<O> {
    fn clone(&self) -> Self {
        Self {
            op: Arc::clone(&self.op),
            kept: self.kept.clone(),
            saved: Arc::clone(&self.saved),
            shapes: self.shapes.clone(),
            left: Arc::clone(&self.left),
        }
    }
}

impl<O> Debug for HubState<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubState").field("shapes", &self.shapes).finish_non_exhaustive()
    }
}

impl<O: HostOps<N, M>, const N: usize, const M: usize> Backward<Flex, N> for Hub<O, M> {
    type State = HubState<O>;

    fn backward(self, ops: Ops<HubState<O>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let state = ops.state;
        grads.consume::<Flex>(&ops.node);
        let left = std::mem::take(&mut *state.left.lock().unwrap_or_else(PoisonError::into_inner));
        let needs: Vec<bool> = ops.parents.iter().map(Option::is_some).collect();
        let kept: Vec<&[f32]> = state.kept.iter().map(slice).collect();
        let taken = Arc::try_unwrap(state.saved).unwrap_or_else(|shared| (*shared).clone());
        let mut saved = Saved { inputs: &kept, output: &[], saved: taken, needs: &needs };
        let given = std::array::from_fn(|i| left.get(i).and_then(Option::as_ref).map(slice));
        let mut made: Vec<Option<FlexTensor>> = Vec::with_capacity(N);
        for (gradient, shape) in state.op.backward(&mut saved, given).into_iter().zip(&state.shapes) {
            made.push(match gradient {
                Gradient::Nothing => None,
                Gradient::Own(data) => Some(make(shape.to_vec(), data)),
                Gradient::Like(earlier) => made[earlier].clone(),
            });
        }
        for (parent, gradient) in ops.parents.iter().zip(made) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}
