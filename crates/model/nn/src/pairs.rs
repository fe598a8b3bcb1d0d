//! What goes into an encoder-decoder: texts, and what the decoder is to make of them.

use std::ops::Range;
use std::sync::Arc;

use cupola_ops::{IGNORE, Mask};

use crate::batch::Batch;

/// A batch of pairs: row i of the source belongs to row i of the target.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// What the encoder reads, `[B·Ts]`.
    pub source: Batch,
    /// What the decoder reads, `[B·Tt]`.
    pub target: Batch,
    /// Which of the source's tokens each of the target's attends, `[B·Tt]`.
    pub reach: Mask,
}

impl Pairs {
    /// Rows of a source, of which `real` holds something, and a target whose tokens attend their own past.
    pub fn new(source: Batch, real: &[Range<usize>], target: Batch) -> Self {
        let seq = target.seq();
        let ends =
            |end: fn(&Range<usize>) -> usize| real.iter().flat_map(move |r| std::iter::repeat_n(end(r) as u32, seq));
        let reach = Mask { lo: ends(|r| r.start).collect(), hi: ends(|r| r.end).collect() };
        Self { source, target, reach }
    }

    /// Texts of different lengths, padded on the right, and the labels of the target, `[B·Tt]`, [`IGNORE`] where there is
    /// none. The target begins with `start`.
    pub fn padded(sources: &[&[u32]], answers: &[&[u32]], [start, pad]: [u32; 2]) -> (Self, Arc<[i32]>) {
        let (source, real) = filled(sources, pad);
        let longest = answers.iter().map(|a| a.len()).max().unwrap_or(0).max(1);
        let labels: Vec<i32> = answers
            .iter()
            .flat_map(|a| a.iter().map(|id| *id as i32).chain(std::iter::repeat(IGNORE)).take(longest))
            .collect();
        let target = Batch::causal(shifted(&labels, longest, [start, pad]), answers.len());
        (Self::new(source, &real, target), labels.into())
    }
}

/// Rows of a source padded on the right, and the part of each that is text.
pub(crate) fn filled(sources: &[&[u32]], pad: u32) -> (Batch, Vec<Range<usize>>) {
    let longest = sources.iter().map(|s| s.len()).max().unwrap_or(0).max(1);
    let ids = sources.iter().flat_map(|s| s.iter().copied().chain(std::iter::repeat(pad)).take(longest)).collect();
    // An empty text is one token of padding, so that there is something to attend.
    let real: Vec<Range<usize>> = sources.iter().map(|s| 0..s.len().max(1)).collect();
    (Batch::padded(ids, &real, true), real)
}

/// What a decoder reads to predict labels, rows of `seq`: the start, then each label but the last, padding where there is
/// none.
pub fn shifted(labels: &[i32], seq: usize, [start, pad]: [u32; 2]) -> Vec<u32> {
    let input = |label: &i32| if *label == IGNORE { pad } else { *label as u32 };
    labels
        .chunks(seq.max(1))
        .flat_map(|row| [start].into_iter().chain(row[..row.len() - 1].iter().map(input)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_its_labels_moved_by_one_and_reaches_its_own_source() {
        let (pairs, labels) = Pairs::padded(&[&[5, 6, 7], &[8]], &[&[9], &[10, 11]], [1, 0]);
        assert_eq!(*pairs.source.ids, [5, 6, 7, 8, 0, 0]);
        assert_eq!(*pairs.target.ids, [1, 0, 1, 10]);
        assert_eq!(*labels, [9, IGNORE, 10, 11]);
        assert_eq!((&*pairs.reach.lo, &*pairs.reach.hi), (&[0; 4][..], &[3, 3, 1, 1][..]));
        assert_eq!(*pairs.source.mask.hi, [3, 3, 3, 1, 1, 1]);
    }
}
