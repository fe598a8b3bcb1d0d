//! The repetition rules of Gopher.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::lines::{repeated, share, visible_lines};
use crate::step::{Each, Kind, Notes, Verdict, first_reason};

/// Rae et al. 2021, appendix A1.2, table A1. Lines, paragraphs (between blank lines) and word n-grams that repeat; the words
/// are what stands between white space, and shares are of the text's characters.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GopherRepetition {}

/// The step.
pub const GOPHER_REPETITION: Kind = Kind::each::<GopherRepetition>(
    "gopher_repetition",
    "repeated lines, paragraphs and word n-grams (Rae et al. 2021, A1.2)",
);

const MAX_REPEATED_LINES: f64 = 0.30;
const MAX_REPEATED_PARAGRAPHS: f64 = 0.30;
const MAX_CHARACTERS_IN_REPEATED_LINES: f64 = 0.20;
const MAX_CHARACTERS_IN_REPEATED_PARAGRAPHS: f64 = 0.20;

/// Words, and the largest share of the characters that the most frequent n-gram of so many words may cover.
const TOP: [(usize, f64, &str); 3] =
    [(2, 0.20, "gopher_top_2_gram"), (3, 0.18, "gopher_top_3_gram"), (4, 0.16, "gopher_top_4_gram")];

/// Words, and the largest share of the characters that repeated n-grams of so many words may cover.
const REPEATED: [(usize, f64, &str); 6] = [
    (5, 0.15, "gopher_duplicated_5_n_grams"),
    (6, 0.14, "gopher_duplicated_6_n_grams"),
    (7, 0.13, "gopher_duplicated_7_n_grams"),
    (8, 0.12, "gopher_duplicated_8_n_grams"),
    (9, 0.11, "gopher_duplicated_9_n_grams"),
    (10, 0.10, "gopher_duplicated_10_n_grams"),
];

impl Each for GopherRepetition {
    fn apply(&self, document: &mut Document, _: &mut Notes) -> Verdict {
        self.check(&document.text)
    }
}

impl GopherRepetition {
    /// Keep or drop.
    fn check(&self, text: &str) -> Verdict {
        let characters = text.chars().count();
        let paragraphs = repeated(text.split("\n\n").map(str::trim).filter(|p| !p.is_empty()), characters);
        let lines = repeated(visible_lines(text), characters);
        let verdict = first_reason(&[
            (paragraphs.parts > MAX_REPEATED_PARAGRAPHS, "gopher_dup_para_frac"),
            (paragraphs.characters > MAX_CHARACTERS_IN_REPEATED_PARAGRAPHS, "gopher_dup_para_char_frac"),
            (lines.parts > MAX_REPEATED_LINES, "gopher_dup_line_frac"),
            (lines.characters > MAX_CHARACTERS_IN_REPEATED_LINES, "gopher_dup_line_char_frac"),
        ]);
        if verdict != Verdict::Keep {
            return verdict;
        }
        let words = Words::new(text);
        let top = TOP.iter().find(|(n, limit, _)| share(words.top(*n), characters) > *limit);
        let reason =
            top.or_else(|| REPEATED.iter().find(|(n, limit, _)| share(words.repeated(*n), characters) > *limit));
        reason.map_or(Verdict::Keep, |(_, _, reason)| Verdict::Drop(reason))
    }
}

/// Hash and length of each word.
struct Words {
    hashes: Vec<u64>,
    /// Characters.
    lengths: Vec<usize>,
}

impl Words {
    fn new(text: &str) -> Self {
        let (hashes, lengths) = text.split_whitespace().map(|w| (xxh3_64(w.as_bytes()), w.chars().count())).unzip();
        Self { hashes, lengths }
    }

    /// The n-grams' hashes, each with its characters (no spaces between the words).
    fn grams(&self, n: usize) -> impl Iterator<Item = (u64, usize)> {
        let hash =
            |gram: &[u64]| gram.iter().fold(0_u64, |h, w| (h ^ w).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29));
        self.hashes.windows(n).zip(self.lengths.windows(n)).map(move |(h, l)| (hash(h), l.iter().sum()))
    }

    /// Characters in all occurrences of the most frequent n-gram; 0 if none comes twice.
    fn top(&self, n: usize) -> usize {
        let mut counts: HashMap<u64, (usize, usize), Identity> = HashMap::default();
        for (hash, length) in self.grams(n) {
            counts.entry(hash).or_insert((0, length)).0 += 1;
        }
        // Of equally frequent n-grams the longest, so that the order of the table does not matter.
        let (count, length) = counts.into_values().max().unwrap_or_default();
        if count < 2 { 0 } else { count * length }
    }

    /// Characters in n-grams that were there before, none counted twice.
    fn repeated(&self, n: usize) -> usize {
        let mut seen = std::collections::HashSet::with_hasher(Identity::default());
        let (mut characters, mut free_from) = (0, 0);
        for (at, (hash, length)) in self.grams(n).enumerate() {
            if at >= free_from && !seen.insert(hash) {
                characters += length;
                free_from = at + n;
            }
        }
        characters
    }
}

/// The keys are hashes already.
type Identity = std::hash::BuildHasherDefault<IdentityHasher>;

#[derive(Default)]
struct IdentityHasher(u64);

impl std::hash::Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` different words.
    fn words(n: usize) -> String {
        (0..n).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_rule_has_its_reason() {
        let long = words(60);
        for (text, expected) in [
            ("one\n\ntwo\n\none".to_owned(), "gopher_dup_para_frac"),
            (format!("{long}\n\nother\n\nmore\n\nthings\n\n{long}"), "gopher_dup_para_char_frac"),
            ("one\ntwo\none".to_owned(), "gopher_dup_line_frac"),
            (format!("{long}\nother\nmore\nthings\n{long}"), "gopher_dup_line_char_frac"),
            (format!("{} {}", "again again ".repeat(20), words(40)), "gopher_top_2_gram"),
            (format!("{long} a {long}"), "gopher_duplicated_5_n_grams"),
        ] {
            assert_eq!(GopherRepetition {}.check(&text), Verdict::Drop(expected));
        }
        assert_eq!(GopherRepetition {}.check(&long), Verdict::Keep);
    }

    #[test]
    fn repeated_characters_are_counted_once() {
        let words = Words::new("a b c d e x a b c d e f");
        assert_eq!(words.repeated(5), 5);
        assert_eq!((words.top(2), Words::new("a b c").top(2)), (4, 0));
    }
}
