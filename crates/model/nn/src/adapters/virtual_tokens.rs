//! What stands before a text and is no token of it, and where that is in a batch.

use std::collections::BTreeSet;
use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_ops::Mask;

use crate::adapters::linear_adapter::on_tape;
use crate::adapters::{Prefix, Prompt};
use crate::batch::Batch;
use crate::param::ParamMut;

/// What stands before each text of a stack.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub enum Virtual {
    /// Vectors in the place of tokens.
    Prompt(Prompt),
    /// Keys and values.
    Prefix(Prefix),
}

impl Virtual {
    /// How many tokens they stand for.
    pub fn tokens(&self) -> usize {
        match self {
            Virtual::Prompt(prompt) => prompt.tokens(),
            Virtual::Prefix(prefix) => prefix.tokens(),
        }
    }

    /// What is saved: `[P, ·]`.
    pub fn saved(&self) -> Tensor<2> {
        match self {
            Virtual::Prompt(prompt) => prompt.vectors(),
            Virtual::Prefix(prefix) => prefix.numbers(),
        }
    }

    pub(crate) fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        match self {
            Virtual::Prompt(prompt) => prompt.params_mut(out),
            Virtual::Prefix(prefix) => prefix.params_mut(out),
        }
    }
}

/// A batch with virtual tokens before each of its texts: where a row's queries attend keys from some place on, they stand
/// before that place.
pub(crate) struct Inserted {
    /// The longer rows: all of `T'`.
    pub batch: Batch,
    /// What each of the `B · T'` places holds: one of the P virtual tokens, or P and the number of a token of `B · T`.
    pub rows: Arc<[u32]>,
    /// Where each token of `B · T` stands in `B · T'`.
    pub places: Arc<[u32]>,
}

impl Inserted {
    /// `count` virtual tokens; in a causal network they attend those before them only.
    pub fn new(batch: &Batch, count: usize, causal: bool) -> Self {
        let (seq, all) = (batch.seq(), batch.ids.len());
        let starts: Vec<BTreeSet<usize>> = (0..batch.batch).map(|row| starts(batch, row)).collect();
        let long = seq + count * starts.iter().map(BTreeSet::len).max().unwrap_or(0);
        let mut places = vec![0; all];
        let mut rows = Vec::with_capacity(batch.batch * long);
        let mut spans = Vec::with_capacity(batch.batch * long);
        for (row, starts) in starts.iter().enumerate() {
            let before = |token: usize| count * starts.range(..=token).count() + token;
            let moved = |i: usize| match (batch.mask.lo[i] as usize, batch.mask.hi[i] as usize) {
                (lo, hi) if lo < hi => (before(lo) - count, before(hi - 1) + 1),
                _ => (0, 0),
            };
            for token in 0..seq {
                let i = row * seq + token;
                if starts.contains(&token) {
                    let (first, end) = (before(token) - count, moved(i).1);
                    rows.extend(0..count as u32);
                    spans.extend((0..count).map(|v| (first, if causal { first + v + 1 } else { end })));
                }
                places[i] = (row * long + before(token)) as u32;
                rows.push((count + i) as u32);
                spans.push(moved(i));
            }
            rows.resize((row + 1) * long, 0);
            spans.resize((row + 1) * long, (0, 0));
        }
        let (rows, places): (Arc<[u32]>, Arc<[u32]>) = (rows.into(), places.into());
        let batch = longer(batch, count as u32, &rows, spans);
        Self { batch, rows, places }
    }

    /// `[P, ·]` and `[B·T, ·]` as `[B·T', ·]`.
    pub fn insert(&self, virtual_tokens: Tensor<2>, tokens: Tensor<2>) -> Tensor<2> {
        let taped = virtual_tokens.is_autodiff() || tokens.is_autodiff();
        let both = Tensor::cat(vec![on_tape(virtual_tokens, taped), on_tape(tokens, taped)], 0);
        cupola_ops::embedding(both, &self.rows)
    }

    /// What of `[B·T', ·]` belongs to the tokens, `[B·T, ·]`.
    pub fn tokens(&self, all: Tensor<2>) -> Tensor<2> {
        cupola_ops::embedding(all, &self.places)
    }

    /// What the tokens alone attend among all, those in a window where there is one.
    pub fn mask(&self, window: Option<[usize; 2]>) -> Mask {
        let seq = self.batch.seq();
        let span = |place: &u32| {
            let (i, at) = (*place as usize, *place as usize % seq);
            let (lo, hi) = (self.batch.mask.lo[i], self.batch.mask.hi[i]);
            let Some([before, after]) = window else { return (lo, hi) };
            let (lo, hi) = (lo.max(at.saturating_sub(before) as u32), hi.min((at + after + 1) as u32));
            if lo < hi { (lo, hi) } else { (0, 0) }
        };
        let (lo, hi): (Vec<u32>, Vec<u32>) = self.places.iter().map(span).unzip();
        Mask { lo: lo.into(), hi: hi.into() }
    }
}

/// The places of a row from which on queries attend.
fn starts(batch: &Batch, row: usize) -> BTreeSet<usize> {
    let seq = batch.seq();
    let queries = row * seq..(row + 1) * seq;
    queries.filter(|i| batch.mask.lo[*i] < batch.mask.hi[*i]).map(|i| batch.mask.lo[i] as usize).collect()
}

/// The batch of the longer rows.
fn longer(batch: &Batch, count: u32, rows: &[u32], spans: Vec<(usize, usize)>) -> Batch {
    let long = rows.len() / batch.batch;
    // What follows a virtual token is its text; behind the last text stands nothing.
    let token = |place: usize| {
        let end = (place / long + 1) * long;
        rows[place..end].iter().find(|row| **row >= count).map(|row| (*row - count) as usize)
    };
    let of = |place: usize| match rows[place] {
        row if row >= count => Some((row - count) as usize),
        _ => None,
    };
    let places = || 0..rows.len();
    let (lo, hi): (Vec<u32>, Vec<u32>) = spans.into_iter().map(|(lo, hi)| (lo as u32, hi as u32)).unzip();
    let flag = |flags: &Arc<[bool]>, other: bool| -> Arc<[bool]> {
        places().map(|p| of(p).map_or(other && token(p).is_some(), |i| flags[i])).collect()
    };
    Batch {
        ids: places().map(|p| token(p).map_or(0, |i| batch.ids[i])).collect(),
        positions: places().map(|p| of(p).map_or(rows[p], |i| batch.positions[i] + count)).collect(),
        types: batch.types.as_ref().map(|types| places().map(|p| token(p).map_or(0, |i| types[i])).collect()),
        mask: Mask { lo: lo.into(), hi: hi.into() },
        real: batch.real.as_ref().map(|real| flag(real, true)),
        batch: batch.batch,
        texts: Arc::new([]),
        global: batch.global.as_ref().map(|global| flag(global, false)),
    }
}

/// A prefix as the attention layers of one pass over a batch have it.
#[derive(Clone)]
pub(crate) struct PrefixPass {
    prefix: Prefix,
    numbers: Tensor<2>,
    inserted: Arc<Inserted>,
}

impl PrefixPass {
    /// A prefix for a batch.
    pub fn new(prefix: &Prefix, batch: &Batch, causal: bool) -> Self {
        let inserted = Arc::new(Inserted::new(batch, prefix.tokens(), causal));
        Self { prefix: prefix.clone(), numbers: prefix.numbers(), inserted }
    }

    /// How many keys and values a text has before it.
    pub fn tokens(&self) -> u32 {
        self.prefix.tokens() as u32
    }

    /// The keys and values `[B·T, width]` of the layer in a place with the prefix's before each text, and what queries attend
    /// of them.
    pub fn with(
        &self,
        slot: usize,
        [k, v]: [Tensor<2>; 2],
        window: Option<[usize; 2]>,
    ) -> Option<(Tensor<2>, Tensor<2>, Mask)> {
        let [keys, values] = self.prefix.of_slot(&self.numbers, slot)?;
        Some((self.inserted.insert(keys, k), self.inserted.insert(values, v), self.inserted.mask(window)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_tokens_stand_before_each_text_and_are_attended_by_it_alone() {
        // Two segments in the first row, one in the second.
        let batch = Batch::segmented(vec![11, 12, 13, 14, 15, 16], 2, &[0, 0, 1, 0, 0, 0]);
        let inserted = Inserted::new(&batch, 2, true);
        assert_eq!(&*inserted.rows, [0, 1, 2, 3, 0, 1, 4, 0, 1, 5, 6, 7, 0, 0]);
        assert_eq!(&*inserted.places, [2, 3, 6, 9, 10, 11]);
        assert_eq!(&*inserted.batch.positions, [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4, 0, 0]);
        let mask = &inserted.batch.mask;
        let spans: Vec<(u32, u32)> = mask.lo.iter().copied().zip(mask.hi.iter().copied()).collect();
        assert_eq!(spans[..7], [(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6), (4, 7)]);
        assert_eq!(spans[7..], [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 0), (0, 0)]);
        let near = inserted.mask(Some([1, 0]));
        assert_eq!((&*near.lo, &*near.hi), (&[1, 2, 5, 1, 2, 3][..], &[3, 4, 7, 3, 4, 5][..]));
    }

    #[test]
    fn in_texts_that_are_read_whole_all_attend_all() {
        let batch = Batch::padded(vec![9, 9, 11, 12], std::slice::from_ref(&(2..4)), true);
        let inserted = Inserted::new(&batch, 1, false);
        assert_eq!(&*inserted.rows, [1, 2, 0, 3, 4]);
        assert_eq!(&*inserted.batch.mask.lo, [2; 5]);
        assert_eq!(&*inserted.batch.mask.hi, [5; 5]);
        assert_eq!(&*inserted.batch.positions, [1, 2, 0, 3, 4]);
    }
}
