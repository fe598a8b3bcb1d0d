//! The kinds of networks that a family can be.

use burn::tensor::Device;
use cupola_artifact::Result;
use cupola_nn::{Decoder, DecoderSpec, Module, Piece, StackSpec, WeightSource};
use cupola_ops::Precision;

/// The numbers that make a network.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// Predicts the next token.
    Decoder(DecoderSpec),
}

impl Spec {
    /// The stack of blocks that tokens enter.
    pub fn stack(&self) -> &StackSpec {
        match self {
            Spec::Decoder(spec) => &spec.stack,
        }
    }

    /// Whether the output layer is the embedding.
    pub fn tie_embeddings(&self) -> bool {
        match self {
            Spec::Decoder(spec) => spec.tie_embeddings,
        }
    }

    /// Layers that write to a residual stream.
    pub fn writers(&self) -> usize {
        match self {
            Spec::Decoder(spec) => spec.layers(),
        }
    }

    /// Numbers in all weights.
    pub fn parameters(&self) -> u64 {
        match self {
            Spec::Decoder(spec) => spec.parameters(),
        }
    }

    /// The decoder's numbers.
    ///
    /// # Errors
    /// A network of another kind.
    pub fn decoder(&self) -> Result<&DecoderSpec> {
        match self {
            Spec::Decoder(spec) => Ok(spec),
        }
    }

    /// The special tokens: what begins a text, what ends it, padding.
    pub fn special(&self) -> (Option<u32>, &[u32], Option<u32>) {
        match self {
            Spec::Decoder(spec) => (spec.bos, &spec.eos, spec.pad),
        }
    }

    /// The network of these numbers.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(&self, source: &mut dyn WeightSource) -> Result<Network> {
        match self {
            Spec::Decoder(spec) => Ok(Network::Decoder(Decoder::build(spec.clone(), source)?)),
        }
    }
}

/// A network.
#[derive(Clone, Debug)]
pub enum Network {
    /// Predicts the next token.
    Decoder(Decoder),
}

impl Network {
    /// Where it lives.
    pub fn device(&self) -> Device {
        match self {
            Network::Decoder(network) => network.device(),
        }
    }

    /// What the products of dense weights and of attention multiply.
    pub fn precision(&self) -> Precision {
        match self {
            Network::Decoder(network) => network.precision(),
        }
    }

    /// What they multiply from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        match self {
            Network::Decoder(network) => network.set_precision(precision),
        }
    }

    /// Whether blocks are computed again in the backward pass from now on; on the CPU only.
    pub fn set_recompute(&mut self, on: bool) {
        match self {
            Network::Decoder(network) => network.set_recompute(on),
        }
    }
}

impl Module for Network {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        match self {
            Network::Decoder(network) => network.pieces(out),
        }
    }
}
