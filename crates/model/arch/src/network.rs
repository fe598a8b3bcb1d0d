//! The kinds of networks that a family can be.

use burn::tensor::Device;
use cupola_artifact::{Error, Result};
use cupola_nn::{Decoder, DecoderSpec, Encoder, EncoderSpec, Module, Piece, StackSpec, WeightSource};
use cupola_ops::Precision;

/// The numbers that make a network.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// Predicts the next token.
    Decoder(DecoderSpec),
    /// Reads whole texts.
    Encoder(EncoderSpec),
}

impl Spec {
    /// The stack of blocks that tokens enter.
    pub fn stack(&self) -> &StackSpec {
        match self {
            Spec::Decoder(spec) => &spec.stack,
            Spec::Encoder(spec) => &spec.stack,
        }
    }

    /// Whether the output layer is the embedding.
    pub fn tie_embeddings(&self) -> bool {
        match self {
            Spec::Decoder(spec) => spec.tie_embeddings,
            Spec::Encoder(spec) => spec.tie_embeddings(),
        }
    }

    /// Layers that write to a residual stream.
    pub fn writers(&self) -> usize {
        match self {
            Spec::Decoder(spec) => spec.layers(),
            Spec::Encoder(spec) => spec.stack.layers(),
        }
    }

    /// Numbers in all weights.
    pub fn parameters(&self) -> u64 {
        match self {
            Spec::Decoder(spec) => spec.parameters(),
            Spec::Encoder(spec) => spec.parameters(),
        }
    }

    /// The decoder's numbers.
    ///
    /// # Errors
    /// A network of another kind.
    pub fn decoder(&self) -> Result<&DecoderSpec> {
        match self {
            Spec::Decoder(spec) => Ok(spec),
            _ => Err(wrong_kind("a model that predicts the next token")),
        }
    }

    /// The encoder's numbers.
    ///
    /// # Errors
    /// A network of another kind.
    pub fn encoder(&self) -> Result<&EncoderSpec> {
        match self {
            Spec::Encoder(spec) => Ok(spec),
            _ => Err(wrong_kind("an encoder")),
        }
    }

    /// The special tokens: what begins a text, what ends it, padding.
    pub fn special(&self) -> (Option<u32>, &[u32], Option<u32>) {
        match self {
            Spec::Decoder(spec) => (spec.bos, &spec.eos, spec.pad),
            Spec::Encoder(spec) => (spec.bos, &spec.eos, spec.pad),
        }
    }

    /// The network of these numbers.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(&self, source: &mut dyn WeightSource) -> Result<Network> {
        match self {
            Spec::Decoder(spec) => Ok(Network::Decoder(Decoder::build(spec.clone(), source)?)),
            Spec::Encoder(spec) => Ok(Network::Encoder(Encoder::build(spec.clone(), source)?)),
        }
    }
}

/// An error about a model that is of another kind than is asked for.
pub(crate) fn wrong_kind(wanted: &str) -> Error {
    Error::failed(format!("this wants {wanted}, and the model is none"))
        .with_hint("`architectures` and `model_type` in its config.json say what it is")
}

/// A network.
#[derive(Clone, Debug)]
pub enum Network {
    /// Predicts the next token.
    Decoder(Decoder),
    /// Reads whole texts.
    Encoder(Encoder),
}

impl Network {
    /// Where it lives.
    pub fn device(&self) -> Device {
        match self {
            Network::Decoder(network) => network.device(),
            Network::Encoder(network) => network.device(),
        }
    }

    /// What the products of dense weights and of attention multiply.
    pub fn precision(&self) -> Precision {
        match self {
            Network::Decoder(network) => network.precision(),
            Network::Encoder(network) => network.precision(),
        }
    }

    /// What they multiply from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        match self {
            Network::Decoder(network) => network.set_precision(precision),
            Network::Encoder(network) => network.set_precision(precision),
        }
    }

    /// Whether blocks are computed again in the backward pass from now on; on the CPU only.
    pub fn set_recompute(&mut self, on: bool) {
        match self {
            Network::Decoder(network) => network.set_recompute(on),
            Network::Encoder(network) => network.set_recompute(on),
        }
    }
}

impl Module for Network {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        match self {
            Network::Decoder(network) => network.pieces(out),
            Network::Encoder(network) => network.pieces(out),
        }
    }
}
