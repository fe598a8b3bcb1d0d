//! Naive Bayes over hashed features.
//!
//! The table says for each feature in which languages it is frequent: the logarithm of its share over a floor that stands for
//! all features a language was not seen with. A text's score in a language is the sum over its features.

use cupola_artifact::{Error, Result};

use super::features::features;

/// Made by `examples/train_language.rs`.
const TABLE: &[u8] = include_bytes!("model.zst");
/// Bytes that the table may take unpacked.
const MAX_TABLE: usize = 1 << 24;
/// One step of a stored weight, in nats.
pub const STEP: f32 = 1.0 / 16.0;
/// Nats of evidence per feature, at most, of which a share of the root is used: features of a text are not independent.
const DAMPING: f32 = 1.0;

/// The languages and their weights.
#[derive(Debug)]
pub struct Model {
    languages: Vec<String>,
    /// Open addressing: a feature and where its weights begin and how many they are.
    slots: Vec<(u32, u32, u32)>,
    /// Language and weight.
    weights: Vec<(u8, u8)>,
}

/// A language with how sure that is, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess<'a> {
    /// ISO 639.
    pub language: &'a str,
    /// Its share of the evidence, dampened for features that depend on each other.
    pub score: f64,
}

impl Model {
    /// The one that comes with the program.
    pub fn load() -> Result<Self> {
        let broken = || Error::failed("the table of languages in this program is broken");
        let bytes = zstd::bulk::decompress(TABLE, MAX_TABLE).map_err(|_| broken())?;
        Self::read(&bytes).ok_or_else(broken)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at(bytes.iter().position(|b| *b == b'\n')? + 1);
        let names = std::str::from_utf8(head).ok()?;
        let languages: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
        let mut read = || {
            let (number, after) = rest.split_first_chunk::<4>()?;
            rest = after;
            Some(u32::from_le_bytes(*number))
        };
        let keys = read()? as usize;
        let mut slots = vec![(0, 0, 0); (keys * 2).next_power_of_two().max(16)];
        let mut entries = Vec::with_capacity(keys);
        for _ in 0..keys {
            entries.push(read()?);
        }
        let counts = rest.get(..keys)?;
        let weights: Vec<(u8, u8)> = rest[keys..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let mut first = 0_u32;
        for (key, count) in entries.into_iter().zip(counts) {
            let mask = slots.len() - 1;
            let mut at = key as usize & mask;
            while slots[at].2 != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = (key, first, u32::from(*count));
            first += u32::from(*count);
        }
        let whole = first as usize == weights.len() && weights.iter().all(|w| usize::from(w.0) < languages.len());
        whole.then_some(Self { languages, slots, weights })
    }

    /// The codes of all languages.
    pub fn languages(&self) -> impl Iterator<Item = &str> {
        self.languages.iter().map(String::as_str)
    }

    fn weights(&self, feature: u32) -> &[(u8, u8)] {
        let mask = self.slots.len() - 1;
        let mut at = feature as usize & mask;
        loop {
            let (key, first, count) = self.slots[at];
            if count == 0 {
                return &[];
            }
            if key == feature {
                return &self.weights[first as usize..(first + count) as usize];
            }
            at = (at + 1) & mask;
        }
    }

    /// The language of the first `most` characters; nothing where no feature is known.
    pub fn guess(&self, text: &str, most: usize) -> Option<Guess<'_>> {
        let mut sums = vec![0_u32; self.languages.len()];
        let mut count = 0_u32;
        features(text, most, |feature| {
            count += 1;
            for (language, weight) in self.weights(feature) {
                sums[usize::from(*language)] += u32::from(*weight);
            }
        });
        let (best, sum) = sums.iter().enumerate().max_by_key(|(at, sum)| (**sum, usize::MAX - at))?;
        if *sum == 0 {
            return None;
        }
        let scale = STEP * DAMPING / (count as f32).sqrt();
        let total: f32 = sums.iter().map(|other| (-scale * (sum - other) as f32).exp()).sum();
        Some(Guess { language: &self.languages[best], score: f64::from(1.0 / total) })
    }
}
