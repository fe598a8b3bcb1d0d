//! Which n-grams the evaluation items have.

use std::collections::HashMap;
use std::ops::Range;

use super::items::Passage;
use crate::steps::word_hashes::{Grams, each_word};

/// Where an n-gram stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    passage: u32,
    word: u32,
}

/// The n-grams of one length.
#[derive(Debug)]
pub struct Index {
    /// Words of an n-gram.
    pub n: usize,
    grams: Grams,
    /// Bit `hash % len` is set for each n-gram: most others are told from these by it alone.
    seen: Vec<u64>,
    positions: HashMap<u64, Vec<Position>>,
}

/// Words of a document that are also words of a passage, in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The passage.
    pub passage: u32,
    /// The words of the document.
    pub words: Range<usize>,
    /// The first of them in the passage.
    pub first: usize,
}

impl Index {
    /// The n-grams of the passages of so many words; those that more than `max_items` items have are left out.
    pub fn new(passages: &[Passage], n: usize, words: Range<usize>, max_items: usize) -> Self {
        let grams = Grams::new(n);
        let mut positions: HashMap<u64, Vec<Position>> = HashMap::new();
        for (passage, text) in (0..).zip(passages) {
            let hashes = word_hashes(&text.text);
            if words.contains(&hashes.len()) {
                let mut word = 0;
                grams.each(&hashes, |hash| {
                    positions.entry(hash).or_default().push(Position { passage, word });
                    word += 1;
                });
            }
        }
        positions.retain(|_, all| {
            let mut items: Vec<(u32, u32)> = all.iter().map(|p| &passages[p.passage as usize]).map(item_of).collect();
            items.dedup();
            items.len() <= max_items
        });
        let mut seen = vec![0; (positions.len() / 4).next_power_of_two()];
        for hash in positions.keys() {
            let (word, bit) = place(*hash, seen.len());
            seen[word] |= bit;
        }
        Self { n, grams, seen, positions }
    }

    /// How many n-grams there are.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// The overlaps of a text, given by the hashes of its words, with any passage; each as long as it goes on.
    pub fn overlaps(&self, words: &[u64]) -> Vec<Overlap> {
        let (mut found, mut open): (Vec<Overlap>, HashMap<(u32, usize), usize>) = Default::default();
        let mut at = 0;
        self.grams.each(words, |hash| {
            let (word, bit) = place(hash, self.seen.len());
            if self.seen[word] & bit != 0 {
                for position in self.positions.get(&hash).into_iter().flatten() {
                    let (passage, first) = (position.passage, position.word as usize);
                    // The same passage at the same distance: the overlap goes on.
                    let overlap = open.entry((passage, at + self.n - first)).or_insert(usize::MAX);
                    match found.get_mut(*overlap).filter(|overlap| overlap.words.end + 1 == at + self.n) {
                        Some(overlap) => overlap.words.end += 1,
                        None => {
                            *overlap = found.len();
                            found.push(Overlap { passage, words: at..at + self.n, first });
                        }
                    }
                }
            }
            at += 1;
        });
        found
    }
}

fn item_of(passage: &Passage) -> (u32, u32) {
    (passage.file, passage.item)
}

fn place(hash: u64, words: usize) -> (usize, u64) {
    ((hash >> 6) as usize & (words - 1), 1 << (hash & 63))
}

/// The hashes of a text's words.
pub fn word_hashes(text: &str) -> Vec<u64> {
    let mut words = Vec::with_capacity(text.len() / 5);
    each_word(text, |hash, _| words.push(hash));
    words
}

/// Where a text's words stand.
pub fn word_places(text: &str) -> Vec<Range<usize>> {
    let mut places = Vec::with_capacity(text.len() / 5);
    each_word(text, |_, place| places.push(place));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passages(texts: &[&str]) -> Vec<Passage> {
        (0..).zip(texts).map(|(item, text)| Passage { file: 0, item, text: (*text).to_owned() }).collect()
    }

    #[test]
    fn overlaps_are_as_long_as_they_go_on() {
        let index = Index::new(&passages(&["a b c d e f", "x y z"]), 3, 0..100, 10);
        let overlaps = index.overlaps(&word_hashes("1 B, c d E 2 x y z a b c"));
        let expected = [(0, 1..5, 1), (1, 6..9, 0), (0, 9..12, 0)];
        let expected = expected.map(|(passage, words, first)| Overlap { passage, words, first });
        assert_eq!(overlaps, expected);
        assert_eq!(index.overlaps(&word_hashes("a b d c")), []);
        assert_eq!(index.overlaps(&[]), []);
    }

    #[test]
    fn what_many_items_have_is_no_sign_of_one() {
        let texts = ["which of these is it one", "which of these is it two", "which of these is it three"];
        assert_eq!(Index::new(&passages(&texts), 4, 0..100, 3).len(), 5);
        assert_eq!(Index::new(&passages(&texts), 4, 0..100, 2).len(), 3);
    }

    #[test]
    fn passages_of_other_lengths_are_left_out() {
        let texts = passages(&["a b c", "a b c d e"]);
        assert_eq!(Index::new(&texts, 3, 3..4, 10).len(), 1);
        assert_eq!(Index::new(&texts, 3, 4..9, 10).len(), 3);
        assert_eq!(Index::new(&[], 3, 0..9, 10).overlaps(&word_hashes("a b c d")), []);
    }
}
