//! Examples laid out in rows: packed, so that several share a row and attend only themselves, or padded, one to a row.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use cupola_nn::Batch;
use cupola_ops::IGNORE;

use crate::conversation::Example;

/// Tokens of one forward pass where nothing else is asked for.
pub const TOKENS_PER_PASS: usize = 4096;

/// The longest rows of packed examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Several examples in a row of up to so many tokens, by first fit.
    Packed(usize),
    /// One example in a row.
    Padded,
}

/// Rows of equal length with what is learned from them.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The model's input.
    pub batch: Batch,
    /// What is to be predicted, [`IGNORE`] where nothing is, `[B · T]`.
    pub targets: Arc<[i32]>,
    /// Tokens, padding left out.
    pub tokens: usize,
    /// Which example each token belongs to, `[B · T]`; padding to none.
    owners: Vec<Option<usize>>,
    examples: usize,
}

/// Which examples share a row: each goes into the first row with enough room.
fn first_fit(lengths: &[usize], width: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
    for (i, len) in lengths.iter().enumerate() {
        match rows.iter_mut().find(|(used, _)| used + len <= width) {
            Some((used, row)) => {
                *used += len;
                row.push(i);
            }
            None => rows.push((*len, vec![i])),
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

impl Rows {
    /// Lays out examples; `pad` fills rows up.
    pub fn new(examples: &[&Example], layout: Layout, pad: u32) -> Self {
        let lengths: Vec<usize> = examples.iter().map(|e| e.inputs()).collect();
        let rows = match layout {
            Layout::Packed(width) => first_fit(&lengths, width),
            Layout::Padded => (0..examples.len()).map(|i| vec![i]).collect(),
        };
        let width = rows.iter().map(|row| row.iter().map(|i| lengths[*i]).sum()).max().unwrap_or(0);
        let (mut ids, mut targets, mut owners) = (vec![], vec![], vec![]);
        for (r, row) in rows.iter().enumerate() {
            for &i in row {
                let Example { ids: tokens, learn } = examples[i];
                for t in 1..tokens.len() {
                    ids.push(tokens[t - 1]);
                    targets.push(if learn[t] { tokens[t] as i32 } else { IGNORE });
                    owners.push(Some(i));
                }
            }
            ids.resize((r + 1) * width, pad);
            targets.resize((r + 1) * width, IGNORE);
            owners.resize((r + 1) * width, None);
        }
        // Padding is a segment of its own.
        let segments: Vec<u32> = owners.iter().map(|o| o.map_or(0, |i| i as u32 + 1)).collect();
        let mut batch = Batch::segmented(ids, rows.len(), &segments);
        batch.real = Some(owners.iter().map(Option::is_some).collect());
        Self { batch, targets: targets.into(), tokens: lengths.iter().sum(), owners, examples: examples.len() }
    }

    /// Tokens that are learned.
    pub fn learned(&self) -> usize {
        self.targets.iter().filter(|t| **t != IGNORE).count()
    }

    /// The same weight for each token.
    pub fn weights(&self, weight: f64) -> Arc<[f32]> {
        vec![weight as f32; self.targets.len()].into()
    }

    /// 1 at the learned tokens of each example, `[examples, B · T]`.
    pub fn members(&self, device: &Device) -> Tensor<2> {
        let n = self.owners.len();
        let mut members = vec![0.0; self.examples * n];
        for (t, (owner, target)) in self.owners.iter().zip(self.targets.iter()).enumerate() {
            if let Some(i) = owner.filter(|_| *target != IGNORE) {
                members[i * n + t] = 1.0;
            }
        }
        cupola_ops::from_vec(members, [self.examples, n], device)
    }

    /// Numbers of each example's learned tokens where those are, `[B · T]`; 0 elsewhere.
    pub fn place(&self, numbers: &[&[f32]]) -> Vec<f32> {
        let mut rest: Vec<std::slice::Iter<'_, f32>> = numbers.iter().map(|own| own.iter()).collect();
        let of = |(owner, target): (&Option<usize>, &i32)| {
            owner.filter(|_| *target != IGNORE).and_then(|i| rest[i].next().copied()).unwrap_or(0.0)
        };
        self.owners.iter().zip(self.targets.iter()).map(of).collect()
    }

    /// What [`Self::place`] would have placed: the numbers of each example's learned tokens out of `[B · T]`.
    pub fn collect(&self, numbers: &[f32]) -> Vec<Vec<f32>> {
        let mut out = vec![vec![]; self.examples];
        for ((owner, target), number) in self.owners.iter().zip(self.targets.iter()).zip(numbers) {
            if let Some(i) = owner.filter(|_| *target != IGNORE) {
                out[i].push(*number);
            }
        }
        out
    }

    /// Adds up each example's share of one number for each token: `[B · T]` to `[examples]`, on the tape, as a product
    /// with a constant matrix.
    pub fn sums(&self, values: Tensor<1>) -> Tensor<1> {
        let n = self.owners.len();
        let mut choice = vec![0.0; self.examples * n];
        for (t, owner) in self.owners.iter().enumerate() {
            if let Some(i) = owner {
                choice[i * n + t] = 1.0;
            }
        }
        let choice = cupola_ops::from_vec(choice, [self.examples, n], &values.device()); // [examples, B·T]
        choice.matmul(values.reshape([n, 1])).reshape([self.examples])
    }
}

/// Neighbours that share a forward pass: at most `most` of them, else as many as have [`TOKENS_PER_PASS`] tokens.
pub fn groups(lengths: &[usize], most: Option<usize>) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (i, len) in lengths.iter().enumerate() {
        let full = |group: &Range<usize>| match most {
            Some(most) => group.len() >= most,
            None => tokens + len > TOKENS_PER_PASS,
        };
        match out.last_mut().filter(|group| !full(group)) {
            Some(group) => group.end = i + 1,
            None => {
                out.push(i..i + 1);
                tokens = 0;
            }
        }
        tokens += len;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_fit_fills_gaps_and_never_overflows() {
        assert_eq!(first_fit(&[6, 5, 4, 5, 1], 10), [vec![0, 2], vec![1, 3], vec![4]]);
        assert_eq!(first_fit(&[10, 10], 10), [[0], [1]]);
    }

    #[test]
    fn groups_cover_everything_once() {
        assert_eq!(groups(&[1; 5], Some(2)), [0..2, 2..4, 4..5]);
        assert_eq!(groups(&[3000, 1000, 96, 5000, 1], None), [0..3, 3..4, 4..5]);
        assert!(groups(&[], None).is_empty());
    }

    #[test]
    fn targets_are_shifted_and_padding_counts_nothing() {
        let example = |ids: &[u32], learn: &[bool]| Example { ids: ids.to_vec(), learn: learn.to_vec() };
        let (a, b) = (example(&[1, 2, 3], &[false, false, true]), example(&[4, 5], &[false, true]));
        let padded = Rows::new(&[&a, &b], Layout::Padded, 9);
        assert_eq!((&*padded.batch.ids, &*padded.targets), (&[1, 2, 4, 9][..], &[IGNORE, 3, 5, IGNORE][..]));
        let packed = Rows::new(&[&a, &b], Layout::Packed(8), 9);
        assert_eq!((&*packed.batch.ids, &*packed.targets), (&[1, 2, 4][..], &[IGNORE, 3, 5][..]));
        assert_eq!((&*packed.batch.positions, packed.tokens, packed.learned()), (&[0, 1, 0][..], 3, 2));
        let device = burn::tensor::Device::flex();
        let sums = packed.sums(cupola_ops::from_vec(vec![1.0, 2.0, 4.0], [3], &device));
        assert_eq!(cupola_ops::to_vec(&sums), [3.0, 4.0]);
        assert_eq!(packed.place(&[&[7.0], &[8.0]]), [0.0, 7.0, 8.0]);
        assert_eq!(packed.collect(&[1.0, 2.0, 4.0]), [[2.0], [4.0]]);
        let members = cupola_ops::to_vec(&packed.members(&device).reshape([6]));
        assert_eq!(members, [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    }
}
