//! The models that write: those that continue a prompt, and those that read it whole and write an answer.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_arch::{Model, Network};
use cupola_artifact::{Error, Result, unknown_name};
use cupola_nn::{Cache, Decoder, EncoderDecoder, Step};

use crate::batch::Slot;

/// What a step of generation asks of a model.
pub(crate) trait Writes {
    /// The last hidden states of new tokens, `[N, D]`; the caches grow by them.
    fn step(&self, ids: &Arc<[u32]>, steps: &mut [Step<'_>]) -> Tensor<2>;

    /// The logits of hidden states, `[N, V]`.
    fn logits(&self, hidden: Tensor<2>) -> Tensor<2>;

    /// What is remembered of a text that is read before anything is written.
    fn read(&self, text: &[u32]) -> Cache;
}

impl Writes for Decoder {
    fn step(&self, ids: &Arc<[u32]>, steps: &mut [Step<'_>]) -> Tensor<2> {
        Decoder::step(self, ids, steps)
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        Decoder::logits(self, hidden)
    }

    /// A decoder reads nothing apart: what it continues is in the sequence.
    fn read(&self, _: &[u32]) -> Cache {
        self.cache()
    }
}

impl Writes for EncoderDecoder {
    fn step(&self, ids: &Arc<[u32]>, steps: &mut [Step<'_>]) -> Tensor<2> {
        EncoderDecoder::step(self, ids, steps)
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        EncoderDecoder::logits(self, hidden)
    }

    fn read(&self, text: &[u32]) -> Cache {
        self.read_one(text)
    }
}

/// A model that writes.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it, and it is hardly moved")]
pub(crate) enum Writer {
    /// It continues a prompt.
    Decoder(Decoder),
    /// It reads a prompt and writes an answer.
    EncoderDecoder(EncoderDecoder),
}

/// How long texts may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Tokens of a sequence, which begins with the prompt or with one token.
    pub sequence: usize,
    /// Tokens of a prompt that is read apart.
    pub read: Option<usize>,
}

impl Limits {
    /// Tokens that an answer to a prompt of so many may have.
    pub fn room(&self, prompt: usize) -> usize {
        self.sequence.saturating_sub(if self.read.is_some() { 1 } else { prompt })
    }
}

impl Writer {
    /// The model without its tape.
    ///
    /// # Errors
    /// A model that does not write.
    pub fn new(model: &Model) -> Result<Self> {
        match &model.network {
            Network::EncoderDecoder(network) => Ok(Self::EncoderDecoder(network.frozen())),
            _ => Ok(Self::Decoder(model.decoder()?.frozen())),
        }
    }

    pub fn limits(&self) -> Limits {
        match self {
            Self::Decoder(network) => Limits { sequence: network.spec().max_seq_len, read: None },
            Self::EncoderDecoder(network) => {
                let spec = network.spec();
                Limits { sequence: spec.decoder.max_seq_len, read: Some(spec.encoder.max_seq_len) }
            }
        }
    }

    /// Rows of the embedding.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Decoder(network) => network.spec().vocab_size,
            Self::EncoderDecoder(network) => network.spec().encoder.vocab_size,
        }
    }

    /// The tokens at which generation ends.
    pub fn eos(&self) -> &[u32] {
        match self {
            Self::Decoder(network) => &network.spec().eos,
            Self::EncoderDecoder(network) => &network.spec().eos,
        }
    }

    /// A sequence that begins with a prompt, or answers it.
    pub fn slot(&self, prompt: Vec<u32>) -> Slot {
        match self {
            Self::Decoder(network) => Slot::new(network, prompt),
            Self::EncoderDecoder(network) => Slot::answer(network, prompt),
        }
    }
}

/// A model and the same with adapters, which share its memory.
#[derive(Clone, Debug)]
pub(crate) struct Writers {
    all: Vec<Writer>,
    /// The adapters' names; the model itself has none and comes first.
    names: Vec<String>,
}

impl Writers {
    /// A model and the same with adapters, by their names.
    ///
    /// # Errors
    /// A model that does not write; two adapters of one name.
    pub fn new(model: &Model, adapters: &[(String, Model)]) -> Result<Self> {
        let (mut all, mut names) = (vec![Writer::new(model)?], vec![]);
        for (name, model) in adapters {
            if names.contains(name) {
                return Err(Error::usage(format!("two adapters are called `{name}`")));
            }
            all.push(Writer::new(model)?);
            names.push(name.clone());
        }
        Ok(Self { all, names })
    }

    /// All of them, the model itself first.
    pub fn all(&self) -> &[Writer] {
        &self.all
    }

    /// The adapters' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The place of the one with an adapter, or of the model itself.
    ///
    /// # Errors
    /// A name that no adapter has.
    pub fn place(&self, adapter: Option<&str>) -> Result<usize> {
        let Some(name) = adapter else { return Ok(0) };
        self.names.iter().position(|known| known == name).map(|place| place + 1).ok_or_else(|| {
            let known: Vec<&str> = self.names.iter().map(String::as_str).collect();
            unknown_name(&format!("there is no adapter called `{name}`"), name, "adapter", &known)
        })
    }
}

impl Writes for Writer {
    fn step(&self, ids: &Arc<[u32]>, steps: &mut [Step<'_>]) -> Tensor<2> {
        match self {
            Self::Decoder(network) => network.step(ids, steps),
            Self::EncoderDecoder(network) => network.step(ids, steps),
        }
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Decoder(network) => network.logits(hidden),
            Self::EncoderDecoder(network) => network.logits(hidden),
        }
    }

    fn read(&self, text: &[u32]) -> Cache {
        match self {
            Self::Decoder(network) => network.cache(),
            Self::EncoderDecoder(network) => network.read_one(text),
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
