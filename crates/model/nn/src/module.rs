//! What all parts of a model have in common: the weights inside, in a fixed order.

use cupola_artifact::{Result, StateDict};
use cupola_ops::Precision;

use crate::linear::Linear;
use crate::lora::{Lora, LoraConfig};
use crate::param::ParamMut;
use crate::router::Router;

/// Something with weights.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A linear layer inside a block: it can have an adapter, and be quantized.
    Linear(&'a mut Linear),
    /// An output layer, whose rows belong to tokens: no adapter goes there.
    Output(&'a mut Linear),
    /// A router of experts: it stays in 32-bit floats, and no adapter goes there.
    Router(&'a mut Router),
    /// Any other parameter.
    Param(ParamMut<'a>),
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
        for piece in pieces(self) {
            if let Piece::Linear(linear) | Piece::Output(linear) = piece {
                linear.precision = precision;
            }
        }
    }

    /// Gives fresh adapters to the layers that `config` names; gives back how many.
    fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> usize {
        let mut count = 0;
        for linear in linears(self) {
            let module = linear.weight.name().trim_end_matches(".weight").to_string();
            let last = module.rsplit('.').next().unwrap_or_default();
            if config.target_modules.iter().any(|t| t == last) {
                let device = linear.weight.device();
                linear.lora = Some(Lora::new(&module, linear.weight.dims(), config, seed, &device));
                count += 1;
            }
        }
        count
    }

    /// The adapters' weights, named after their layers (`….q_proj.lora_A.weight`).
    fn lora_state(&self) -> StateDict
    where
        Self: Clone,
    {
        let mut copy = self.clone();
        let adapters = linears(&mut copy).filter_map(|l| l.lora.as_ref());
        adapters.flat_map(|l| [&l.a, &l.b]).map(|p| (p.name().to_string(), p.to_host())).collect()
    }

    /// Adds the adapters to the weights and removes them.
    ///
    /// # Errors
    /// When a weight is quantized.
    fn merge_lora(&mut self) -> Result<()> {
        linears(self).try_for_each(Linear::merge_adapter)
    }

    /// Replaces the weights of linear layers, an output layer's of its own included, by int8 numbers.
    fn quantize_int8(&mut self, group: usize) {
        for piece in pieces(self) {
            if let Piece::Linear(linear) | Piece::Output(linear) = piece {
                linear.quantize_int8(group);
            }
        }
    }
}

/// The pieces of a module.
fn pieces<M: Module + ?Sized>(module: &mut M) -> Vec<Piece<'_>> {
    let mut out = vec![];
    module.pieces(&mut out);
    out
}

/// The linear layers inside a module's blocks.
fn linears<M: Module + ?Sized>(module: &mut M) -> impl Iterator<Item = &mut Linear> {
    pieces(module).into_iter().filter_map(|piece| match piece {
        Piece::Linear(linear) => Some(linear),
        _ => None,
    })
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
