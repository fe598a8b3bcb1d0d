//! What goes into a model: whole sequences, or the next tokens of some.

use std::ops::Range;
use std::sync::Arc;

use cupola_ops::Mask;

use crate::layer::LayerState;

/// The tokens of one forward pass: `batch` rows of equal length, row after row.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, `[B · T]`.
    pub ids: Arc<[u32]>,
    /// Positions, `[B · T]`.
    pub positions: Arc<[u32]>,
    /// Which of a pair of texts a token belongs to, `[B · T]`; all to the first where it is absent.
    pub types: Option<Arc<[u32]>>,
    /// Who attends whom.
    pub mask: Mask,
    /// Which tokens are padding, `[B · T]`, for layers that would otherwise carry a state through it; such a layer takes
    /// padding and the text behind it for one sequence, and zeros for the padding's vectors.
    pub padding: Option<Arc<[bool]>>,
    /// Rows.
    pub batch: usize,
}

impl Batch {
    /// Rows of plain text, each attending its own past.
    pub fn causal(ids: Vec<u32>, batch: usize) -> Self {
        let seq = ids.len() / batch;
        let positions = (0..batch).flat_map(|_| 0..seq as u32).collect();
        Self { mask: Mask::causal(batch, seq), positions, ids: ids.into(), types: None, padding: None, batch }
    }

    /// Rows that hold several segments, each attending only its own past; `segments` numbers them, `[B · T]`.
    pub fn segmented(ids: Vec<u32>, batch: usize, segments: &[u32]) -> Self {
        Self::of_segments(ids, batch, segments, Mask::causal_segments)
    }

    /// Rows that hold several segments, each attending the whole of itself.
    pub fn bidirectional(ids: Vec<u32>, batch: usize, segments: &[u32]) -> Self {
        Self::of_segments(ids, batch, segments, Mask::segments)
    }

    fn of_segments(ids: Vec<u32>, batch: usize, segments: &[u32], mask: fn(&[u32], usize) -> Mask) -> Self {
        let seq = ids.len() / batch;
        let starts = Mask::segments(segments, seq);
        let positions = starts.lo.iter().enumerate().map(|(i, lo)| (i % seq) as u32 - lo).collect();
        Self { mask: mask(segments, seq), positions, ids: ids.into(), types: None, padding: None, batch }
    }

    /// Tokens per row.
    pub fn seq(&self) -> usize {
        self.ids.len() / self.batch
    }

    /// The rows of `[N, D]` that hold one sequence each: where a token reaches nothing before itself, one begins.
    pub fn sequences(&self) -> Vec<Range<usize>> {
        let seq = self.seq();
        let begins = |i: usize| i.is_multiple_of(seq) || self.mask.lo[i] as usize == i % seq;
        let starts: Vec<usize> = (0..self.ids.len()).filter(|i| begins(*i)).collect();
        let ends = starts.iter().skip(1).copied().chain([self.ids.len()]);
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }

    /// The same for layers that carry a state: padding belongs to what follows it in its row.
    pub(crate) fn scanned_sequences(&self) -> Vec<Range<usize>> {
        let Some(padding) = &self.padding else { return self.sequences() };
        let mut merged: Vec<Range<usize>> = Vec::new();
        for sequence in self.sequences() {
            match merged.last_mut() {
                Some(last) if padding[last.start] && !sequence.start.is_multiple_of(self.seq()) => {
                    last.end = sequence.end;
                }
                _ => merged.push(sequence),
            }
        }
        merged
    }
}

/// What a model remembers of one sequence, layer by layer.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(crate) layers: Vec<LayerState>,
    pub(crate) len: usize,
    pub(crate) padding: usize,
}

impl Cache {
    /// Nothing remembered yet, for so many layers.
    pub(crate) fn empty(layers: usize) -> Self {
        Self { layers: vec![LayerState::default(); layers], len: 0, padding: 0 }
    }

    /// The same after so many tokens of padding, which layers without attention may have seen.
    #[must_use]
    pub fn after_padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// What each layer remembers, in the order of the model's layers.
    pub fn layers_mut(&mut self) -> &mut [LayerState] {
        &mut self.layers
    }

    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerState::bytes).sum()
    }
}

/// One sequence's share of a step of generation.
pub struct Step<'a> {
    /// What precedes.
    pub cache: &'a mut Cache,
    /// How many of the step's tokens belong to this sequence.
    pub rows: usize,
}
