//! Models behind beam search: each sequence with its cache.

use cupola_artifact::{Error, Result};
use cupola_nn::{Decoder, EncoderDecoder};

use crate::BeamModel;
use crate::batch::{Slot, step};
use crate::writer::Writes;

/// A decoder and the caches of the sequences under way.
#[derive(Debug)]
pub struct CachedBeams<'d> {
    decoder: &'d Decoder,
    slots: Vec<Slot>,
}

impl<'d> CachedBeams<'d> {
    /// A search with nothing under way.
    pub fn new(decoder: &'d Decoder) -> Self {
        Self { decoder, slots: Vec::new() }
    }
}

impl BeamModel for CachedBeams<'_> {
    fn next(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
        let spec = self.decoder.spec();
        check_length(sequences, spec.max_seq_len)?;
        if let Some(id) = sequences.iter().copied().flatten().find(|id| **id as usize >= spec.vocab_size) {
            let known = spec.vocab_size;
            return Err(Error::usage(format!("the prompt has the token {id}, but the model knows only {known}")));
        }
        if self.slots.is_empty() {
            self.slots = sequences.iter().map(|ids| Slot::new(self.decoder, ids.to_vec())).collect();
        }
        Ok(logits(self.decoder, &mut self.slots, sequences))
    }

    fn reorder(&mut self, from: &[usize]) {
        self.slots = reordered(std::mem::take(&mut self.slots), from);
    }
}

/// An encoder-decoder and the caches of the answers under way. What was read of a text is shared by its answers.
#[derive(Debug)]
pub struct AnswerBeams<'n> {
    network: &'n EncoderDecoder,
    slots: Vec<Slot>,
}

impl<'n> AnswerBeams<'n> {
    /// A search for answers to texts; and the prompts to search with, which are the starts of the answers.
    pub fn new(network: &'n EncoderDecoder, texts: &[Vec<u32>]) -> (Self, Vec<Vec<u32>>) {
        let slots = texts.iter().map(|text| Slot::answer(network, text.clone())).collect();
        (Self { network, slots }, vec![vec![network.spec().start]; texts.len()])
    }
}

impl BeamModel for AnswerBeams<'_> {
    fn next(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
        check_length(sequences, self.network.spec().decoder.max_seq_len)?;
        Ok(logits(self.network, &mut self.slots, sequences))
    }

    fn reorder(&mut self, from: &[usize]) {
        self.slots = reordered(std::mem::take(&mut self.slots), from);
    }
}

fn check_length(sequences: &[&[u32]], limit: usize) -> Result<()> {
    match sequences.iter().map(|s| s.len()).max() {
        Some(longest) if longest > limit => {
            Err(Error::usage(format!("prompt and answer together may have {limit} tokens, not {longest}"))
                .with_hint("shorten the prompt or ask for fewer tokens"))
        }
        _ => Ok(()),
    }
}

/// The logits after sequences of which the slots may lack the last tokens, `[N, V]`.
fn logits(model: &impl Writes, slots: &mut [Slot], sequences: &[&[u32]]) -> Vec<f32> {
    for (slot, ids) in slots.iter_mut().zip(sequences) {
        ids[slot.len()..].iter().for_each(|id| slot.push(*id));
    }
    let rows: Vec<usize> = slots.iter().map(Slot::pending).collect();
    step(model, &mut slots.iter_mut().collect::<Vec<_>>(), &rows).into_data()
}

/// The items that `from` names, in its order; copied only where one is named again later.
fn reordered<T: Clone>(items: Vec<T>, from: &[usize]) -> Vec<T> {
    let mut uses = vec![0_usize; items.len()];
    from.iter().for_each(|&i| uses[i] += 1);
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    let take = |&i: &usize| {
        uses[i] -= 1;
        if uses[i] == 0 { items[i].take() } else { items[i].clone() }
    };
    from.iter().filter_map(take).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    struct Counted(char, Rc<Cell<usize>>);

    impl Clone for Counted {
        fn clone(&self) -> Self {
            self.1.set(self.1.get() + 1);
            Self(self.0, Rc::clone(&self.1))
        }
    }

    #[test]
    fn a_state_is_copied_only_where_two_sequences_continue_it() {
        for (from, want, copies) in [
            (&[2, 0, 1][..], "cab", 0),
            (&[1, 1, 0], "bba", 1),
            (&[2, 2, 2, 2], "cccc", 3),
            (&[0, 2, 0, 1], "acab", 1),
            (&[], "", 0),
        ] {
            let count = Rc::new(Cell::new(0));
            let items = "abc".chars().map(|c| Counted(c, Rc::clone(&count))).collect();
            let got: String = reordered(items, from).iter().map(|c| c.0).collect();
            assert_eq!((got.as_str(), count.get()), (want, copies));
        }
    }
}
