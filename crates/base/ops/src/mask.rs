//! Which keys each query attends.

use std::sync::Arc;

/// Each query attends the keys from `lo` to before `hi` in its own row of the batch. Such intervals express causal and
/// full attention, sliding windows, packed documents and padding; what two masks both allow is an interval again.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// `[B · T]`.
    pub lo: Arc<[u32]>,
    /// `[B · T]`.
    pub hi: Arc<[u32]>,
}

impl Mask {
    /// Each query attends itself and what precedes it, in `batch` rows of `seq`.
    pub fn causal(batch: usize, seq: usize) -> Self {
        Self::window(batch, seq, seq, 0)
    }

    /// Each query attends its whole row.
    pub fn full(batch: usize, seq: usize) -> Self {
        Self::window(batch, seq, seq, seq)
    }

    /// Each query attends itself, at most `before` keys before it and at most `after` keys after it. The causal window
    /// of Mistral's `sliding_window: n` has `n - 1` before and none after.
    pub fn window(batch: usize, seq: usize, before: usize, after: usize) -> Self {
        Self::of((0..batch * seq).map(|i| i % seq).map(|i| (i.saturating_sub(before), (i + after + 1).min(seq))))
    }

    /// The last `rows` of one row of `total` keys attend themselves and what precedes them.
    pub fn last(rows: usize, total: usize) -> Self {
        Self::of((total - rows..total).map(|i| (0, i + 1)))
    }

    /// Each query attends its own segment: neighbours with equal segment numbers belong together. `segments` holds
    /// rows of `seq`.
    pub fn segments(segments: &[u32], seq: usize) -> Self {
        let rows = segments.chunks(seq.max(1));
        Self::of(rows.flat_map(|row| {
            let mut end = 0;
            row.chunk_by(|a, b| a == b).flat_map(move |segment| {
                let start = end;
                end += segment.len();
                std::iter::repeat_n((start, end), segment.len())
            })
        }))
    }

    /// Causal attention within segments.
    pub fn causal_segments(segments: &[u32], seq: usize) -> Self {
        Self::segments(segments, seq).and(&Self::causal(segments.len() / seq.max(1), seq))
    }

    /// Of each row of `seq` only the given part holds anything: what lies before and after it neither attends nor is
    /// attended.
    pub fn padded(parts: &[std::ops::Range<usize>], seq: usize) -> Self {
        Self::of(parts.iter().flat_map(|part| {
            let part = part.clone();
            (0..seq).map(move |i| if part.contains(&i) { (part.start, part.end.min(seq)) } else { (0, 0) })
        }))
    }

    /// What both masks allow.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        assert_eq!(self.lo.len(), other.lo.len(), "masks of different sizes");
        let spans = |mask: &Self| mask.lo.iter().zip(mask.hi.iter()).map(|(l, h)| (*l, *h)).collect::<Vec<_>>();
        let both = spans(self).into_iter().zip(spans(other)).map(|(a, b)| (a.0.max(b.0), a.1.min(b.1)));
        Self::of(both.map(|(lo, hi)| (lo as usize, hi as usize)))
    }

    fn of(spans: impl Iterator<Item = (usize, usize)>) -> Self {
        let spans = spans.map(|(lo, hi)| if lo < hi { (lo as u32, hi as u32) } else { (0, 0) });
        let (lo, hi): (Vec<_>, Vec<_>) = spans.unzip();
        Self { lo: lo.into(), hi: hi.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(mask: &Mask) -> Vec<(u32, u32)> {
        mask.lo.iter().copied().zip(mask.hi.iter().copied()).collect()
    }

    #[test]
    fn masks_are_the_intervals_that_their_names_say() {
        assert_eq!(spans(&Mask::causal(2, 2)), [(0, 1), (0, 2), (0, 1), (0, 2)]);
        assert_eq!(spans(&Mask::full(1, 3)), [(0, 3); 3]);
        assert_eq!(spans(&Mask::window(1, 5, 1, 0)), [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5)]);
        assert_eq!(spans(&Mask::window(1, 4, 0, 1)), [(0, 2), (1, 3), (2, 4), (3, 4)]);
        assert_eq!(spans(&Mask::last(2, 5)), [(0, 4), (0, 5)]);
        assert_eq!(spans(&Mask::segments(&[7, 7, 1, 7, 7, 7], 3)), [(0, 2), (0, 2), (2, 3), (0, 3), (0, 3), (0, 3)]);
        assert_eq!(spans(&Mask::causal_segments(&[4, 4, 5, 5], 4)), [(0, 1), (0, 2), (2, 3), (2, 4)]);
        assert_eq!(spans(&Mask::padded(&[1..3, 0..2], 3)), [(0, 0), (1, 3), (1, 3), (0, 2), (0, 2), (0, 0)]);
    }

    #[test]
    fn combined_masks_allow_what_both_allow() {
        let left_padded = Mask::padded(std::slice::from_ref(&(2..5)), 5).and(&Mask::causal(1, 5));
        assert_eq!(spans(&left_padded), [(0, 0), (0, 0), (2, 3), (2, 4), (2, 5)]);
        let narrow = left_padded.and(&Mask::window(1, 5, 1, 0));
        assert_eq!(spans(&narrow), [(0, 0), (0, 0), (2, 3), (2, 4), (3, 5)]);
        assert_eq!(Mask::full(1, 5).and(&narrow), narrow);
    }
}
