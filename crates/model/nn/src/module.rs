//! What all parts of a model have in common: the weights inside, in a fixed order.

use cupola_artifact::{Result, StateDict};
use cupola_ops::Precision;

use crate::adapters::{AdaLora, Bottleneck, EmbeddingLora, GatedPrompt, Spanning, Virtual};
use crate::linear::Linear;
use crate::norm::Norm;
use crate::param::{Param, ParamMut};
use crate::router::Router;

/// Something with weights.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A linear layer inside a block: it can have an adapter, and be quantized.
    Linear(&'a mut Linear),
    /// Such layers that read one input, with the place of an adapter for all of them.
    Linears(Vec<&'a mut Linear>, &'a mut Option<Spanning>),
    /// An output layer, whose rows belong to tokens.
    Output(&'a mut Linear),
    /// A router of experts: it stays in 32-bit floats, and no adapter goes there.
    Router(&'a mut Router),
    /// A norm.
    Norm(&'a mut Norm),
    /// Any other parameter.
    Param(ParamMut<'a>),
    /// A place for an adapter that does not stand beside linear layers.
    Place(Place<'a>),
}

/// A place for an adapter.
#[derive(Debug)]
pub enum Place<'a> {
    /// Behind a layer of a block, the last or another; the layer's weights precede it.
    Block(&'a mut Option<Bottleneck>, bool),
    /// In an attention layer; its weights precede it.
    Attention(&'a mut Option<GatedPrompt>),
    /// Beside the tokens' vectors, which precede it.
    Embedding(&'a mut Option<EmbeddingLora>),
    /// Before the text.
    Text(&'a mut Option<Virtual>),
}

impl<'a> Place<'a> {
    fn params_mut(self, out: &mut Vec<ParamMut<'a>>) {
        match self {
            Place::Block(adapter, _) => adapter.iter_mut().for_each(|a| a.params_mut(out)),
            Place::Attention(adapter) => adapter.iter_mut().for_each(|a| a.params_mut(out)),
            Place::Embedding(adapter) => adapter.iter_mut().for_each(|a| a.params_mut(out)),
            Place::Text(adapter) => adapter.iter_mut().for_each(|a| a.params_mut(out)),
        }
    }
}

/// A part of a model: it names the weights inside, and what can be done with all of them follows.
pub trait Module {
    /// Its weights, always in the same order.
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>);

    /// All parameters, always in the same order.
    fn params_mut(&mut self) -> Vec<ParamMut<'_>> {
        let mut params = vec![];
        for piece in pieces(self) {
            match piece {
                Piece::Linear(linear) => linear.params_mut(&mut params),
                Piece::Linears(linears, span) => {
                    linears.into_iter().for_each(|linear| linear.params_mut(&mut params));
                    span.iter_mut().for_each(|span| span.adapter.params_mut(&mut params));
                }
                Piece::Norm(norm) => norm.params_mut(&mut params),
                Piece::Place(place) => place.params_mut(&mut params),
                Piece::Output(linear) => {
                    let mut of_output = vec![];
                    linear.params_mut(&mut of_output);
                    params.extend(of_output.into_iter().map(ParamMut::into_table));
                }
                Piece::Router(router) => params.push(ParamMut::Matrix(&mut router.weight)),
                Piece::Param(param) => params.push(param),
            }
        }
        params
    }

    /// The linear layers inside its blocks.
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let of = |piece| match piece {
            Piece::Linear(linear) => vec![linear],
            Piece::Linears(linears, _) => linears,
            _ => vec![],
        };
        pieces(self).into_iter().flat_map(of).collect()
    }

    /// What belongs in a checkpoint, adapters apart.
    fn state(&self) -> StateDict
    where
        Self: Clone,
    {
        let mut out = StateDict::new();
        // A copy shares the numbers.
        for piece in pieces(&mut self.clone()) {
            match piece {
                Piece::Linear(linear) | Piece::Output(linear) => linear.state(&mut out),
                Piece::Linears(linears, _) => linears.into_iter().for_each(|linear| linear.state(&mut out)),
                Piece::Norm(norm) => {
                    let mut params = vec![];
                    norm.params_mut(&mut params);
                    out.extend(params.iter().map(|param| (param.name().to_string(), param.to_host())));
                }
                Piece::Place(_) => {}
                Piece::Router(router) => {
                    let weight = router.weight();
                    out.insert(weight.name().to_string(), weight.to_host());
                    out.extend(router.bias().map(|bias| (bias.name().to_string(), bias.to_host())));
                }
                Piece::Param(param) => {
                    out.insert(param.name().to_string(), param.to_host());
                }
            }
        }
        out
    }

    /// The routers of its mixtures of experts.
    fn routers(&mut self) -> Vec<&mut Router> {
        let routers = pieces(self).into_iter().filter_map(|piece| match piece {
            Piece::Router(router) => Some(router),
            _ => None,
        });
        routers.collect()
    }

    /// Which parameters are trained: `f` says it for each.
    fn set_trainable(&mut self, f: impl Fn(&ParamMut<'_>) -> bool)
    where
        Self: Sized,
    {
        for mut param in self.params_mut() {
            let trainable = f(&param);
            param.set_trainable(trainable);
        }
    }

    /// What the products of dense weights multiply from now on.
    fn set_product_precision(&mut self, precision: Precision) {
        all_linears(self).into_iter().for_each(|linear| linear.precision = precision);
    }

    /// The parameters of adapters, in the order of [`Self::params_mut`].
    fn adapter_params_mut(&mut self) -> Vec<ParamMut<'_>> {
        let mut params = vec![];
        for piece in pieces(self) {
            match piece {
                Piece::Linear(linear) | Piece::Output(linear) => {
                    linear.adapter.iter_mut().for_each(|adapter| adapter.params_mut(&mut params));
                }
                Piece::Linears(linears, span) => {
                    let own = linears.into_iter().filter_map(|linear| linear.adapter.as_mut());
                    own.for_each(|adapter| adapter.params_mut(&mut params));
                    span.iter_mut().for_each(|span| span.adapter.params_mut(&mut params));
                }
                Piece::Place(place) => place.params_mut(&mut params),
                Piece::Router(_) | Piece::Norm(_) | Piece::Param(_) => {}
            }
        }
        params
    }

    /// The adapters whose ranks move during training.
    fn ranked(&mut self) -> Vec<&mut AdaLora> {
        let mut ranked = vec![];
        for piece in pieces(self) {
            match piece {
                Piece::Linear(linear) | Piece::Output(linear) => {
                    ranked.extend(linear.adapter.as_mut().and_then(|adapter| adapter.ranked()));
                }
                Piece::Linears(linears, span) => {
                    ranked.extend(linears.into_iter().filter_map(|l| l.adapter.as_mut()?.ranked()));
                    ranked.extend(span.as_mut().and_then(|span| span.adapter.ranked()));
                }
                _ => {}
            }
        }
        ranked
    }

    /// Merges what stands beside linear layers and the embedding into their weights, and removes it.
    ///
    /// # Errors
    /// A weight that is quantized or factored; nothing is merged then.
    fn merge_adapters(&mut self) -> Result<()> {
        for piece in pieces(self) {
            match piece {
                Piece::Linear(linear) | Piece::Output(linear) if linear.adapter.is_some() => linear.mergeable()?,
                Piece::Linears(linears, span) => {
                    let adapted = linears.iter().filter(|linear| span.is_some() || linear.adapter.is_some());
                    adapted.map(|linear| linear.mergeable()).collect::<Result<()>>()?;
                }
                _ => {}
            }
        }
        let mut table: Option<&mut Param<2>> = None;
        for piece in pieces(self) {
            match piece {
                Piece::Linear(linear) | Piece::Output(linear) => linear.merge_adapter()?,
                Piece::Linears(mut linears, span) => {
                    linears.iter_mut().try_for_each(|linear| linear.merge_adapter())?;
                    if let Some(span) = span.take() {
                        span.merge(&mut linears);
                    }
                }
                Piece::Param(ParamMut::Table(param)) => table = Some(param),
                Piece::Place(Place::Embedding(adapter)) => {
                    if let (Some(adapter), Some(table)) = (adapter.take(), table.take()) {
                        table.set(table.plain() + adapter.delta());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Replaces the weights of linear layers, an output layer's of its own included, by int8 numbers.
    fn quantize_int8(&mut self, group: usize) {
        all_linears(self).into_iter().for_each(|linear| linear.quantize_int8(group));
    }

    /// Puts floats in the place of quantized weights.
    fn dequantize(&mut self) {
        all_linears(self).into_iter().for_each(Linear::dequantize);
    }

    /// Replaces the weights of linear layers inside blocks by four-bit numbers.
    fn quantize_nf4(&mut self) {
        self.linears_mut().into_iter().for_each(Linear::quantize_nf4);
    }
}

/// The pieces of a module.
fn pieces<M: Module + ?Sized>(module: &mut M) -> Vec<Piece<'_>> {
    let mut out = vec![];
    module.pieces(&mut out);
    out
}

/// Its linear layers, output layers included.
fn all_linears<M: Module + ?Sized>(module: &mut M) -> Vec<&mut Linear> {
    let of = |piece| match piece {
        Piece::Linear(linear) | Piece::Output(linear) => vec![linear],
        Piece::Linears(linears, _) => linears,
        _ => vec![],
    };
    pieces(module).into_iter().flat_map(of).collect()
}

impl<M: Module> Module for Option<M> {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        if let Some(inner) = self {
            inner.pieces(out);
        }
    }
}

impl<M: Module> Module for Vec<M> {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        self.iter_mut().for_each(|inner| inner.pieces(out));
    }
}

impl Module for Linear {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.push(Piece::Linear(self));
    }
}
