//! Passages that stand in several documents, word for word.

use std::collections::VecDeque;
use std::ops::Range;

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::MAX_REPRESENTATIVES;
use crate::step::{ANY_SIZE, Across, Decision, Key, Keys, Kind, Notes, Place, Sketches, Verdict};
use crate::steps::cut::cut;
use crate::steps::word_hashes::{SPREAD, mix};

/// The step.
pub const SUBSTRING_DUPLICATES: Kind = Kind::across::<SubstringDuplicates>(
    "substring_duplicates",
    "removes passages that stand word for word in the text before them (Lee et al. 2022)",
);

/// Removes every byte of a passage of at least `min_bytes` that occurs earlier, in another document or before itself in the
/// same one. What a suffix array over the whole corpus finds, this finds without one, so that memory does not grow with the corpus:
/// of every window of `min_bytes` the smallest hash of a quarter of it is an anchor (winnowing, Schleimer et al. 2003), so
/// two equal windows have the same anchor at the same place; texts are compared, byte by byte, around equal anchors alone. An
/// anchor of 32 bytes comes every `3/8 min_bytes`, and the texts are kept on disk until the end of the step: 1.4 bytes per byte of
/// text by default. Two limits: of one anchor with many different surroundings 32 are compared, and the inside of a long run of
/// one repeated pattern (a row of dashes) counts only near its ends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubstringDuplicates {
    /// The shortest passage that is removed, in bytes; 200 is about the 50 tokens of Lee et al.
    pub min_bytes: usize,
}

impl Default for SubstringDuplicates {
    fn default() -> Self {
        Self { min_bytes: 200 }
    }
}

impl SubstringDuplicates {
    /// Bytes of an anchor.
    fn anchor_bytes(&self) -> usize {
        self.min_bytes / 4
    }

    /// What is compared around an anchor: wherever the window lies that it is the anchor of, it is inside.
    fn around(&self, anchor: usize) -> Range<usize> {
        anchor.saturating_sub(self.min_bytes)..anchor + self.anchor_bytes() + self.min_bytes
    }

    /// The hashes of all runs of bytes as long as an anchor.
    fn hashes(&self, bytes: &[u8]) -> impl Iterator<Item = u64> {
        let n = self.anchor_bytes();
        let oldest = (1..n).fold(1, |power: u64, _| power.wrapping_mul(SPREAD));
        let add = |hash: u64, byte: u8| hash.wrapping_mul(SPREAD).wrapping_add(u64::from(byte) + 1);
        let first = bytes.iter().take(n - 1).fold(0, |hash, byte| add(hash, *byte));
        let rest = bytes.iter().skip(n - 1).zip(bytes);
        rest.scan(first, move |hash, (newest, last)| {
            let whole = add(*hash, *newest);
            *hash = whole.wrapping_sub(oldest.wrapping_mul(u64::from(*last) + 1));
            Some(mix(whole))
        })
    }

    /// Calls `found` with place and hash of each anchor.
    fn anchors(&self, bytes: &[u8], found: impl FnMut(usize, u64)) {
        let window = self.min_bytes - self.anchor_bytes() + 1;
        // Hashes of the window that may still become the smallest, rising; of equal ones the first counts.
        let mut low: VecDeque<(usize, u64)> = VecDeque::new();
        let mut runs = Runs::new(self, found);
        for (at, hash) in self.hashes(bytes).enumerate() {
            while low.back().is_some_and(|(_, other)| *other > hash) {
                low.pop_back();
            }
            low.push_back((at, hash));
            if low.front().is_some_and(|(other, _)| other + window <= at) {
                low.pop_front();
            }
            if let Some(&(anchor, hash)) = low.front().filter(|_| at + 1 >= window) {
                runs.push(anchor, hash);
            }
        }
        runs.end();
    }
}

/// Leaves out anchors inside a long run of one repeated pattern, where each repetition would be one: farther than `min_bytes` from
/// both of its ends.
struct Runs<F> {
    longest_pattern: usize,
    margin: usize,
    found: F,
    last: Option<(usize, u64)>,
    /// Where the run began, and how long its pattern is.
    start: usize,
    pattern: usize,
    /// Anchors that are near the end of the run if it ends now.
    held: VecDeque<usize>,
}

impl<F: FnMut(usize, u64)> Runs<F> {
    fn new(step: &SubstringDuplicates, found: F) -> Self {
        let (longest_pattern, margin) = (step.anchor_bytes(), step.min_bytes);
        Self { longest_pattern, margin, found, last: None, start: 0, pattern: 0, held: VecDeque::new() }
    }

    /// Takes the next anchor; the one before may come again.
    fn push(&mut self, at: usize, hash: u64) {
        if let Some((before, same)) = self.last {
            if before == at {
                return;
            }
            let gap = at - before;
            let first_gap = before == self.start;
            if same != hash || gap > self.longest_pattern || (gap != self.pattern && !first_gap) {
                self.end();
                self.start = at;
            }
            self.pattern = gap;
        } else {
            self.start = at;
        }
        self.last = Some((at, hash));
        if at - self.start <= self.margin {
            return (self.found)(at, hash);
        }
        self.held.push_back(at);
        while self.held.front().is_some_and(|held| held + self.margin < at) {
            self.held.pop_front();
        }
    }

    /// Ends the run.
    fn end(&mut self) {
        let hash = self.last.map_or(0, |(_, hash)| hash);
        while let Some(at) = self.held.pop_front() {
            (self.found)(at, hash);
        }
    }
}

/// An anchor with what stands around it.
struct Occurrence {
    place: Place,
    anchor: usize,
    /// Bytes before the anchor in `text`.
    before: usize,
    text: Vec<u8>,
}

impl Occurrence {
    /// Bytes around the anchor that are the same in both: before it, and from it on.
    fn common(&self, other: &Self) -> (usize, usize) {
        let equal = |(a, b): &(&u8, &u8)| a == b;
        let (own, others) = (self.text.split_at(self.before), other.text.split_at(other.before));
        let before = own.0.iter().rev().zip(others.0.iter().rev()).take_while(equal).count();
        (before, own.1.iter().zip(others.1).take_while(equal).count())
    }
}

impl Across for SubstringDuplicates {
    fn validate(&self) -> Result<()> {
        if !(32..=1 << 20).contains(&self.min_bytes) {
            let bytes = self.min_bytes;
            return Err(Error::usage(format!(
                "`min_bytes` of `substring_duplicates` is {bytes}, not in [32, 1048576]"
            ))
            .with_hint("200 is about 50 tokens; shorter passages repeat by chance"));
        }
        Ok(())
    }

    fn sketch_bytes(&self) -> usize {
        ANY_SIZE
    }

    fn keys(&self, document: &Document, place: Place, keys: &mut Keys) {
        let bytes = document.text.as_bytes();
        self.anchors(bytes, |at, hash| {
            if let Ok(part) = u32::try_from(at) {
                // Smallest hashes are no well mixed bits.
                keys.push(Key { hash: mix(hash), check: 0, place, part });
            }
        });
        keys.sketch().extend(bytes);
    }

    fn group(&self, group: &[Key], sketches: &dyn Sketches, decisions: &mut Vec<Decision>) -> Result<()> {
        let mut kept: Vec<Occurrence> = Vec::new();
        for key in group {
            let anchor = key.part as usize;
            let around = self.around(anchor);
            let before = anchor - around.start;
            let own = Occurrence { place: key.place, anchor, before, text: sketches.part(key.place, around)? };
            let mut whole = false;
            for other in &kept {
                let (before, after) = own.common(other);
                // The other shows all that this one does: a later one need not be compared with both.
                whole |= before + after == own.text.len();
                decisions.extend(self.repetition(&own, other, before, after));
            }
            if !whole && kept.len() < MAX_REPRESENTATIVES {
                kept.push(own);
            }
        }
        Ok(())
    }

    fn finish(&self, mut decisions: Vec<Decision>) -> Vec<Decision> {
        decisions.sort_unstable();
        let end = |decision: &Decision| u64::from(decision.part) + u64::from(decision.length);
        let mut merged: Vec<Decision> = Vec::new();
        for decision in decisions {
            match merged.last_mut().filter(|last| last.place == decision.place && end(last) >= decision.part.into()) {
                Some(last) => last.length = (end(last).max(end(&decision)) - u64::from(last.part)) as u32,
                None => merged.push(decision),
            }
        }
        merged
    }

    fn apply(&self, document: &mut Document, decisions: &[Decision], notes: &mut Notes) -> Verdict {
        let range = |decision: &Decision| {
            let start = decision.part as usize;
            start..start + decision.length as usize
        };
        cut(document, decisions.iter().map(range), "substring_duplicates", notes)
    }
}

impl SubstringDuplicates {
    /// What of an occurrence repeats an earlier one that is equal from `before` bytes before the anchor to `after` bytes after its
    /// start. Within a document the two must not overlap: of a pattern that goes on and on the first `min_bytes` stay.
    fn repetition(&self, own: &Occurrence, other: &Occurrence, before: usize, after: usize) -> Option<Decision> {
        let (mut start, end) = (own.anchor - before, own.anchor + after);
        if own.place == other.place {
            let distance = own.anchor - other.anchor;
            start += distance * (self.min_bytes.div_ceil(distance) - 1);
        }
        let long = after >= self.anchor_bytes() && end >= start + self.min_bytes;
        let [part, length] = [start, end.saturating_sub(start)].map(u32::try_from);
        match (part, length) {
            (Ok(part), Ok(length)) if long => Some(Decision { place: own.place, part, length, other: other.place }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::memory::{step, texts};
    use super::*;

    /// What the definition leaves: bytes that no window covers that occurs earlier, in an earlier document or wholly before itself.
    fn plain(texts: &[String], min_bytes: usize) -> Vec<String> {
        let mut first: HashMap<&[u8], (usize, usize)> = HashMap::new();
        let mut left = Vec::new();
        for (place, text) in texts.iter().enumerate() {
            let mut goes = vec![false; text.len()];
            for (at, window) in text.as_bytes().windows(min_bytes).enumerate() {
                let (other, start) = *first.entry(window).or_insert((place, at));
                if other < place || start + min_bytes <= at {
                    goes[at..at + min_bytes].fill(true);
                }
            }
            left.push(text.bytes().zip(goes).filter(|(_, goes)| !goes).map(|(byte, _)| char::from(byte)).collect());
        }
        left
    }

    /// Texts that quote passages of each other and of themselves.
    fn quoting(seed: u64, letters: u64) -> Vec<String> {
        let mut state = seed;
        let mut draw = |n: u64| {
            state += 1;
            mix(state) % n
        };
        let mut texts: Vec<String> = Vec::new();
        for _ in 0..12 {
            let mut text = String::new();
            for _ in 0..6 {
                let quote = texts.get(draw(14) as usize).cloned().unwrap_or(text.clone());
                let from = draw(quote.len() as u64 + 1) as usize;
                text.push_str(&quote[from..quote.len().min(from + draw(150) as usize)]);
                text.extend((0..draw(60)).map(|_| char::from(b'a' + draw(letters) as u8)));
            }
            texts.push(text);
        }
        texts
    }

    #[test]
    fn exactly_the_windows_that_occur_earlier_go() {
        for (seed, min_bytes) in (0..60).zip([32, 40, 64].into_iter().cycle()) {
            let all = quoting(seed << 32, 26);
            let step = step::<SubstringDuplicates>(&format!("min_bytes = {min_bytes}"));
            let left = texts(&step, &all);
            let removed = all.iter().map(String::len).sum::<usize>() - left.iter().map(String::len).sum::<usize>();
            assert!(removed > 100, "{removed}");
            for (left, plain) in left.iter().zip(plain(&all, min_bytes)) {
                assert_eq!(*left, plain, "seed {seed}");
            }
        }
    }

    #[test]
    fn of_a_pattern_that_goes_on_the_beginning_stays() {
        let step = step::<SubstringDuplicates>("min_bytes = 40");
        for (pattern, times) in [("-", 100), ("=-", 50), ("a long line again\n", 30)] {
            let left = texts(&step, &[format!("before {} after", pattern.repeat(times))]);
            assert!(left[0].len() < 80 && left[0].starts_with("before") && left[0].ends_with("after"), "{left:?}");
        }
    }

    #[test]
    fn long_runs_have_few_anchors() {
        let step = SubstringDuplicates::default();
        let text = ["one".repeat(20), "-".repeat(100_000), "two".repeat(20), "=-".repeat(50_000)].concat();
        let mut anchors = 0;
        step.anchors(text.as_bytes(), |_, _| anchors += 1);
        assert!((100..1500).contains(&anchors), "{anchors}");
    }

    #[test]
    fn a_text_of_repeated_passages_goes_and_characters_stay_whole() {
        let step = step::<SubstringDuplicates>("min_bytes = 40");
        let passage = "Ein längerer Satz über Flüsse, Brücken und Dörfer.";
        let left = texts(&step, &[passage.to_owned(), passage.to_owned(), format!("Ä{passage}Ö"), "kürzer".to_owned()]);
        assert_eq!(left, [passage, "", "ÄÖ", "kürzer"]);
    }
}
