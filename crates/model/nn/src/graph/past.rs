//! What a graph layer remembers of texts, as numbers: ids, keys and values of tokens, keys and values of phrases as phrases see
//! them and as tokens do.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use super::Nodes;
use super::edges::Text;
use crate::batch::Batch;
use crate::layer::Pass;

/// Kinds of numbers besides ids: keys and values of tokens, twice those of phrases.
const KINDS: usize = 6;

/// Texts and what precedes their new tokens.
pub(crate) struct Past {
    pub texts: Vec<Text>,
    /// Of each text; none in a batch, where every text begins.
    kept: Vec<[Vec<f32>; KINDS]>,
    /// Floats of a node's key.
    width: usize,
    /// Tokens of a phrase.
    phrase: usize,
}

impl Past {
    /// Texts that begin.
    pub fn of_batch(batch: &Batch, width: usize, phrase: usize) -> Self {
        let texts = batch.sequences().into_iter().map(|rows| Text { ids: batch.ids[rows].to_vec(), from: 0 });
        Self { texts: texts.collect(), kept: vec![], width, phrase }
    }

    /// Texts that go on; takes the states' numbers.
    pub fn of_states(pass: &mut Pass<'_, '_>, width: usize, phrase: usize) -> Self {
        let (all, mut at) = (Arc::clone(&pass.ids), 0);
        let mut past = Self { texts: vec![], kept: vec![], width, phrase };
        for (state, rows) in pass.states() {
            let mut numbers = std::mem::take(&mut state.numbers).into_iter();
            let mut ids: Vec<u32> = numbers.next().unwrap_or_default().into_iter().map(f32::to_bits).collect();
            let from = ids.len();
            ids.extend(&all[at..at + rows]);
            at += rows;
            past.texts.push(Text { ids, from });
            past.kept.push(std::array::from_fn(|_| numbers.next().unwrap_or_default()));
        }
        past
    }

    /// New nodes of a text: tokens, or else phrases.
    fn new_nodes(&self, text: &Text, tokens: bool) -> usize {
        let of = |len: usize| if tokens { len } else { len / self.phrase };
        of(text.ids.len()) - of(text.from)
    }

    /// All nodes, each text's old ones before its new ones; of the kinds of numbers these are `kind` and the next.
    fn joined(&self, kind: usize, new: Option<&Nodes>, device: &Device) -> Nodes {
        [0, 1].map(|i| {
            let (mut parts, mut at) = (vec![], 0);
            for (text, kept) in self.texts.iter().zip(&self.kept) {
                let old = &kept[kind + i];
                if !old.is_empty() {
                    parts.push(cupola_ops::from_vec(old.clone(), [old.len() / self.width, self.width], device));
                }
                let count = self.new_nodes(text, kind == 0);
                if let Some(new) = new.filter(|_| count > 0) {
                    parts.push(new[i].clone().narrow(0, at, count));
                    at += count;
                }
            }
            Tensor::cat(parts, 0)
        })
    }

    /// Keys and values of all tokens.
    pub fn tokens(&self, new: &Nodes) -> Nodes {
        if self.kept.is_empty() { new.clone() } else { self.joined(0, Some(new), &new[0].device()) }
    }

    /// Keys and values of all phrases, of which there must be one, as phrases or as tokens see them.
    pub fn phrases(&self, to_tokens: bool, new: Option<&Nodes>, device: &Device) -> Nodes {
        match new.filter(|_| self.kept.is_empty()) {
            Some(new) => new.clone(),
            None => self.joined(if to_tokens { 4 } else { 2 }, new, device),
        }
    }

    /// Keeps what is new, of phrases both what phrases and what tokens see.
    pub fn add(&mut self, tokens: &Nodes, phrases: Option<&[Nodes; 2]>) {
        let kinds = [Some(tokens), phrases.map(|p| &p[0]), phrases.map(|p| &p[1])];
        let mut at = [0; 3];
        for (t, text) in self.texts.iter().enumerate().take(self.kept.len()) {
            for (kind, nodes) in kinds.iter().enumerate() {
                let count = self.new_nodes(text, kind == 0);
                let Some(nodes) = nodes.filter(|_| count > 0) else { continue };
                for (i, node) in nodes.iter().enumerate() {
                    let own = node.clone().narrow(0, at[kind], count);
                    self.kept[t][2 * kind + i].extend(cupola_ops::to_vec(&own));
                }
                at[kind] += count;
            }
        }
    }

    /// The numbers that the states hold from now on.
    pub fn into_states(self) -> impl Iterator<Item = Vec<Vec<f32>>> {
        // An id's bits, so that none is rounded.
        let ids = self.texts.into_iter().map(|text| text.ids.into_iter().map(f32::from_bits).collect());
        ids.zip(self.kept).map(|(ids, kept)| [ids].into_iter().chain(kept).collect())
    }
}
