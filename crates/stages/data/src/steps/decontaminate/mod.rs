//! Training text that contains evaluation items.

mod index;
mod items;

use std::collections::{BTreeMap, BTreeSet};
use std::iter::once;
use std::ops::Range;

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use index::{Index, Overlap, word_hashes, word_places};
use items::{Against, Passage};

use crate::step::{Each, Kind, Notes, Setting, Verdict};

/// The step.
pub const DECONTAMINATE: Kind = Kind::each::<Decontaminate>(
    "decontaminate",
    "drops or cuts documents that contain evaluation items, found by 13-grams of words (Brown et al. 2020, appendix C)",
);

/// The kind of its records: an object with `file`, `item` (number in the file, from 0), `document`, `words` (of the overlap),
/// `document_text` and `item_text` for each overlap of a document with an item.
pub const HITS: &str = "contamination";

/// Overlaps of one document that are listed; a document that is an evaluation set has more.
const MAX_LISTED: usize = 1000;

/// Texts are compared word by word, without upper case and punctuation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decontaminate {
    /// The evaluation sets: files, folders and globs, relative to the recipe, each a text or `{ path, fields }`. JSONL, JSON and
    /// Parquet are compared by the fields in which well-known sets have their questions, CSV (MMLU) by its first column, text
    /// (`WikiText`) line by line. Required.
    pub against: Vec<Against>,
    /// Words in a row that a document and an item must share. Default 13 (Brown et al. 2020).
    pub ngram: usize,
    /// The same for items that have fewer than `ngram` words. Default 8, the least of Brown et al.; items shorter than that are
    /// not looked for.
    pub short_ngram: usize,
    /// What more than so many items share (a form of question) is no sign of one of them. Default 10.
    pub max_items: usize,
    /// What is done with a document that contains an item: `drop`, the default, or `cut`, which removes the words that it shares
    /// with the item and `margin` characters on both sides.
    pub action: Action,
    /// Characters that `cut` removes on both sides, and fewer than which it leaves nowhere. Default 200 (Brown et al. 2020).
    pub margin: usize,
    /// A document that would be cut into more pieces is dropped. Default 10 (Brown et al. 2020).
    pub max_pieces: usize,
    #[serde(skip)]
    files: Vec<String>,
    #[serde(skip)]
    passages: Vec<Passage>,
    #[serde(skip)]
    indices: Vec<Index>,
}

/// What is done with a document that contains an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It goes.
    Drop,
    /// What it shares goes.
    Cut,
}

impl Default for Decontaminate {
    fn default() -> Self {
        Self {
            against: Vec::new(),
            ngram: 13,
            short_ngram: 8,
            max_items: 10,
            action: Action::Drop,
            margin: 200,
            max_pieces: 10,
            files: Vec::new(),
            passages: Vec::new(),
            indices: Vec::new(),
        }
    }
}

impl Each for Decontaminate {
    fn validate(&self) -> Result<()> {
        if self.short_ngram < 2 || self.ngram < self.short_ngram || self.ngram > 1000 {
            return Err(Error::usage(format!(
                "`decontaminate` has ngram {}, short_ngram {}: they must be 2 to 1,000, short_ngram at most ngram",
                self.ngram, self.short_ngram
            ))
            .with_hint("the defaults are ngram = 13, short_ngram = 8"));
        }
        Ok(())
    }

    fn references(&self) -> Vec<String> {
        self.against.iter().map(|set| set.path().to_owned()).collect()
    }

    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        if self.against.is_empty() {
            return Err(Error::usage("`against` is missing in the step `decontaminate`")
                .with_hint("name the evaluation sets: `against = [\"eval/gsm8k_test.jsonl\"]`"));
        }
        (self.files, self.passages) = items::read(&self.against, setting.recipe_dir)?;
        let index = |n, words| Index::new(&self.passages, n, words, self.max_items);
        self.indices = vec![index(self.ngram, self.ngram..usize::MAX), index(self.short_ngram, 0..self.ngram)];
        self.indices.retain(|index| index.len() > 0);
        if self.indices.is_empty() {
            return Err(Error::failed(format!(
                "no evaluation item in `against` has {} words or more that few others have",
                self.short_ngram
            ))
            .with_hint("check `fields` of the evaluation sets, or set a smaller `short_ngram`"));
        }
        Ok(())
    }

    fn looked_for(&self) -> &[String] {
        &self.files
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let words = word_hashes(&document.text);
        let mut overlaps: Vec<Overlap> = self.indices.iter().flat_map(|index| index.overlaps(&words)).collect();
        if overlaps.is_empty() {
            return Verdict::Keep;
        }
        let places = word_places(&document.text);
        overlaps.retain(|overlap| self.is_same(overlap, &document.text, &places));
        if overlaps.is_empty() {
            return Verdict::Keep;
        }
        notes.count("contaminated_documents", 1);
        for overlap in overlaps.iter().take(MAX_LISTED) {
            notes.record(HITS, self.hit(overlap, document, &places));
        }
        match self.action {
            Action::Drop => Verdict::Drop("contaminated"),
            Action::Cut => {
                let ranges = overlaps.iter().map(|overlap| bytes(&overlap.words, &places)).collect();
                self.cut_out(document, ranges, notes)
            }
        }
    }
}

/// The bytes that words take.
fn bytes(words: &Range<usize>, places: &[Range<usize>]) -> Range<usize> {
    places[words.start].start..places[words.end - 1].end
}

impl Decontaminate {
    /// The words of the passage that an overlap is with.
    fn passage_text(&self, overlap: &Overlap) -> &str {
        let text = &self.passages[overlap.passage as usize].text;
        &text[bytes(&(overlap.first..overlap.first + overlap.words.len()), &word_places(text))]
    }

    /// Whether the words are the same and not only their hashes.
    fn is_same(&self, overlap: &Overlap, text: &str, places: &[Range<usize>]) -> bool {
        let other = self.passage_text(overlap);
        let others = word_places(other);
        let lower = |text: &str, place: &Range<usize>| text[place.clone()].to_lowercase();
        let own = &places[overlap.words.clone()];
        own.len() == others.len() && own.iter().zip(&others).all(|(a, b)| lower(text, a) == lower(other, b))
    }

    fn hit(&self, overlap: &Overlap, document: &Document, places: &[Range<usize>]) -> Value {
        let passage = &self.passages[overlap.passage as usize];
        json!({
            "file": self.files[passage.file as usize],
            "item": passage.item,
            "document": document.id,
            "words": overlap.words.len(),
            "document_text": document.text[bytes(&overlap.words, places)],
            "item_text": self.passage_text(overlap),
        })
    }

    /// Leaves the pieces between ranges of bytes with their margins that are as long as a margin, an empty line between them.
    fn cut_out(&self, document: &mut Document, mut ranges: Vec<Range<usize>>, notes: &mut Notes) -> Verdict {
        let text = &document.text;
        ranges.sort_unstable_by_key(|range| range.start);
        let (mut pieces, mut from) = (Vec::new(), 0);
        for range in ranges.iter().map(|range| self.with_margin(text, range)).chain(once(text.len()..text.len())) {
            let piece = text.get(from..range.start).unwrap_or_default().trim();
            let long = piece.chars().nth(self.margin.saturating_sub(1)).is_some();
            if long && piece.contains(char::is_alphanumeric) {
                pieces.push(piece);
            }
            from = from.max(range.end);
        }
        if pieces.is_empty() || pieces.len() > self.max_pieces {
            return Verdict::Drop("contaminated");
        }
        let left = pieces.join("\n\n");
        notes.count("contaminated_bytes", (text.len() - left.len()) as u64);
        document.text = left;
        Verdict::Keep
    }

    /// A range and `margin` characters on both sides, and the rest of a word that would be cut through.
    fn with_margin(&self, text: &str, range: &Range<usize>) -> Range<usize> {
        const LONGEST_WORD: usize = 40;
        let start = text[..range.start].char_indices().rev().take(self.margin).last().map_or(range.start, |(i, _)| i);
        let end = text[range.end..].char_indices().nth(self.margin).map_or(text.len(), |(i, _)| range.end + i);
        let space = |c: &(usize, char)| c.1.is_whitespace();
        let before = text[..start].char_indices().rev().take(LONGEST_WORD).find(space);
        let after = text[end..].char_indices().take(LONGEST_WORD).find(space);
        before.map_or(start, |(i, _)| i)..after.map_or(end, |(i, _)| end + i)
    }
}

/// Which items of each file were found, from the step's records: what an evaluation leaves out for a score on clean items.
pub fn hit_items<'a>(hits: impl IntoIterator<Item = &'a Value>) -> BTreeMap<String, BTreeSet<u64>> {
    let mut items: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for hit in hits {
        if let (Some(file), Some(item)) = (hit["file"].as_str(), hit["item"].as_u64()) {
            items.entry(file.to_owned()).or_default().insert(item);
        }
    }
    items
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
