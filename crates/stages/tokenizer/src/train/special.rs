//! The special tokens of each kind.

use std::collections::HashSet;

use cupola_artifact::{Error, Result};
use serde::{Deserialize, Serialize};

/// The texts of the special tokens of a byte-level BPE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpecialTokens {
    /// Begins and ends documents.
    pub document: String,
    /// Begins a turn of a chat; the role follows.
    pub turn_start: String,
    /// Ends a turn of a chat.
    pub turn_end: String,
    /// Fills up batches.
    pub pad: String,
    /// More, for uses of your own.
    pub more: Vec<String>,
}

impl Default for SpecialTokens {
    fn default() -> Self {
        Self {
            document: "<|endoftext|>".to_owned(),
            turn_start: "<|im_start|>".to_owned(),
            turn_end: "<|im_end|>".to_owned(),
            pad: "<|pad|>".to_owned(),
            more: Vec::new(),
        }
    }
}

impl SpecialTokens {
    /// All of them; the place is the id.
    pub fn all(&self) -> Vec<&str> {
        let own = [&self.document, &self.turn_start, &self.turn_end, &self.pad];
        own.into_iter().chain(&self.more).map(String::as_str).collect()
    }

    /// Refuses empty and repeated texts.
    pub fn check(&self) -> Result<()> {
        check(self.all())
    }
}

/// The texts of the special tokens of a WordPiece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WordPieceTokens {
    /// Fills up batches.
    pub pad: String,
    /// Stands for a word that the vocabulary cannot express.
    pub unk: String,
    /// Begins a sequence; its place stands for the whole.
    pub cls: String,
    /// Ends each text.
    pub sep: String,
    /// Stands for a hidden token.
    pub mask: String,
    /// More, for uses of your own.
    pub more: Vec<String>,
}

impl Default for WordPieceTokens {
    fn default() -> Self {
        let [pad, unk, cls, sep, mask] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
        Self { pad, unk, cls, sep, mask, more: Vec::new() }
    }
}

impl WordPieceTokens {
    /// All of them; the place is the id.
    pub fn all(&self) -> Vec<&str> {
        let own = [&self.pad, &self.unk, &self.cls, &self.sep, &self.mask];
        own.into_iter().chain(&self.more).map(String::as_str).collect()
    }

    /// Refuses empty and repeated texts.
    pub fn check(&self) -> Result<()> {
        check(self.all())
    }
}

/// The texts of the special tokens of a Unigram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnigramTokens {
    /// Fills up batches, and is what a decoder starts from.
    pub pad: String,
    /// Ends each text.
    pub eos: String,
    /// Stands for characters that the vocabulary does not have.
    pub unk: String,
    /// How many tokens stand for hidden spans: `<extra_id_0>`, `<extra_id_1>`, …
    pub sentinels: usize,
    /// More, for uses of your own.
    pub more: Vec<String>,
}

impl Default for UnigramTokens {
    fn default() -> Self {
        let [pad, eos, unk] = ["<pad>", "</s>", "<unk>"].map(str::to_owned);
        Self { pad, eos, unk, sentinels: 100, more: Vec::new() }
    }
}

impl UnigramTokens {
    /// Those with the first ids; the place is the id.
    pub fn first(&self) -> [&str; 3] {
        [&self.pad, &self.eos, &self.unk]
    }

    /// Those with the last ids, in the order of T5: `<extra_id_0>` has the largest.
    pub fn last(&self) -> Vec<String> {
        self.more.iter().cloned().chain((0..self.sentinels).rev().map(|i| format!("<extra_id_{i}>"))).collect()
    }

    /// Refuses empty and repeated texts, and more sentinels than any model has.
    pub fn check(&self) -> Result<()> {
        if self.sentinels > 10_000 {
            return Err(Error::usage(format!("special.sentinels = {} is too large", self.sentinels))
                .with_hint("one sentinel stands for one hidden span of a sequence: 100 are usual"));
        }
        let last = self.last();
        check(self.first().into_iter().chain(last.iter().map(String::as_str)).collect())
    }
}

fn check(tokens: Vec<&str>) -> Result<()> {
    let mut seen = HashSet::new();
    for token in tokens {
        if token.chars().count() < 2 {
            return Err(Error::usage(format!("the special token {token:?} is too short"))
                .with_hint("a special token needs at least two characters, better a form like <|name|>"));
        }
        if !seen.insert(token) {
            return Err(Error::usage(format!("the special token {token:?} is given twice")));
        }
    }
    Ok(())
}
