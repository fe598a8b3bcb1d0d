//! An embedding, blocks and a last norm: what decoders and encoders have in common.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use cupola_artifact::Result;
use cupola_ops::Precision;

use crate::adapters::{Inserted, PrefixPass, Virtual};
use crate::batch::{Batch, Cache, Step};
use crate::block::{Block, BlockSpec};
use crate::cross_attention::Memory;
use crate::embedding::{Embedding, EmbeddingSpec};
use crate::layer::{Pass, Reach};
use crate::logic::Program;
use crate::module::{Module, Piece, Place};
use crate::norm::{Norm, NormSpec, Stream};
use crate::router::Routing;
use crate::source::Scope;

/// The numbers that make a stack.
#[derive(Clone, Debug, PartialEq)]
pub struct StackSpec {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// The longest sequence.
    pub max_seq_len: usize,
    /// The embedding.
    pub embedding: EmbeddingSpec,
    /// The blocks.
    pub blocks: Vec<BlockSpec>,
    /// The norm after the last block.
    pub norm: Option<NormSpec>,
}

impl StackSpec {
    /// Layers of all blocks.
    pub fn layers(&self) -> usize {
        self.blocks.iter().map(|b| b.layers.len()).sum()
    }
}

/// A stack of blocks.
#[derive(Clone, Debug)]
pub struct Stack {
    spec: StackSpec,
    pub(crate) embedding: Embedding,
    blocks: Vec<Block>,
    /// Which block runs when.
    pub(crate) order: Vec<usize>,
    norm: Option<Norm>,
    /// What stands before the text.
    before: Option<Virtual>,
    /// Whether tokens reach those before them only.
    pub(crate) causal: bool,
    /// What products multiply.
    pub(crate) precision: Precision,
    /// Whether blocks are computed again in the backward pass.
    pub(crate) recompute: bool,
}

/// What a stack is given besides its tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// The tokens' vectors, where they are another stack's: `[V, width]`.
    pub table: Option<Tensor<2>>,
    /// What an encoder has given.
    pub memory: Option<Memory>,
}

/// What a stack gives.
pub struct Hidden {
    /// The last hidden states, `[N, D]`.
    pub last: Tensor<2>,
    /// What layers add to the loss, `[1]` each.
    pub extra: Vec<Tensor<1>>,
    /// What routers decided.
    pub routing: Vec<Routing>,
}

impl Stack {
    /// A stack out of a source.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(scope: &mut Scope<'_>, spec: &StackSpec) -> Result<Self> {
        let embedding = Embedding::build(&mut scope.at("embed"), &spec.embedding, spec.vocab_size, spec.d_model)?;
        let (mut blocks, mut slot) = (Vec::with_capacity(spec.blocks.len()), 0);
        for (i, block) in spec.blocks.iter().enumerate() {
            blocks.push(Block::build(&mut scope.at(format!("layers.{i}")), block, spec.d_model, slot)?);
            slot += block.layers.len();
        }
        let norm = spec.norm.map(|norm| scope.norm("norm", norm, spec.d_model)).transpose()?;
        let order = (0..blocks.len()).collect();
        Ok(Self {
            spec: spec.clone(),
            embedding,
            blocks,
            order,
            norm,
            before: None,
            causal: true,
            precision: Precision::F32,
            recompute: false,
        })
    }

    /// The numbers that make it.
    pub fn spec(&self) -> &StackSpec {
        &self.spec
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.embedding.tokens.value().device()
    }

    /// Nothing remembered yet but what stands before the text.
    pub fn cache(&self) -> Cache {
        let mut cache = Cache::empty(self.spec.layers());
        let Some(before) = &self.before else { return cache };
        let count = before.tokens();
        match before {
            Virtual::Prompt(prompt) => {
                let (ids, positions) = (vec![0; count].into(), (0..count as u32).collect());
                let mut steps = [Step { cache: &mut cache, rows: count }];
                self.step_at(plain(prompt.vectors()), &ids, &positions, &mut steps);
            }
            Virtual::Prefix(prefix) => {
                let numbers = plain(prefix.numbers());
                for slot in prefix.slots() {
                    if let Some([k, v]) = prefix.of_slot(&numbers, *slot) {
                        cache.layers[*slot].keys.extend(k, v);
                    }
                }
                cache.len = count;
            }
        }
        cache.before = count;
        cache
    }

    /// Takes `tokens` out of the longest sequence: they stand before the text.
    pub(crate) fn take_room(&mut self, tokens: usize) {
        self.spec.max_seq_len -= tokens;
    }

    /// A cache that holds what the layers need of an encoder's output, `[Ts, D]`, and no tokens.
    pub(crate) fn remember(&self, memory: &Tensor<2>) -> Cache {
        let mut cache = self.cache();
        self.blocks.iter().for_each(|block| block.remember(memory, &mut cache.layers));
        cache
    }

    fn run(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>, mut seen: impl FnMut(&Stream)) -> Tensor<2> {
        pass.embedded = Some(x.clone());
        let mut stream = Stream::new(x);
        for block in self.order.iter().map(|i| &self.blocks[*i]) {
            seen(&stream);
            match pass.reach {
                // What an encoder has given would lose its gradient.
                Reach::Batch(batch) if self.recompute && pass.memory.is_none() && pass.prefix.is_none() => {
                    stream = Stream::new(block.recomputed(stream.value(), pass, batch));
                }
                _ => block.forward(&mut stream, pass),
            }
        }
        seen(&stream);
        match &self.norm {
            Some(norm) => stream.norm(norm),
            None => stream.value(),
        }
    }

    fn pass<'a, 'b>(&self, positions: &Arc<[u32]>, reach: Reach<'a, 'b>) -> Pass<'a, 'b> {
        let mut pass = Pass::new(Arc::clone(positions), reach, self.precision);
        pass.relative = self.embedding.relative.clone();
        pass
    }

    fn batch(&self, batch: &Batch, given: Given, seen: impl FnMut(&Stream)) -> Hidden {
        let table = given.table.unwrap_or_else(|| self.embedding.tokens.value());
        let vectors = self.embedding.vectors(table, &batch.ids);
        let Some(Virtual::Prompt(prompt)) = &self.before else {
            let memory = given.memory;
            return self.batch_of(vectors, batch, memory, seen);
        };
        let (mut seen, inserted) = (seen, Inserted::new(batch, prompt.tokens(), self.causal));
        let vectors = inserted.insert(prompt.vectors(), vectors);
        let hidden = self.batch_of(vectors, &inserted.batch, given.memory, |stream| {
            seen(&Stream::new(inserted.tokens(stream.value())));
        });
        Hidden { last: inserted.tokens(hidden.last), ..hidden }
    }

    /// The same of the tokens' vectors, `[N, width]`.
    fn batch_of(&self, vectors: Tensor<2>, batch: &Batch, memory: Option<Memory>, seen: impl FnMut(&Stream)) -> Hidden {
        let prefix = match &self.before {
            Some(Virtual::Prefix(prefix)) => Some(PrefixPass::new(prefix, batch, self.causal)),
            _ => None,
        };
        // A text's tokens stand behind the prefix.
        let behind = prefix.as_ref().map_or(0, PrefixPass::tokens);
        let positions = batch.positions.iter().map(|p| p + behind).collect();
        let x = self.embedding.forward_of(vectors, &batch.ids, &positions, batch.types.as_ref());
        let mut pass = self.pass(&positions, Reach::Batch(batch));
        (pass.memory, pass.prefix) = (memory, prefix);
        let last = self.run(x, &mut pass, seen);
        let mut extra = pass.extra;
        extra.extend(crate::router::losses(&pass.routing, batch.real.as_deref()));
        Hidden { last, extra, routing: pass.routing }
    }

    /// The last hidden states of a batch, `[B·T, D]`.
    pub fn hidden(&self, batch: &Batch) -> Hidden {
        self.hidden_given(batch, Given::default())
    }

    /// The same with what is not its own.
    pub(crate) fn hidden_given(&self, batch: &Batch, given: Given) -> Hidden {
        self.batch(batch, given, |_| {})
    }

    /// The embeddings, the input of each further block, and the last hidden states.
    pub fn hidden_states(&self, batch: &Batch) -> Vec<Tensor<2>> {
        self.hidden_states_given(batch, Given::default())
    }

    /// The same with what is not its own.
    pub(crate) fn hidden_states_given(&self, batch: &Batch, given: Given) -> Vec<Tensor<2>> {
        let mut states = Vec::new();
        let last = self.batch(batch, given, |stream| states.push(stream.value())).last;
        states.pop();
        states.push(last);
        states
    }

    /// The same with what the last block gives, before the last norm.
    pub fn streams(&self, batch: &Batch) -> Vec<Tensor<2>> {
        let mut states = Vec::new();
        let last = self.batch(batch, Given::default(), |stream| states.push(stream.value())).last;
        states.push(last);
        states
    }

    /// What its logic layers have learned, and how they read a batch.
    pub fn programs(&self, batch: &Batch) -> Vec<Program> {
        let vectors = self.embedding.vectors(self.embedding.tokens.value(), &batch.ids);
        let x = self.embedding.forward_of(vectors, &batch.ids, &batch.positions, None);
        let mut pass = Pass { programs: Some(vec![]), ..self.pass(&batch.positions, Reach::Batch(batch)) };
        self.run(x, &mut pass, |_| {});
        pass.programs.unwrap_or_default()
    }

    /// The last hidden states of new tokens, `[N, D]`, for several sequences at once; the caches grow by them.
    pub fn step(&self, ids: &Arc<[u32]>, steps: &mut [Step<'_>]) -> Tensor<2> {
        self.step_of(self.embedding.tokens.value(), ids, steps)
    }

    /// The same with given vectors of tokens, `[V, width]`.
    pub(crate) fn step_of(&self, table: Tensor<2>, ids: &Arc<[u32]>, steps: &mut [Step<'_>]) -> Tensor<2> {
        let positions = steps.iter().flat_map(|s| s.cache.len as u32..(s.cache.len + s.rows) as u32).collect();
        self.step_at(self.embedding.vectors(table, ids), ids, &positions, steps)
    }

    /// The same of the tokens' vectors, `[N, width]`, at these positions.
    fn step_at(
        &self,
        vectors: Tensor<2>,
        ids: &Arc<[u32]>,
        positions: &Arc<[u32]>,
        steps: &mut [Step<'_>],
    ) -> Tensor<2> {
        let x = self.embedding.forward_of(vectors, ids, positions, None);
        let mut pass = self.pass(positions, Reach::Caches(steps));
        pass.ids = Arc::clone(ids);
        let hidden = self.run(x, &mut pass, |_| {});
        for step in steps {
            step.cache.len += step.rows;
        }
        hidden
    }
}

impl Module for Stack {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        self.embedding.pieces(out);
        self.blocks.pieces(out);
        self.norm.pieces(out);
        out.push(Piece::Place(Place::Text(&mut self.before)));
    }
}

/// A tensor without its tape.
fn plain(tensor: Tensor<2>) -> Tensor<2> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}
