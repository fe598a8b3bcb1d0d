//! A language model that predicts the next token: a stack of blocks and an output layer.

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use cupola_artifact::Result;
use cupola_ops::{IGNORE, LossForm, Precision};

use crate::batch::{Batch, Cache, Step};
use crate::linear::Linear;
use crate::logic::Program;
use crate::module::{Module, Piece};
use crate::router::Routing;
use crate::source::{Scope, WeightSource};
use crate::spec::DecoderSpec;
use crate::stack::Stack;

/// Something that has a word in what a decoder predicts, such as a memory.
pub trait Readout: Debug + Send + Sync {
    /// The logits `[N, V]` that come of the model's own ones and of the hidden states `[N, D]` they were made from.
    fn mix(&self, hidden: &Tensor<2>, logits: Tensor<2>) -> Tensor<2>;
}

/// Token embedding, blocks, a last norm, and the output layer.
#[derive(Clone, Debug)]
pub struct Decoder {
    spec: DecoderSpec,
    stack: Stack,
    /// Back to the width of the embedding.
    narrow: Option<Linear>,
    head: Option<Linear>,
    readout: Option<Arc<dyn Readout>>,
}

impl Decoder {
    /// Builds a decoder from its numbers and a source of weights.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(spec: DecoderSpec, source: &mut dyn WeightSource) -> Result<Self> {
        let mut angles = vec![];
        let mut scope = Scope::root(source, &mut angles);
        let stack = Stack::build(&mut scope, &spec.stack)?;
        let (d, width) = (spec.stack.d_model, spec.stack.embedding.width);
        let narrow = (width != d).then(|| scope.linear("narrow", [width, d], false)).transpose()?;
        let head = match spec.tie_embeddings {
            true => None,
            false => Some(scope.linear("head", [spec.stack.vocab_size, width], false)?),
        };
        Ok(Self { spec, stack, narrow, head, readout: None })
    }

    /// The numbers that make it.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.stack.device()
    }

    /// Nothing remembered yet.
    pub fn cache(&self) -> Cache {
        self.stack.cache()
    }

    /// The last hidden states of a batch, `[B·T, D]`, or as wide as the embedding where that is narrower.
    pub fn hidden(&self, batch: &Batch) -> Tensor<2> {
        self.narrowed(self.stack.hidden(batch).last)
    }

    /// The embeddings, the input of each further block, and the last hidden states.
    pub fn hidden_states(&self, batch: &Batch) -> Vec<Tensor<2>> {
        let mut states = self.stack.hidden_states(batch);
        if let Some(last) = states.pop() {
            states.push(self.narrowed(last));
        }
        states
    }

    /// The same with what the last block gives, before the last norm.
    pub fn streams(&self, batch: &Batch) -> Vec<Tensor<2>> {
        self.stack.streams(batch)
    }

    /// The last hidden states of new tokens, `[N, D]`, for several sequences at once; the caches grow by them.
    pub fn step(&self, ids: &Arc<[u32]>, steps: &mut [Step<'_>]) -> Tensor<2> {
        self.narrowed(self.stack.step(ids, steps))
    }

    /// Gives something a word in what is predicted from now on; training does not hear it.
    pub fn set_readout(&mut self, readout: Option<Arc<dyn Readout>>) {
        self.readout = readout;
    }

    /// The logits of hidden states, `[N, V]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.readout {
            Some(readout) => readout.mix(&hidden, self.own_logits(hidden.clone())),
            None => self.own_logits(hidden),
        }
    }

    /// The same from the model alone.
    fn own_logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let logits = match &self.head {
            Some(head) => head.forward(hidden),
            None => cupola_ops::linear(hidden, self.stack.embedding.tokens.value(), None, self.stack.precision),
        };
        match self.spec.soft_cap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    fn narrowed(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.narrow {
            Some(narrow) => narrow.forward(hidden),
            None => hidden,
        }
    }

    /// The output layer's weight as floats, `[V, D]`.
    fn head_weight(&self) -> Tensor<2> {
        self.head.as_ref().map_or_else(|| self.stack.embedding.tokens.value(), Linear::whole_weight)
    }

    /// What its logic layers have learned, and how they read a batch.
    pub fn programs(&self, batch: &Batch) -> Vec<Program> {
        self.stack.programs(batch)
    }

    /// What the routers decide for a batch.
    pub fn routing(&self, batch: &Batch) -> Vec<Routing> {
        self.stack.hidden(batch).routing
    }

    /// `sum_i weights[i] · nll_i`, `[1]`: targets and weights `[B·T]`; a target of [`IGNORE`] counts nothing. What the
    /// layers add to the loss is added, times the sum of the weights that count: where a step's weights add up to 1 over
    /// several batches, so do those shares.
    pub fn loss(&self, batch: &Batch, targets: &Arc<[i32]>, weights: &Arc<[f32]>) -> Tensor<1> {
        self.loss_of_form(batch, targets, weights, LossForm::default())
    }

    /// The same with smoothed labels or a penalty on the logits' size, which decoders with capped logits do not have.
    pub fn loss_of_form(&self, batch: &Batch, targets: &Arc<[i32]>, weights: &Arc<[f32]>, form: LossForm) -> Tensor<1> {
        let hidden = self.stack.hidden(batch);
        let (x, precision) = (self.narrowed(hidden.last), self.stack.precision);
        let loss = if self.spec.soft_cap.is_some() {
            let weights = Tensor::from_data(&weights[..], &self.device());
            (nll_of(self.own_logits(x), targets) * weights).sum()
        } else {
            cupola_ops::linear_cross_entropy(x, self.head_weight(), targets, weights, form, precision)
        };
        let share = counted(targets, weights);
        hidden.extra.into_iter().fold(loss, |loss, extra| loss + extra.mul_scalar(share))
    }

    /// The negative log-likelihood of each target, `[B·T]`.
    pub fn nll(&self, batch: &Batch, targets: &Arc<[i32]>) -> Tensor<1> {
        self.nll_of_hidden(self.hidden(batch), targets, 1.0)
    }

    /// The same of hidden states that [`Self::hidden`] gave, with the logits divided by `temperature`.
    pub fn nll_of_hidden(&self, hidden: Tensor<2>, targets: &Arc<[i32]>, temperature: f64) -> Tensor<1> {
        // The fused loss knows neither caps nor readouts.
        if self.spec.soft_cap.is_some() || self.readout.is_some() {
            return nll_of(self.logits(hidden).div_scalar(temperature), targets);
        }
        let hidden = if temperature == 1.0 { hidden } else { hidden.div_scalar(temperature) };
        cupola_ops::linear_nll(hidden, self.head_weight(), targets, self.stack.precision)
    }

    /// What the products of dense weights and of attention multiply.
    pub fn precision(&self) -> Precision {
        self.stack.precision
    }

    /// Whether blocks keep their inputs alone from now on and are computed again in the backward pass (activation
    /// checkpointing): a third more work for a fraction of the memory. On the CPU only.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.stack.recompute = recompute;
    }

    /// What the products of dense weights, and those of attention over a batch, multiply from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        self.stack.precision = precision;
        self.set_product_precision(precision);
    }

    /// Takes `tokens` out of the longest sequence: they stand before the text.
    pub fn take_room(&mut self, tokens: usize) {
        self.spec.stack.max_seq_len -= tokens;
        self.stack.take_room(tokens);
    }

    /// The same weights without a tape, for evaluation and generation; shares the memory.
    #[must_use]
    pub fn frozen(&self) -> Self {
        let mut copy = self.clone();
        copy.set_trainable(|_| false);
        copy.stack.recompute = false;
        copy
    }
}

/// The sum of the weights that count.
fn counted(targets: &[i32], weights: &[f32]) -> f32 {
    let sum: f64 = targets.iter().zip(weights).filter(|(t, _)| **t != IGNORE).map(|(_, w)| f64::from(*w)).sum();
    sum as f32
}

/// The negative log-likelihood of each target where all logits are there, `[N]`.
fn nll_of(logits: Tensor<2>, targets: &Arc<[i32]>) -> Tensor<1> {
    let (rows, device) = (targets.len(), logits.device());
    let at: Vec<i32> = targets.iter().map(|t| if *t == IGNORE { 0 } else { *t }).collect();
    let counts: Vec<f32> = targets.iter().map(|t| f32::from(*t != IGNORE)).collect();
    let at = Tensor::<1, burn::tensor::Int>::from_data(&at[..], &device).reshape([rows, 1]);
    let found: Tensor<1> = log_softmax(logits, 1).gather(1, at).reshape([rows]);
    found.neg() * Tensor::from_data(&counts[..], &device)
}

impl Module for Decoder {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        self.stack.pieces(out);
        self.narrow.pieces(out);
        out.extend(self.head.as_mut().map(Piece::Output));
    }
}
