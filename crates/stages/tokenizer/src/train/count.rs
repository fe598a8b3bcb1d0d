//! How often each word of a text occurs, on all cores.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use rayon::prelude::*;

use crate::byte_bpe::{LONGEST_SHORT_WORD, ShortWord, Words};

/// Bytes of text that are counted at once.
const PIECE: usize = 1 << 20;

/// Words as bytes with their counts, in the order of their bytes. Words are GPT-2's.
pub(super) fn count_words(texts: &[&str]) -> Vec<(Box<[u8]>, u64)> {
    let pieces: Vec<&str> = texts.iter().flat_map(|text| pieces(text, PIECE)).collect();
    let counts = pieces.into_par_iter().fold(Counts::default, Counts::with).reduce(Counts::default, Counts::and);
    let short = counts.short.into_iter().map(|(word, n)| (word.bytes(), n));
    let long = counts.long.into_iter().map(|(word, n)| (Box::from(word), n));
    let mut words: Vec<(Box<[u8]>, u64)> = short.chain(long).collect();
    words.par_sort_unstable();
    words
}

/// Cuts a text before white space that follows something else: there a word of GPT-2's begins, whatever stands around.
fn pieces(text: &str, size: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > size {
        let from = rest.ceil_char_boundary(size);
        let mut before_is_space = true;
        let begins = |(_, c): &(usize, char)| {
            let is_space = c.is_whitespace();
            let begins = is_space && !before_is_space;
            before_is_space = is_space;
            begins
        };
        let Some((at, _)) = rest[from..].char_indices().find(begins) else { break };
        let (piece, next) = rest.split_at(from + at);
        pieces.push(piece);
        rest = next;
    }
    pieces.push(rest);
    pieces
}

/// Words and how often they occur.
#[derive(Default)]
struct Counts<'t> {
    short: HashMap<ShortWord, u64, BuildHasherDefault<Mix>>,
    long: HashMap<&'t [u8], u64>,
}

impl<'t> Counts<'t> {
    fn with(mut self, text: &'t str) -> Self {
        let bytes = text.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            let end = Words::Gpt2.end(text, start);
            if end - start <= LONGEST_SHORT_WORD {
                *self.short.entry(ShortWord::new(bytes, start, end)).or_default() += 1;
            } else {
                *self.long.entry(&bytes[start..end]).or_default() += 1;
            }
            start = end;
        }
        self
    }

    fn and(self, other: Self) -> Self {
        let (mut more, less) = if self.short.len() < other.short.len() { (other, self) } else { (self, other) };
        less.short.into_iter().for_each(|(word, n)| *more.short.entry(word).or_default() += n);
        less.long.into_iter().for_each(|(word, n)| *more.long.entry(word).or_default() += n);
        more
    }
}

/// Mixes numbers by multiplication; for keys that nobody chooses to collide, or that are few.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(29) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }

    fn write_u128(&mut self, n: u128) {
        self.write_u64(n as u64);
        self.write_u64((n >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_alike_in_pieces_of_any_size() {
        let text = "one two  three\n\n four\u{3000}\u{3000}five, \t six's seven-eight  nine\u{a0}ten".repeat(7);
        let whole: Vec<&str> = Words::Gpt2.iter(&text).collect();
        for size in 1..text.len() + 2 {
            let parts = pieces(&text, size);
            let words: Vec<&str> = parts.iter().flat_map(|piece| Words::Gpt2.iter(piece)).collect();
            assert_eq!(words, whole, "{size}");
        }
    }

    #[test]
    fn counts_add_up_over_texts() {
        let counts = count_words(&["a b a", " b incomprehensibilities", "a"]);
        let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
        let counts: Vec<(String, u64)> = counts.into_iter().map(|(word, n)| (text(&word), n)).collect();
        let want = [(" a", 1), (" b", 2), (" incomprehensibilities", 1), ("a", 2)];
        assert_eq!(counts, want.map(|(word, n)| (word.to_owned(), n)));
    }
}
