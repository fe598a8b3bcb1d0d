//! The kinds of networks that a family can be.

use burn::tensor::Device;
use cupola_artifact::{Error, Result};
use cupola_nn::{
    Decoder, DecoderSpec, Encoder, EncoderDecoder, EncoderDecoderSpec, EncoderSpec, Module, Piece, StackSpec,
    WeightSource,
};
use cupola_ops::Precision;

/// The numbers that make a network.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// Predicts the next token.
    Decoder(DecoderSpec),
    /// Reads whole texts.
    Encoder(EncoderSpec),
    /// Reads a text whole and writes another.
    EncoderDecoder(EncoderDecoderSpec),
}

/// A network.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it, and it is hardly moved")]
pub enum Network {
    /// Predicts the next token.
    Decoder(Decoder),
    /// Reads whole texts.
    Encoder(Encoder),
    /// Reads a text whole and writes another.
    EncoderDecoder(EncoderDecoder),
}

/// The same said of whichever kind it is.
macro_rules! each {
    ($kind:ident, $value:expr, $inner:ident => $body:expr) => {
        match $value {
            $kind::Decoder($inner) => $body,
            $kind::Encoder($inner) => $body,
            $kind::EncoderDecoder($inner) => $body,
        }
    };
}

/// An error about a model that is of another kind than is asked for.
pub(crate) fn wrong_kind(wanted: &str, found: &str) -> Error {
    Error::failed(format!("this wants {wanted}, and the model is {found}"))
        .with_hint("`architectures` and `model_type` in its config.json say what it is")
}

/// What errors call decoders.
pub(crate) const DECODER: &str = "a model that continues texts (a decoder)";

impl Spec {
    /// The stack of blocks that tokens enter.
    pub fn stack(&self) -> &StackSpec {
        match self {
            Spec::Decoder(spec) => &spec.stack,
            Spec::Encoder(spec) => &spec.stack,
            Spec::EncoderDecoder(spec) => &spec.encoder,
        }
    }

    /// Whether the output layer is the embedding.
    pub fn tie_embeddings(&self) -> bool {
        match self {
            Spec::Decoder(spec) => spec.tie_embeddings,
            Spec::Encoder(spec) => spec.tie_embeddings(),
            Spec::EncoderDecoder(spec) => spec.tie_embeddings,
        }
    }

    /// Layers that write to a residual stream.
    pub fn writers(&self) -> usize {
        match self {
            Spec::Decoder(spec) => spec.layers(),
            Spec::Encoder(spec) => spec.stack.layers(),
            Spec::EncoderDecoder(spec) => spec.encoder.layers() + spec.decoder.layers(),
        }
    }

    /// Numbers in all weights.
    pub fn parameters(&self) -> u64 {
        each!(Spec, self, spec => spec.parameters())
    }

    /// Numbers in the matrices that each token passes through.
    pub fn matrix_parameters(&self) -> u64 {
        each!(Spec, self, spec => spec.matrix_parameters())
    }

    /// Floating-point operations of training on one token of a sequence of `seq`.
    pub fn train_flops_per_token(&self, seq: usize) -> f64 {
        each!(Spec, self, spec => spec.train_flops_per_token(seq))
    }

    /// Bytes that a training step on the CPU takes for `rows` tokens besides parameters, gradients and optimizer state.
    pub fn activation_bytes(&self, rows: usize, recompute: bool, precision: Precision) -> f64 {
        each!(Spec, self, spec => spec.activation_bytes(rows, recompute, precision))
    }

    /// What kind it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Spec::Decoder(_) => DECODER,
            Spec::Encoder(_) => "an encoder",
            Spec::EncoderDecoder(_) => "an encoder-decoder",
        }
    }

    /// The decoder's numbers.
    ///
    /// # Errors
    /// A network of another kind.
    pub fn decoder(&self) -> Result<&DecoderSpec> {
        match self {
            Spec::Decoder(spec) => Ok(spec),
            other => Err(wrong_kind(DECODER, other.kind())),
        }
    }

    /// The encoder's numbers.
    ///
    /// # Errors
    /// A network of another kind.
    pub fn encoder(&self) -> Result<&EncoderSpec> {
        match self {
            Spec::Encoder(spec) => Ok(spec),
            other => Err(wrong_kind("an encoder", other.kind())),
        }
    }

    /// The encoder-decoder's numbers.
    ///
    /// # Errors
    /// A network of another kind.
    pub fn encoder_decoder(&self) -> Result<&EncoderDecoderSpec> {
        match self {
            Spec::EncoderDecoder(spec) => Ok(spec),
            other => Err(wrong_kind("an encoder-decoder", other.kind())),
        }
    }

    /// The token that a decoder's text begins with, where an encoder reads what comes before.
    pub fn start(&self) -> Option<u32> {
        match self {
            Spec::EncoderDecoder(spec) => Some(spec.start),
            _ => None,
        }
    }

    /// The special tokens: what begins a text, what ends it, padding.
    pub fn special(&self) -> (Option<u32>, &[u32], Option<u32>) {
        each!(Spec, self, spec => (spec.bos, &spec.eos, spec.pad))
    }

    /// The network of these numbers.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(&self, source: &mut dyn WeightSource) -> Result<Network> {
        Ok(match self {
            Spec::Decoder(spec) => Network::Decoder(Decoder::build(spec.clone(), source)?),
            Spec::Encoder(spec) => Network::Encoder(Encoder::build(spec.clone(), source)?),
            Spec::EncoderDecoder(spec) => Network::EncoderDecoder(EncoderDecoder::build(spec.clone(), source)?),
        })
    }
}

impl Network {
    /// Where it lives.
    pub fn device(&self) -> Device {
        each!(Network, self, network => network.device())
    }

    /// What the products of dense weights and of attention multiply.
    pub fn precision(&self) -> Precision {
        each!(Network, self, network => network.precision())
    }

    /// What they multiply from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        each!(Network, self, network => network.set_precision(precision));
    }

    /// Whether blocks are computed again in the backward pass from now on; on the CPU only.
    pub fn set_recompute(&mut self, on: bool) {
        each!(Network, self, network => network.set_recompute(on));
    }
}

impl Module for Network {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        each!(Network, self, network => network.pieces(out));
    }
}
