//! Training of tokenizers: byte-level BPE, WordPiece and Unigram.
//!
//! The same texts give the same file, on any number of threads.

mod bpe;
mod count;
mod em;
mod merging;
mod pieces;
mod special;
mod unigram;
mod wordpiece;

use std::collections::{BTreeMap, HashMap, HashSet};

use cupola_artifact::{Error, Result};
use rayon::prelude::*;

pub use bpe::default_chat_template;
pub use special::{SpecialTokens, UnigramTokens, WordPieceTokens};

use crate::tokenizer::Tokenizer;

/// The kinds that can be trained, with their special tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// Byte-level BPE, for decoders: every text can be expressed.
    Bpe(SpecialTokens),
    /// WordPiece as BERT has it, for encoders; `lowercase` also takes accents away.
    WordPiece {
        /// The special tokens.
        special: WordPieceTokens,
        /// Whether capital and small letters are the same.
        lowercase: bool,
    },
    /// Unigram as T5 has it, for encoder-decoders.
    Unigram(UnigramTokens),
}

/// What to train.
#[derive(Clone, Debug)]
pub struct TrainConfig {
    /// The kind and its special tokens.
    pub kind: TokenizerKind,
    /// Tokens to reach, special tokens included.
    pub vocab_size: usize,
    /// What is seen less often becomes no token of its own.
    pub min_frequency: u64,
    /// WordPiece and Unigram: the share of all characters that the alphabet covers; rarer ones are unknown.
    pub character_coverage: f64,
    /// Jinja source; `None` for [`default_chat_template`] with BPE, and for none with the others.
    pub chat_template: Option<String>,
}

/// Trains on texts. The vocabulary comes out smaller where the texts do not hold enough that is frequent.
pub fn train(texts: &[&str], config: &TrainConfig) -> Result<Tokenizer> {
    match &config.kind {
        TokenizerKind::Bpe(special) => bpe::train(texts, special, config),
        TokenizerKind::WordPiece { special, lowercase } => wordpiece::train(texts, special, *lowercase, config),
        TokenizerKind::Unigram(special) => unigram::train(texts, special, config),
    }
}

/// Every word of the texts and how often it occurs, in the order of the alphabet. Texts are taken line by line.
fn count_words(texts: &[&str], split: impl Fn(&str) -> Result<Vec<String>> + Sync) -> Result<BTreeMap<String, u64>> {
    let count = |text: &&str| -> Result<HashMap<String, u64>> {
        let mut counts = HashMap::new();
        for line in text.lines() {
            for word in split(line)? {
                *counts.entry(word).or_default() += 1;
            }
        }
        Ok(counts)
    };
    let add = |mut all: HashMap<String, u64>, more: HashMap<String, u64>| {
        more.into_iter().for_each(|(word, n)| *all.entry(word).or_default() += n);
        Ok(all)
    };
    Ok(texts.par_iter().map(count).try_reduce(HashMap::new, add)?.into_iter().collect())
}

/// The most frequent characters that together make up the share `coverage` of the words, in the order of the alphabet.
fn alphabet(words: &BTreeMap<String, u64>, coverage: f64) -> Vec<char> {
    let mut counts: HashMap<char, u64> = HashMap::new();
    for (word, n) in words {
        word.chars().for_each(|c| *counts.entry(c).or_default() += n);
    }
    let total: u64 = counts.values().sum();
    let mut counts: Vec<(char, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|&(c, n)| (std::cmp::Reverse(n), c));
    let mut covered = 0;
    let enough = |&(_, n): &(char, u64)| {
        let before = covered;
        covered += n;
        (before as f64) < coverage * total as f64
    };
    let mut kept: Vec<char> = counts.into_iter().take_while(enough).map(|(c, _)| c).collect();
    kept.sort_unstable();
    kept
}

/// The words that the alphabet can express.
fn expressible(words: BTreeMap<String, u64>, alphabet: &[char]) -> BTreeMap<String, u64> {
    let known: HashSet<char> = alphabet.iter().copied().collect();
    words.into_iter().filter(|(word, _)| word.chars().all(|c| known.contains(&c))).collect()
}

/// Refuses a vocabulary that has no room for what it must hold.
fn check_room(vocab_size: usize, characters: usize, special: usize) -> Result<()> {
    let least = characters + special;
    if vocab_size >= least {
        return Ok(());
    }
    Err(Error::failed(format!("vocab_size = {vocab_size} is too small for this text")).with_hint(format!(
        "it must be at least {least}: {characters} for single characters and {special} special tokens; or lower \
         `character_coverage`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_leaves_out_the_rarest_characters() {
        let words = BTreeMap::from([("aab".to_owned(), 30), ("c".to_owned(), 9), ("d".to_owned(), 1)]);
        assert_eq!(alphabet(&words, 1.0), ['a', 'b', 'c', 'd']);
        assert_eq!(alphabet(&words, 0.98), ['a', 'b', 'c']);
        assert_eq!(alphabet(&words, 0.5), ['a']);
        assert_eq!(expressible(words, &['c', 'd']).into_keys().collect::<Vec<_>>(), ["c", "d"]);
    }
}
