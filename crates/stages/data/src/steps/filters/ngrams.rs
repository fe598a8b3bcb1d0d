//! Word n-grams that repeat.
//!
//! An n-gram can only be there twice where both (n-1)-grams in it are, so each length looks only at the places that the one
//! before it left: of ordinary text nearly nothing remains after four words.

use crate::steps::words::{Table, Words};

/// Repeated n-grams of one length, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repetition {
    /// In all occurrences of the most frequent n-gram, with a space between its words; of equally frequent ones the first.
    pub top: usize,
    /// In n-grams that were there before, without spaces; none overlaps another that is counted.
    pub duplicated: usize,
}

/// Counts n-grams; what it works with is used again for the next text.
#[derive(Default)]
pub struct Ngrams {
    /// Places of n-grams that are there more than once, and which n-gram it is.
    places: Vec<(u32, u32)>,
    candidates: Vec<(u32, u32)>,
    groups: Table,
    /// How often each word is there; nothing but zeros between two texts.
    word_counts: Vec<u32>,
    /// How often each n-gram is there, and its first place.
    counts: Vec<(u32, u32)>,
    seen: Vec<bool>,
    /// Characters before each word.
    offsets: Vec<usize>,
    repetitions: Vec<Repetition>,
}

impl Ngrams {
    /// What repeats, by the number of words, for 0 to `longest` words.
    pub fn count(&mut self, words: &Words, longest: usize) -> &[Repetition] {
        self.single_words(words);
        self.repetitions.clear();
        self.repetitions.resize(longest + 1, Repetition::default());
        for n in 2..=longest.min(words.ids().len()) {
            self.lengthen(n);
            self.repetitions[n] = Repetition { top: self.top(n), duplicated: self.duplicated(n) };
        }
        &self.repetitions
    }

    /// Characters of the `n` words from a place.
    fn characters(&self, place: usize, n: usize) -> usize {
        self.offsets[place + n] - self.offsets[place]
    }

    fn single_words(&mut self, words: &Words) {
        self.offsets.clear();
        self.offsets.push(0);
        self.word_counts.resize(words.numbers().max(self.word_counts.len()), 0);
        let mut characters = 0;
        for (id, entry) in words.ids().iter().zip(words.entries()) {
            characters += entry.chars as usize;
            self.offsets.push(characters);
            self.word_counts[*id as usize] += 1;
        }
        let places = (0_u32..).zip(words.ids().iter().copied());
        self.places.clear();
        self.places.extend(places.filter(|(_, id)| self.word_counts[*id as usize] > 1));
        words.ids().iter().for_each(|id| self.word_counts[*id as usize] = 0);
    }

    /// From the repeated (n-1)-grams to the repeated n-grams.
    fn lengthen(&mut self, n: usize) {
        let last = self.offsets.len() - 1 - n;
        self.groups.clear();
        self.counts.clear();
        self.candidates.clear();
        for pair in self.places.windows(2) {
            let [(place, first), (next, second)] = [pair[0], pair[1]];
            if next != place + 1 || place as usize > last {
                continue;
            }
            let new = self.counts.len() as u32;
            let group = self.groups.get_or_insert(u64::from(first) << 32 | u64::from(second), new);
            if group == new {
                self.counts.push((0, place));
            }
            self.counts[group as usize].0 += 1;
            self.candidates.push((place, group));
        }
        self.places.clear();
        self.places.extend(self.candidates.iter().filter(|(_, group)| self.counts[*group as usize].0 > 1));
    }

    fn top(&self, n: usize) -> usize {
        // Groups stand in the order of their first places; where none repeats, the text's first n-gram is the top one.
        let mut top = (1, 0);
        for (count, place) in &self.counts {
            if *count > top.0 {
                top = (*count, *place);
            }
        }
        top.0 as usize * (self.characters(top.1 as usize, n) + n - 1)
    }

    fn duplicated(&mut self, n: usize) -> usize {
        self.seen.clear();
        self.seen.resize(self.counts.len(), false);
        let (mut characters, mut free_from) = (0, 0);
        for i in 0..self.places.len() {
            let (place, group) = (self.places[i].0 as usize, self.places[i].1 as usize);
            if place < free_from {
                continue;
            }
            if std::mem::replace(&mut self.seen[group], true) {
                characters += self.characters(place, n);
                free_from = place + n;
            }
        }
        characters
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::steps::words::{Splitting, with_words};

    fn count(text: &str, longest: usize) -> Vec<Repetition> {
        with_words(text, Splitting::English, |words| Ngrams::default().count(words, longest).to_vec())
    }

    /// The same by the definition.
    fn plain(words: &[&str], n: usize) -> Repetition {
        let grams: Vec<String> = words.windows(n).map(|gram| gram.join(" ")).collect();
        let times = |gram: &String| grams.iter().filter(|other| *other == gram).count();
        let most = grams.iter().map(times).max().unwrap_or(0);
        let top = grams.iter().find(|gram| times(gram) == most).map_or(0, |gram| gram.len() * most);
        let (mut seen, mut at, mut duplicated) = (HashSet::new(), 0, 0);
        while at < grams.len() {
            if seen.insert(&grams[at]) {
                at += 1;
            } else {
                duplicated += grams[at].len() + 1 - n;
                at += n;
            }
        }
        Repetition { top, duplicated }
    }

    #[test]
    fn repeated_characters_are_counted_once() {
        assert_eq!(count("a b c d e x a b c d e f", 5)[5].duplicated, 5);
        assert_eq!((count("a b c d e x a b", 2)[2].top, count("a b c", 2)[2].top), (6, 3));
    }

    #[test]
    fn fewer_words_than_an_n_gram_has_repeat_nothing() {
        assert_eq!(count("one two", 4)[3..], [Repetition::default(); 2]);
        assert_eq!(count("", 2)[2], Repetition::default());
    }

    #[test]
    fn the_counts_are_those_of_the_definition() {
        let mut state = 1_u64;
        for (length, vocabulary) in [(3, 2), (30, 2), (60, 3), (200, 4), (400, 30), (300, 1)] {
            let words: Vec<&str> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
                    ["one", "two", "three", "four", "five"][(state >> 33) as usize % vocabulary % 5]
                })
                .collect();
            let found = count(&words.join(" "), 10);
            for n in 2..=10.min(length) {
                assert_eq!(found[n], plain(&words, n), "{n} of {length}");
            }
        }
    }
}
