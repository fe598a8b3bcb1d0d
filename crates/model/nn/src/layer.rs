//! What the layers of a block have in common, whatever they compute.

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{LayerCache, Precision};

use crate::adapters::PrefixPass;
use crate::batch::{Batch, Step};
use crate::cross_attention::Memory;
use crate::hybrid::SharedBlock;
use crate::logic::Program;
use crate::module::Module;
use crate::relative::Relative;
use crate::router::Routing;
use crate::source::Scope;

/// A layer of a block, without its norm and its residual connection.
pub trait Layer: Module + Debug + Send + Sync {
    /// x `[N, D]`, gives `[N, D]`.
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2>;

    /// Computes what it needs of an encoder's output, `[Ts, D]`, while a sequence is continued.
    fn remember(&self, _memory: &Tensor<2>, _state: &mut LayerState) {}

    /// A copy that shares the numbers.
    fn boxed(&self) -> Box<dyn Layer>;
}

impl Clone for Box<dyn Layer> {
    fn clone(&self) -> Self {
        self.boxed()
    }
}

impl Module for Box<dyn Layer> {
    fn pieces<'a>(&'a mut self, out: &mut Vec<crate::module::Piece<'a>>) {
        (**self).pieces(out);
    }
}

/// The numbers that make a layer.
pub trait LayerKind {
    /// What it is, in a few words, for people who choose an architecture.
    fn about(&self) -> String;

    /// How it knows where tokens stand, where it does.
    fn positions(&self) -> Option<&'static str> {
        None
    }

    /// What it remembers of a sequence while that is continued, where it does.
    fn remembers(&self) -> Option<&'static str> {
        None
    }

    /// The layer, of a model of width `d_model`.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>>;

    /// Floating-point operations for one token of a sequence of `seq` in the forward pass, besides two for each number in
    /// a matrix.
    fn mixing_flops(&self, _seq: usize) -> f64 {
        0.0
    }

    /// Numbers that a training step keeps of each token for the backward pass.
    fn kept(&self, d_model: usize, precision: Precision) -> usize;

    /// Numbers that live for a moment while `rows` tokens pass.
    fn passing(&self, _rows: usize) -> usize {
        0
    }

    /// Whether it needs nothing but its input, so that its block can be computed again.
    fn stands_alone(&self) -> bool {
        true
    }

    /// Numbers that it remembers of a sequence of `len` tokens while that is continued.
    fn remembered(&self, _d_model: usize, _len: usize) -> usize {
        0
    }

    /// Numbers that it remembers besides of an encoder's output of `len` tokens.
    fn remembered_of_memory(&self, _len: usize) -> usize {
        0
    }
}

/// What a layer remembers of a sequence.
#[derive(Clone, Debug, Default)]
pub struct LayerState {
    /// Keys and values.
    pub keys: LayerCache,
    /// States of recurrences, each as its layer wants it; empty before the first token.
    pub numbers: Vec<Vec<f32>>,
    /// Keys and values of an encoder's output, `[Ts, H·dh]` each.
    pub memory: Option<[Tensor<2>; 2]>,
}

impl LayerState {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let of_memory: usize = self.memory.iter().flatten().map(|t| t.dims().iter().product::<usize>()).sum();
        let numbers = self.numbers.iter().map(Vec::len).sum::<usize>() + of_memory;
        self.keys.bytes() + numbers * size_of::<f32>()
    }
}

/// What the layers of a forward pass reach: the batch itself, or what is remembered of each sequence.
pub enum Reach<'a, 'b> {
    /// Whole sequences.
    Batch(&'a Batch),
    /// The next tokens of sequences.
    Caches(&'a mut [Step<'b>]),
}

/// What all layers of one forward pass share.
pub struct Pass<'a, 'b> {
    /// Positions, `[N]`.
    pub positions: Arc<[u32]>,
    /// What layers reach.
    pub reach: Reach<'a, 'b>,
    /// What attention's products multiply.
    pub precision: Precision,
    /// What an encoder has given, where whole sequences pass.
    pub memory: Option<Memory>,
    /// Keys and values before the texts.
    pub(crate) prefix: Option<PrefixPass>,
    /// The stack's relative positions.
    pub(crate) relative: Option<Relative>,
    /// The new tokens' ids, `[N]`, where sequences are continued; a batch has its own.
    pub ids: Arc<[u32]>,
    /// Which layer of the whole model runs.
    pub slot: usize,
    /// What layers add to the loss, `[1]` each, weighted already.
    pub extra: Vec<Tensor<1>>,
    /// The embeddings, `[N, D]`; none where a block is computed again.
    pub embedded: Option<Tensor<2>>,
    /// Blocks that several layers share, from those that own them.
    pub(crate) shared: Vec<SharedBlock>,
    /// What the routers of a batch decided.
    pub routing: Vec<Routing>,
    /// What logic layers have learned; none where nobody asks.
    pub(crate) programs: Option<Vec<Program>>,
}

impl<'a, 'b> Pass<'a, 'b> {
    /// A pass that knows nothing but this.
    pub(crate) fn new(positions: Arc<[u32]>, reach: Reach<'a, 'b>, precision: Precision) -> Self {
        let (memory, relative, embedded) = (None, None, None);
        let (extra, shared, routing, ids) = (vec![], vec![], vec![], Arc::new([]));
        Self {
            positions,
            reach,
            precision,
            memory,
            prefix: None,
            relative,
            ids,
            slot: 0,
            extra,
            embedded,
            shared,
            routing,
            programs: None,
        }
    }
}

impl Pass<'_, '_> {
    /// The tokens' highest position plus one.
    pub fn positions_end(&self) -> usize {
        self.positions.iter().max().map_or(0, |p| *p as usize + 1)
    }

    /// What the running layer remembers of each sequence, and how many rows are that sequence's; empty in a batch.
    pub fn states(&mut self) -> impl Iterator<Item = (&mut LayerState, usize)> {
        let slot = self.slot;
        let steps: &mut [Step<'_>] = match &mut self.reach {
            Reach::Caches(steps) => steps,
            Reach::Batch(_) => &mut [],
        };
        steps.iter_mut().map(move |s| (&mut s.cache.layers[slot], s.rows))
    }

    /// The same with how many tokens of padding precede each sequence.
    pub(crate) fn padded_states(&mut self) -> impl Iterator<Item = (&mut LayerState, usize, usize)> {
        let slot = self.slot;
        let steps: &mut [Step<'_>] = match &mut self.reach {
            Reach::Caches(steps) => steps,
            Reach::Batch(_) => &mut [],
        };
        steps.iter_mut().map(move |s| (&mut s.cache.layers[slot], s.rows, s.cache.padding))
    }
}
