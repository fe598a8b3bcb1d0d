//! The words of a text, for the steps that count them.
//!
//! Words are divided as spaCy's rules for English do (`english`), which is what the published filters are used with; or every
//! character of a script without spaces is a word of its own. A text is divided once: steps that follow each other on the same
//! text share what was found, and what stands between two spaces is looked up where it has been seen before.

mod classes;
mod english;
mod exceptions;
mod table;
mod tables;

use std::cell::RefCell;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub use classes::{is_space, is_terminal, is_unspaced};
pub use table::Table;

/// What a word is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Splitting {
    /// As spaCy divides English; a run of Chinese characters is one word.
    #[default]
    English,
    /// The same, but every Chinese character, Japanese syllable and Thai, Lao, Khmer or Myanmar letter is a word.
    Characters,
}

/// A word as filters see it: equal words have equal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Well mixed bits of its text.
    pub hash: u64,
    /// Its length in characters.
    pub chars: u32,
    kind: u8,
}

const ALPHABETIC: u8 = 1;
const SYMBOL: u8 = 2;
const PUNCTUATION: u8 = 4;
const FULL_STOP: u8 = 8;

impl Entry {
    fn new(text: &str) -> Self {
        if text.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Self { hash: hash(text), chars: u32::try_from(text.len()).unwrap_or(u32::MAX), kind: ALPHABETIC };
        }
        let all = |class: fn(char) -> bool| text.chars().all(class);
        let mut full_stop = text.chars();
        let kind = [
            (text.chars().any(char::is_alphabetic), ALPHABETIC),
            (all(classes::is_symbol), SYMBOL),
            (all(classes::is_punctuation), PUNCTUATION),
            (full_stop.next().is_some_and(classes::is_full_stop) && full_stop.next().is_none(), FULL_STOP),
        ];
        Self {
            hash: hash(text),
            chars: u32::try_from(text.chars().count()).unwrap_or(u32::MAX),
            kind: kind.iter().filter(|(holds, _)| *holds).map(|(_, bit)| bit).sum(),
        }
    }

    /// Has a letter.
    pub fn is_alphabetic(self) -> bool {
        self.kind & ALPHABETIC != 0
    }

    /// Has nothing but what datatrove calls punctuation.
    pub fn is_symbol(self) -> bool {
        self.kind & SYMBOL != 0
    }

    /// Has nothing but what Unicode calls punctuation.
    pub fn is_punctuation(self) -> bool {
        self.kind & PUNCTUATION != 0
    }

    /// Is a character that ends a sentence.
    pub fn is_full_stop(self) -> bool {
        self.kind & FULL_STOP != 0
    }
}

/// The hash by which words are told apart.
pub fn hash(word: &str) -> u64 {
    xxh3_64(word.as_bytes())
}

/// The words of one text after another.
#[derive(Default)]
pub struct Words {
    ids: Vec<u32>,
    text: Option<(u64, usize, Splitting)>,
    splitting: Splitting,
    /// One for each splitting, so that steps that differ do not make each other forget.
    lexicons: [Lexicon; 2],
}

impl Words {
    /// The number of each word, in the text's order.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The words, in the text's order.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let entries = &self.lexicons[self.splitting as usize].entries;
        self.ids.iter().map(|id| entries[*id as usize])
    }

    /// How many different words there may be: all numbers are below.
    pub fn numbers(&self) -> usize {
        self.lexicons[self.splitting as usize].entries.len()
    }

    fn forget(&mut self) {
        self.text = None;
        self.ids.clear();
    }

    /// The lexicon of a splitting, emptied where it has grown too large.
    fn lexicon(&mut self, splitting: Splitting) -> &mut Lexicon {
        if self.lexicons[splitting as usize].is_full() {
            // The numbers of the last text's words mean nothing then.
            self.forget();
            self.lexicons[splitting as usize].clear();
        }
        &mut self.lexicons[splitting as usize]
    }

    fn divide(&mut self, text: &str, splitting: Splitting) {
        let key = (xxh3_64(text.as_bytes()), text.len(), splitting);
        if self.text != Some(key) {
            self.forget();
            self.splitting = splitting;
            self.lexicon(splitting);
            let (lexicon, ids) = (&mut self.lexicons[splitting as usize], &mut self.ids);
            chunks(text, |chunk| lexicon.push(chunk, splitting, ids));
            self.text = Some(key);
        }
    }
}

thread_local! {
    static WORDS: RefCell<Words> = RefCell::default();
    static CHUNK: RefCell<Vec<u32>> = RefCell::default();
}

/// Gives the words of a text to `look`.
pub fn with_words<R>(text: &str, splitting: Splitting, look: impl FnOnce(&Words) -> R) -> R {
    WORDS.with_borrow_mut(|words| {
        words.divide(text, splitting);
        look(words)
    })
}

/// Counts sentences up to `most`: they end in a full stop and the punctuation after it.
pub fn count_sentences(text: &str, most: usize) -> usize {
    WORDS.with_borrow_mut(|words| CHUNK.with_borrow_mut(|ids| words.count_sentences(text, most, ids)))
}

impl Words {
    fn count_sentences(&mut self, text: &str, most: usize, ids: &mut Vec<u32>) -> usize {
        let lexicon = self.lexicon(Splitting::English);
        let (mut sentences, mut full_stop) = (usize::from(!text.trim_matches(is_space).is_empty()), false);
        let mut end_of_last = 0;
        chunks(text, |chunk| {
            let start = chunk.as_ptr() as usize - text.as_ptr() as usize;
            // More than one space between words begins a sentence like a word.
            if full_stop && text[end_of_last..start] != *" " {
                sentences += 1;
                full_stop = false;
            }
            end_of_last = start + chunk.len();
            if sentences >= most {
                return;
            }
            ids.clear();
            lexicon.push(chunk, Splitting::English, ids);
            for entry in ids.iter().map(|id| lexicon.entries[*id as usize]) {
                if entry.is_full_stop() {
                    full_stop = true;
                } else if full_stop && !entry.is_punctuation() {
                    sentences += 1;
                    full_stop = false;
                }
            }
        });
        sentences.min(most)
    }
}

/// Calls `chunk` with what stands between white space.
#[inline]
fn chunks<'a>(text: &'a str, mut chunk: impl FnMut(&'a str)) {
    let bytes = text.as_bytes();
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        let space = match classes::SPACE_BYTES[usize::from(bytes[at])] {
            0 => 0,
            1 => 1,
            _ => text[at..].chars().next().filter(|c| is_space(*c)).map_or(0, char::len_utf8),
        };
        if space > 0 {
            if start < at {
                chunk(&text[start..at]);
            }
            start = at + space;
            at = start;
        } else {
            at += 1;
        }
    }
    if start < at {
        chunk(&text[start..]);
    }
}

/// What has been learnt of words and of what stands between spaces.
#[derive(Default)]
struct Lexicon {
    entries: Vec<Entry>,
    by_hash: Table,
    /// By a chunk's hash: its only word, or `MANY` and where its words are in `lists`.
    chunks: Table,
    /// Number of words, then the words.
    lists: Vec<u32>,
    known_chunks: usize,
}

const MANY: u32 = 1 << 31;
/// Longer chunks are divided anew each time, in bytes.
const LONGEST_KNOWN_CHUNK: usize = 64;
/// What is learnt is forgotten between two texts when there are so many words: about 12 MB.
const MOST_ENTRIES: usize = 1 << 18;

impl Lexicon {
    fn is_full(&self) -> bool {
        self.entries.len() + self.known_chunks > MOST_ENTRIES
    }

    fn clear(&mut self) {
        self.known_chunks = 0;
        self.entries.clear();
        self.lists.clear();
        self.by_hash.clear();
        self.chunks.clear();
    }

    /// Adds a chunk's words to `ids`.
    #[inline]
    fn push(&mut self, chunk: &str, splitting: Splitting, ids: &mut Vec<u32>) {
        let key = hash(chunk);
        match self.chunks.get(key) {
            Some(place) if place & MANY == 0 => ids.push(place),
            Some(place) => {
                let place = (place & !MANY) as usize;
                let words = self.lists[place] as usize;
                ids.extend_from_slice(&self.lists[place + 1..=place + words]);
            }
            None => self.learn(chunk, key, splitting, ids),
        }
    }

    #[cold]
    fn learn(&mut self, chunk: &str, key: u64, splitting: Splitting, ids: &mut Vec<u32>) {
        let before = ids.len();
        let mut scratch = Vec::with_capacity(16);
        let mut word = |text: &str| ids.push(self.number(text));
        match splitting {
            Splitting::English => english::divide(chunk, &mut scratch, &mut word),
            Splitting::Characters => {
                for part in classes::unspaced_apart(chunk) {
                    english::divide(part, &mut scratch, &mut word);
                }
            }
        }
        let words = &ids[before..];
        if chunk.len() <= LONGEST_KNOWN_CHUNK {
            let place = match words {
                [one] => *one,
                _ => {
                    let place = self.lists.len() as u32;
                    self.lists.push(words.len() as u32);
                    self.lists.extend_from_slice(words);
                    place | MANY
                }
            };
            self.chunks.get_or_insert(key, place);
            self.known_chunks += 1;
        }
    }

    fn number(&mut self, text: &str) -> u32 {
        let next = self.entries.len() as u32;
        let id = self.by_hash.get_or_insert(hash(text), next);
        if id == next {
            self.entries.push(Entry::new(text));
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a text, by what is known of them.
    fn lengths(text: &str, splitting: Splitting) -> Vec<u32> {
        with_words(text, splitting, |words| words.entries().map(|entry| entry.chars).collect())
    }

    #[test]
    fn equal_words_have_equal_numbers_in_texts_that_alternate() {
        for _ in 0..3 {
            with_words("one two one, two", Splitting::English, |words| {
                let ids = words.ids();
                assert_eq!((ids.len(), ids[0], ids[1]), (5, ids[2], ids[4]));
            });
            assert_eq!(lengths("we 去年 left.", Splitting::Characters), [2, 1, 1, 4, 1]);
            assert_eq!(lengths("we 去年 left.", Splitting::English), [2, 2, 4, 1]);
            assert_eq!(count_sentences("One. Two? \"Three!\" four", 9), 4);
        }
    }

    #[test]
    fn what_is_learnt_stays_within_bounds() {
        let text: String = (0..MOST_ENTRIES).map(|i| format!("q{i} ")).collect();
        for _ in 0..2 {
            assert_eq!(lengths(&text, Splitting::English).len(), MOST_ENTRIES);
            assert_eq!(count_sentences("One two. Three four.", 9), 2);
            assert_eq!(lengths("a few words", Splitting::English), [1, 3, 5]);
        }
        WORDS.with_borrow(|words| assert!(words.lexicons[0].entries.len() < 100));
    }

    #[test]
    fn sentences_end_in_full_stops_and_two_spaces_count_as_a_word() {
        for (text, sentences) in [
            ("", 0),
            ("  ", 0),
            ("no end", 1),
            ("One. Two.", 2),
            ("Mr. Smith left at 5 p.m. sharp.", 1),
            ("He said: \"Go!\" She went...  and came.", 2),
            ("One.  \"", 2),
            ("One. \"", 1),
            ("一。二 三", 1),
        ] {
            assert_eq!(count_sentences(text, 99), sentences, "{text}");
        }
        assert_eq!(count_sentences("One. Two. Three. Four.", 2), 2);
    }
}
