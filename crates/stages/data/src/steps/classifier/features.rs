//! What a linear classifier sees of a text: hashed words, pairs of words and pieces of words.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::steps::words::is_unspaced;

/// What is counted of a text. A model keeps them, because its weights mean nothing with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Features {
    /// The longest run of words that is a feature; 2. 0 for none.
    pub word_ngrams: usize,
    /// The shortest piece of a word that is a feature, in characters; 3.
    pub min_characters: usize,
    /// The longest; 5. 0 for none.
    pub max_characters: usize,
    /// Features are hashed to 2 to the power of this many numbers; 20.
    pub bits: u32,
    /// Only so much of a text is looked at, in bytes; 20,000.
    pub most_bytes: usize,
}

impl Default for Features {
    fn default() -> Self {
        Self { word_ngrams: 2, min_characters: 3, max_characters: 5, bits: 20, most_bytes: 20_000 }
    }
}

/// A text's features: their numbers in ascending order, each once, with their values. The squares of the values add up to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vector {
    pub features: Vec<(u32, f32)>,
}

const BETWEEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Features {
    /// A text's features, each as heavy as 1 + ln of how often it is there.
    pub fn of(&self, text: &str) -> Vector {
        let mut numbers = Vec::new();
        let mut hashes: Vec<u64> = Vec::new();
        self.each_word(text, |word| {
            hashes.push(xxh3_64(word.as_bytes()));
            self.pieces(word, &mut numbers);
        });
        for start in 0..hashes.len() {
            let mut hash = 0_u64;
            for word in hashes.iter().skip(start).take(self.word_ngrams) {
                hash = (hash.rotate_left(23) ^ word).wrapping_mul(BETWEEN);
                numbers.push(self.number(hash));
            }
        }
        numbers.sort_unstable();
        let mut vector = Vector::default();
        for run in numbers.chunk_by(|a, b| a == b) {
            vector.features.push((run[0], 1.0 + (run.len() as f32).ln()));
        }
        let norm = vector.features.iter().map(|(_, x)| x * x).sum::<f32>().sqrt();
        vector.features.iter_mut().for_each(|(_, x)| *x /= norm);
        vector
    }

    fn number(&self, hash: u64) -> u32 {
        (hash >> (64 - self.bits)) as u32
    }

    /// Calls `visit` with the words in lower case: runs of letters, digits and marks, single characters of scripts without
    /// spaces, single signs.
    fn each_word(&self, text: &str, mut visit: impl FnMut(&str)) {
        let mut word = String::new();
        let mut finish = |word: &mut String| {
            if !word.is_empty() {
                visit(word);
                word.clear();
            }
        };
        let end = text.floor_char_boundary(self.most_bytes.min(text.len()));
        for c in text[..end].chars() {
            if (c.is_alphanumeric() || matches!(c, '\u{300}'..='\u{36F}')) && !is_unspaced(c) {
                word.extend(c.to_lowercase());
            } else {
                finish(&mut word);
                if !c.is_whitespace() {
                    word.push(c);
                    finish(&mut word);
                }
            }
        }
        finish(&mut word);
    }

    /// The pieces of a word, whose ends belong to it.
    fn pieces(&self, word: &str, numbers: &mut Vec<u32>) {
        if self.max_characters == 0 {
            return;
        }
        let marked = format!("<{word}>");
        let starts: Vec<usize> = marked.char_indices().map(|(at, _)| at).chain([marked.len()]).collect();
        for n in self.min_characters..=self.max_characters {
            for window in starts.windows(n + 1) {
                let piece = &marked.as_bytes()[window[0]..window[n]];
                numbers.push(self.number(xxh3_64_with_seed(piece, BETWEEN)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_in_order_and_of_length_one() {
        let vector = Features::default().of("One word, and one WORD more: 春眠。");
        assert!(vector.features.is_sorted_by(|a, b| a.0 < b.0));
        let norm: f32 = vector.features.iter().map(|(_, x)| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
        assert!(Features::default().of(" \n").features.is_empty());
    }

    #[test]
    fn case_does_not_count_and_order_does() {
        let of = |text| Features::default().of(text);
        assert_eq!(of("Good Film"), of("good film"));
        assert_ne!(of("film good"), of("good film"));
        assert_eq!(Features { max_characters: 0, word_ngrams: 1, ..Features::default() }.of("a b c").features.len(), 3);
    }

    #[test]
    fn only_the_beginning_of_a_long_text_counts() {
        let features = Features { most_bytes: 4, ..Features::default() };
        assert_eq!(features.of("ab é and more"), features.of("ab "));
    }
}
