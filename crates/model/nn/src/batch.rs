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
    /// Which tokens are no padding, `[B · T]`; all where it is absent. Routers' losses and counts leave padding out, and
    /// layers that carry a state and see padding take what is in front of a text for zeros.
    pub real: Option<Arc<[bool]>>,
    /// Rows.
    pub batch: usize,
    /// The places in `[B · T]` of the rows' texts, where rows hold one text and padding; empty where they are full.
    pub texts: Arc<[Range<usize>]>,
    /// Which tokens attend everything and are attended by everything where others see a window, `[B · T]`.
    pub global: Option<Arc<[bool]>>,
}

impl Batch {
    /// Rows of plain text, each attending its own past.
    pub fn causal(ids: Vec<u32>, batch: usize) -> Self {
        let seq = ids.len() / batch;
        let positions = (0..batch).flat_map(|_| 0..seq as u32).collect();
        Self::of(ids, batch, positions, Mask::causal(batch, seq))
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
        Self::of(ids, batch, positions, mask(segments, seq))
    }

    fn of(ids: Vec<u32>, batch: usize, positions: Arc<[u32]>, mask: Mask) -> Self {
        Self { ids: ids.into(), positions, types: None, real: None, mask, batch, texts: Arc::new([]), global: None }
    }

    /// Rows that hold one text each, at these places of their rows, and padding. All of a row attends the text: what
    /// is computed for padding goes nowhere but where a head reads it. Positions begin with the text, or where
    /// `count_padding` with the row.
    pub fn padded(ids: Vec<u32>, texts: &[Range<usize>], count_padding: bool) -> Self {
        let (batch, seq) = (texts.len(), ids.len() / texts.len().max(1));
        let first = |row: usize| if count_padding { 0 } else { texts[row].start };
        let positions = (0..batch * seq).map(|i| (i % seq).saturating_sub(first(i / seq)) as u32).collect();
        let ends = |f: fn(&Range<usize>) -> usize| {
            texts.iter().flat_map(|text| std::iter::repeat_n(f(text) as u32, seq)).collect::<Arc<[u32]>>()
        };
        let mask = Mask { lo: ends(|text| text.start), hi: ends(|text| text.end) };
        let texts = texts.iter().enumerate().map(|(row, text)| row * seq + text.start..row * seq + text.end).collect();
        Self { texts, ..Self::of(ids, batch, positions, mask) }
    }

    /// The places of the rows' texts in `[B · T]`.
    pub fn texts(&self) -> Vec<Range<usize>> {
        match self.texts.is_empty() {
            true => (0..self.batch).map(|row| row * self.seq()..(row + 1) * self.seq()).collect(),
            false => self.texts.to_vec(),
        }
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
        let Some(real) = &self.real else { return self.sequences() };
        let mut merged: Vec<Range<usize>> = Vec::new();
        for sequence in self.sequences() {
            match merged.last_mut() {
                Some(last) if !real[last.start] && !sequence.start.is_multiple_of(self.seq()) => {
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
    /// How many of the tokens are virtual.
    pub(crate) before: usize,
}

impl Cache {
    /// Nothing remembered yet, for so many layers.
    pub(crate) fn empty(layers: usize) -> Self {
        Self { layers: vec![LayerState::default(); layers], len: 0, padding: 0, before: 0 }
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

    /// Tokens seen, virtual ones apart.
    pub fn len(&self) -> usize {
        self.len - self.before
    }

    /// Whether it holds nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
