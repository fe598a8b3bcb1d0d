//! A block of a model: layers, each with its norm, beside the residual stream.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::Part;

use crate::adapters::Bottleneck;
use crate::attention::AttentionSpec;
use crate::batch::Batch;
use crate::experts::ExpertsSpec;
use crate::feed_forward::FeedForwardSpec;
use crate::layer::{Layer, LayerState, Pass, Reach};
use crate::layers::LayerSpec;
use crate::module::{Module, Piece, Place};
use crate::norm::{Norm, NormSpec, Stream};
use crate::param::ParamMut;
use crate::relative::Relative;
use crate::router::Routing;
use crate::source::Scope;

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `x += f(norm(x))` for each layer.
    PreNorm,
    /// The same, but the first layer has no norm: the embedding's stands right before it (ModernBERT).
    PreNormButFirst,
    /// `x = norm(x + f(x))` for each layer.
    PostNorm,
    /// `x = n + f(n)` with `n = norm(x)` for each layer (BLOOM, as an option).
    NormedResidual,
    /// `x += norm'(f(norm(x)))` for each layer (Gemma 2).
    Sandwich,
    /// `x += f(x)` for each layer, which has its own norms (Zamba 2).
    Residual,
    /// `x = f(x)` for each layer: no norm and no residual stream.
    Bare,
    /// `x += Σ f(norm(x))`, each layer with a norm of its own (GPT-NeoX).
    Parallel,
    /// `x += Σ f(norm(x))`, one norm for all layers (Falcon).
    ParallelShared,
}

/// The numbers that make a block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSpec {
    /// Where the norms stand.
    pub layout: Layout,
    /// The norms.
    pub norm: NormSpec,
    /// The layers with their names.
    pub layers: Vec<(&'static str, LayerSpec)>,
}

impl BlockSpec {
    /// Its attention layer, if it has one.
    pub fn attention(&self) -> Option<&AttentionSpec> {
        self.layers.iter().find_map(|(_, layer)| match layer {
            LayerSpec::Attention(attention) => Some(attention),
            _ => None,
        })
    }

    /// Its mixture of experts, if it has one.
    pub fn experts(&self) -> Option<&ExpertsSpec> {
        self.layers.iter().find_map(|(_, layer)| match layer {
            LayerSpec::Experts(experts) => Some(experts),
            _ => None,
        })
    }

    /// Its feed-forward layer, if it has one.
    pub fn feed_forward(&self) -> Option<&FeedForwardSpec> {
        self.layers.iter().find_map(|(_, layer)| match layer {
            LayerSpec::FeedForward(ffn) => Some(ffn),
            _ => None,
        })
    }
}

/// A layer with its norms.
#[derive(Clone, Debug)]
struct NormedLayer {
    before: Option<Norm>,
    layer: Box<dyn Layer>,
    after: Option<Norm>,
    /// Behind the layer, before the norm.
    adapter: Option<Bottleneck>,
}

impl NormedLayer {
    /// What the layer gives, and what an adapter makes of that.
    fn adapted(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let y = self.layer.forward(x, pass);
        match &self.adapter {
            Some(adapter) => adapter.forward(y),
            None => y,
        }
    }
}

/// A block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    layout: Layout,
    parts: Vec<NormedLayer>,
    /// The first of its layers' numbers in the whole model.
    slot: usize,
}

impl Block {
    /// A block out of a source.
    pub(crate) fn build(scope: &mut Scope<'_>, spec: &BlockSpec, d_model: usize, slot: usize) -> Result<Self> {
        let parts = spec.layers.iter().enumerate().map(|(i, (name, layer))| {
            let mut norm = |wanted: bool, part: &str| {
                wanted.then(|| scope.norm(&format!("{name}{part}"), spec.norm, d_model)).transpose()
            };
            let has_norm = match spec.layout {
                Layout::PostNorm | Layout::Bare | Layout::Residual => false,
                Layout::PreNormButFirst => i > 0,
                Layout::ParallelShared => i == 0,
                _ => true,
            };
            let before = norm(has_norm, "_norm")?;
            let after = match spec.layout {
                Layout::PostNorm => norm(true, "_norm")?,
                Layout::Sandwich => norm(true, "_post_norm")?,
                _ => None,
            };
            let layer = layer.kind().build(&mut scope.at(name), d_model)?;
            Ok(NormedLayer { before, layer, after, adapter: None })
        });
        Ok(Self { layout: spec.layout, parts: parts.collect::<Result<_>>()?, slot })
    }

    pub(crate) fn forward(&self, stream: &mut Stream, pass: &mut Pass<'_, '_>) {
        match self.layout {
            Layout::Parallel | Layout::ParallelShared => self.side_by_side(stream, pass),
            _ => self.in_turn(stream, pass),
        }
    }

    fn in_turn(&self, stream: &mut Stream, pass: &mut Pass<'_, '_>) {
        for (i, part) in self.parts.iter().enumerate() {
            pass.slot = self.slot + i;
            let x = match &part.before {
                Some(norm) => stream.norm(norm),
                None => stream.value(),
            };
            if self.layout == Layout::NormedResidual {
                *stream = Stream::new(x.clone());
            }
            let y = part.adapted(x, pass);
            match (&part.after, self.layout) {
                (Some(norm), Layout::PostNorm) => {
                    let [_, y] = norm.of_sum(stream.value(), y);
                    *stream = Stream::new(y);
                }
                (Some(norm), _) => stream.add(norm.forward(y)),
                (None, Layout::Bare) => *stream = Stream::new(y),
                (None, _) => stream.add(y),
            }
        }
    }

    fn side_by_side(&self, stream: &mut Stream, pass: &mut Pass<'_, '_>) {
        let (mut normed, mut sum): (Option<Tensor<2>>, Option<Tensor<2>>) = (None, None);
        for (i, part) in self.parts.iter().enumerate() {
            pass.slot = self.slot + i;
            let x = match (&part.before, &normed) {
                (None, Some(shared)) => shared.clone(),
                (Some(norm), _) => stream.norm(norm),
                (None, None) => stream.value(),
            };
            normed = Some(x.clone());
            let y = part.adapted(x, pass);
            sum = Some(sum.map_or_else(|| y.clone(), |sum| sum + y.clone()));
        }
        if let Some(sum) = sum {
            stream.add(sum);
        }
    }

    /// [`Self::forward`] of x `[N, D]` that keeps `x` alone; the backward pass computes the block again.
    pub(crate) fn recomputed(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>, batch: &Batch) -> Tensor<2> {
        let mut plain = self.clone();
        let mut parameters = plain.params_mut();
        let trainable: Vec<bool> = parameters.iter().map(ParamMut::trainable).collect();
        let mut leaves: Vec<Tensor<1>> = parameters.iter().filter_map(ParamMut::leaf).collect();
        parameters.iter_mut().for_each(|p| p.set_trainable(false));
        drop(parameters);
        // The stack's relative positions are a parameter of each of its blocks.
        let (relative, learns) = (pass.relative.clone(), pass.relative.as_ref().is_some_and(|r| r.table.trainable()));
        leaves.extend(relative.iter().filter(|_| learns).map(|r| cupola_ops::unranked(r.table.value())));
        let relative = relative.map(|mut relative| {
            relative.table.set_trainable(false);
            relative
        });
        let (positions, batch, precision) = (Arc::clone(&pass.positions), batch.clone(), pass.precision);
        let run = move |block: &Block, relative: Option<Relative>, x: Tensor<2>| {
            let (positions, reach) = (Arc::clone(&positions), Reach::Batch(&batch));
            let mut pass = Pass::new(positions, reach, precision);
            pass.relative = relative;
            let mut stream = Stream::new(x);
            block.forward(&mut stream, &mut pass);
            Results { stream: stream.value(), routing: pass.routing, extra: pass.extra }
        };
        let inner = if x.is_autodiff() { x.clone().inner() } else { x.clone() };
        let plan = run(&plain, relative.clone(), inner);
        let part: Arc<Part> = Arc::new(move |x| {
            let mut fresh = plain.clone();
            let mut parameters = fresh.params_mut();
            parameters.iter_mut().zip(&trainable).for_each(|(p, trainable)| p.set_trainable(*trainable));
            let mut leaves: Vec<Tensor<1>> = parameters.iter().filter_map(ParamMut::leaf).collect();
            drop(parameters);
            let mut relative = relative.clone();
            if let Some(relative) = relative.as_mut().filter(|_| learns) {
                relative.table.set_trainable(true);
                leaves.push(cupola_ops::unranked(relative.table.value()));
            }
            (run(&fresh, relative, x).joined(), leaves)
        });
        let Results { stream, routing, extra } = plan.split(cupola_ops::recompute(x, plan.joined(), &leaves, part));
        pass.routing.extend(routing);
        pass.extra.extend(extra);
        stream
    }
}

/// All that a block gives and a loss may want the gradient of.
struct Results {
    /// `[N, D]`.
    stream: Tensor<2>,
    /// `[N, E]` each.
    routing: Vec<Routing>,
    /// `[1]` each.
    extra: Vec<Tensor<1>>,
}

impl Results {
    /// All of it side by side; a single number is a column's first.
    fn joined(&self) -> Tensor<2> {
        let rows = self.stream.dims()[0];
        if self.routing.is_empty() && self.extra.is_empty() {
            return self.stream.clone();
        }
        let below = Tensor::zeros([rows - 1, 1], &self.stream.device());
        let extra = self.extra.iter().map(|e| Tensor::cat(vec![e.clone().reshape([1, 1]), below.clone()], 0));
        let logits = self.routing.iter().map(|r| r.logits.clone());
        Tensor::cat([self.stream.clone()].into_iter().chain(logits).chain(extra).collect(), 1)
    }

    /// The parts of what another [`Self::joined`] of the same shape gave.
    fn split(&self, joined: Tensor<2>) -> Self {
        let mut at = 0;
        let mut next = |like: usize| {
            at += like;
            joined.clone().narrow(1, at - like, like)
        };
        let stream = next(self.stream.dims()[1]);
        let routing = self.routing.iter().map(|r| Routing { logits: next(r.logits.dims()[1]), ..r.clone() }).collect();
        let extra = self.extra.iter().map(|_| next(1).narrow(0, 0, 1).reshape([1])).collect();
        Self { stream, routing, extra }
    }
}

impl Block {
    /// Lets its layers compute what they need of an encoder's output, `[Ts, D]`.
    pub(crate) fn remember(&self, memory: &Tensor<2>, states: &mut [LayerState]) {
        for (part, state) in self.parts.iter().zip(&mut states[self.slot..]) {
            part.layer.remember(memory, state);
        }
    }
}

impl Module for Block {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        let last = self.parts.len().saturating_sub(1);
        for (i, part) in self.parts.iter_mut().enumerate() {
            part.before.pieces(out);
            part.layer.pieces(out);
            out.push(Piece::Place(Place::Block(&mut part.adapter, i == last)));
            part.after.pieces(out);
        }
    }
}
