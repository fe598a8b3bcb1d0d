//! One step of continuous batching: the next tokens of several sequences, and pieces of prompts, in one forward pass.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_nn::{Cache, Decoder, EncoderDecoder, Step};

use crate::writer::Writes;

/// A sequence as the model sees it.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    tokens: Vec<u32>,
    cache: Cache,
    /// A text that the model has to read first.
    unread: Option<Vec<u32>>,
}

impl Slot {
    /// A sequence of which the model has seen nothing yet.
    pub fn new(decoder: &Decoder, prompt: Vec<u32>) -> Self {
        Self { tokens: prompt, cache: decoder.cache(), unread: None }
    }

    /// A sequence that answers a text, which is read in its first step.
    pub fn answer(network: &EncoderDecoder, text: Vec<u32>) -> Self {
        Self { tokens: vec![network.spec().start], cache: network.empty_cache(), unread: Some(text) }
    }

    /// Its tokens, prompt included where it continues one.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Adds a token that the model is to see next.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Its tokens, prompt included.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens that the model has not seen yet.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.cache.len()
    }

    /// Bytes of its cache.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }
}

/// How many tokens each sequence brings to the next step. Those that wait for one token get it; the others share
/// `chunk` tokens evenly, and what a short prompt leaves goes to the longer ones, so that neither a long prompt holds
/// up the others nor the others starve a long prompt.
pub(crate) fn share(pending: &[usize], chunk: usize) -> Vec<usize> {
    let mut rows = vec![1; pending.len()];
    let mut prompts: Vec<usize> = (0..pending.len()).filter(|&i| pending[i] > 1).collect();
    prompts.sort_by_key(|&i| pending[i]);
    let mut left = chunk;
    for (served, &i) in prompts.iter().enumerate() {
        let fair = (left / (prompts.len() - served)).max(1);
        rows[i] = pending[i].min(fair);
        left = left.saturating_sub(rows[i]);
    }
    rows
}

/// The logits after the last token of each sequence of which the model has now seen all.
pub(crate) struct Logits {
    /// The sequences, by their place in the step.
    pub owners: Vec<usize>,
    data: Vec<f32>,
    vocab: usize,
}

impl Logits {
    /// The same of a step whose sequences have these places in a larger one.
    pub fn placed(mut self, places: &[usize]) -> Self {
        self.owners.iter_mut().for_each(|owner| *owner = places[*owner]);
        self
    }

    /// The logits alone, one sequence after another.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// Each sequence with its logits.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.owners.iter().copied().zip(self.data.chunks(self.vocab.max(1)))
    }
}

/// The last hidden states of the next `rows` tokens of each sequence, `[N, D]`, which the model has seen then.
fn hidden(model: &impl Writes, slots: &mut [&mut Slot], rows: &[usize]) -> Tensor<2> {
    let new = slots.iter().zip(rows).flat_map(|(slot, &n)| &slot.tokens[slot.cache.len()..][..n]);
    let ids: Arc<[u32]> = new.copied().collect();
    let mut steps: Vec<Step<'_>> =
        slots.iter_mut().zip(rows).map(|(slot, &rows)| Step { cache: &mut slot.cache, rows }).collect();
    model.step(&ids, &mut steps)
}

/// Shows the model the next `rows` tokens of each sequence.
pub(crate) fn step(model: &impl Writes, slots: &mut [&mut Slot], rows: &[usize]) -> Logits {
    for slot in slots.iter_mut() {
        if let Some(text) = slot.unread.take() {
            slot.cache = model.read(&text);
        }
    }
    let (mut owners, mut last, mut count) = (Vec::new(), Vec::new(), 0);
    for (i, (slot, &n)) in slots.iter().zip(rows).enumerate() {
        count += n;
        if n == slot.pending() {
            owners.push(i);
            last.push(count as u32 - 1);
        }
    }
    let hidden = hidden(model, slots, rows);
    if owners.is_empty() {
        return Logits { owners, data: Vec::new(), vocab: 0 };
    }
    // Only the rows that somebody asks for go through the output layer.
    let hidden = if last.len() == count { hidden } else { cupola_ops::embedding(hidden, &last.into()) };
    let logits = model.logits(hidden);
    Logits { owners, vocab: logits.dims()[1], data: cupola_ops::to_vec(&logits) }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
