//! The words of a text, for the steps that count them.
//!
//! Words are divided as spaCy's rules for English do (`english`), which is what the published filters are used with; or every
//! character of a script without spaces is a word of its own. A text is divided once: steps that follow each other on the same
//! text share what was found, and what stands between two spaces is looked up where it has been seen before.

mod classes;
mod english;
mod exceptions;
mod table;

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
    lexicon: Lexicon,
}

impl Words {
    /// The number of each word, in the text's order.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The words, in the text's order.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.ids.iter().map(|id| self.lexicon.entries[*id as usize])
    }

    /// What is known of a word.
    pub fn entry(&self, id: u32) -> Entry {
        self.lexicon.entries[id as usize]
    }

    /// How many different words there may be: all numbers are below.
    pub fn numbers(&self) -> usize {
        self.lexicon.entries.len()
    }

    fn divide(&mut self, text: &str, splitting: Splitting) {
        let key = (xxh3_64(text.as_bytes()), text.len(), splitting);
        if self.text != Some(key) {
            self.text = None;
            self.ids.clear();
            self.lexicon.start(splitting);
            chunks(text, |chunk| self.lexicon.push(chunk, &mut self.ids));
            self.text = Some(key);
        }
    }
}

thread_local! {
    static WORDS: RefCell<Words> = RefCell::default();
    static SENTENCES: RefCell<(Lexicon, Vec<u32>)> = RefCell::default();
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
    SENTENCES.with_borrow_mut(|(lexicon, ids)| {
        lexicon.start(Splitting::English);
        let (mut sentences, mut full_stop) = (usize::from(!text.trim_matches(is_space).is_empty()), false);
        let mut end_of_last = 0;
        chunks(text, |chunk| {
            let start = chunk.as_ptr() as usize - text.as_ptr() as usize;
            // More than one space between words begins a sentence like a word.
            if full_stop && start > 0 && text[end_of_last..start] != *" " {
                sentences += 1;
                full_stop = false;
            }
            end_of_last = start + chunk.len();
            if sentences >= most {
                return;
            }
            ids.clear();
            lexicon.push(chunk, ids);
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
    })
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
    splitting: Splitting,
}

const MANY: u32 = 1 << 31;
/// Longer chunks are divided anew each time, in bytes.
const LONGEST_KNOWN_CHUNK: usize = 64;
/// What is learnt is forgotten between two texts when there are so many words: about 4 MB.
const MOST_ENTRIES: usize = 1 << 16;

impl Lexicon {
    /// Gets ready for a text.
    fn start(&mut self, splitting: Splitting) {
        if self.splitting != splitting || self.entries.len() + self.lists.len() > MOST_ENTRIES {
            self.splitting = splitting;
            self.entries.clear();
            self.lists.clear();
            self.by_hash.clear();
            self.chunks.clear();
        }
    }

    /// Adds a chunk's words to `ids`.
    #[inline]
    fn push(&mut self, chunk: &str, ids: &mut Vec<u32>) {
        let key = hash(chunk);
        match self.chunks.get(key) {
            Some(place) if place & MANY == 0 => ids.push(place),
            Some(place) => {
                let place = (place & !MANY) as usize;
                let words = self.lists[place] as usize;
                ids.extend_from_slice(&self.lists[place + 1..=place + words]);
            }
            None => self.learn(chunk, key, ids),
        }
    }

    #[cold]
    fn learn(&mut self, chunk: &str, key: u64, ids: &mut Vec<u32>) {
        let before = ids.len();
        let mut scratch = Vec::new();
        let splitting = self.splitting;
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
