//! Signatures: for each of many random orders of all shingles, the first shingle of the text.

use xxhash_rust::xxh3::xxh3_64;

/// Where the random orders start. A constant: signatures of different runs can be compared.
const SEED: u64 = 0x6375_706F_6C61;

/// Shingles are taken through all orders in groups of this size, small enough to stay in registers and first-level cache.
const BLOCK: usize = 256;

/// Base of the rolling hash of a shingle; odd, so that every word counts in full.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

/// Draws the random orders.
#[derive(Debug, Default)]
pub struct MinHasher {
    ngram: usize,
    /// Multiplier and addend of each order: `h(x) = (a x + b) >> 32`, strongly universal (Dietzfelbinger 1996).
    orders: Vec<(u64, u64)>,
}

impl MinHasher {
    pub fn new(ngram: usize, permutations: usize) -> Self {
        let mut state = SEED;
        let mut next = || {
            // SplitMix64 (Steele et al. 2014).
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            mix(state)
        };
        Self { ngram, orders: (0..permutations).map(|_| (next() | 1, next())).collect() }
    }

    /// Writes the text's signature; false if the text has no word.
    pub fn sign(&self, text: &str, signature: &mut [u32]) -> bool {
        signature.fill(u32::MAX);
        let shingles = self.shingles(text);
        for block in shingles.chunks(BLOCK) {
            for (least, (a, b)) in signature.iter_mut().zip(&self.orders) {
                let smallest =
                    block.iter().map(|x| (a.wrapping_mul(u64::from(*x)).wrapping_add(*b) >> 32) as u32).min();
                *least = (*least).min(smallest.unwrap_or(u32::MAX));
            }
        }
        !shingles.is_empty()
    }

    /// The hashes of all runs of `ngram` words, or of all words together where there are fewer.
    fn shingles(&self, text: &str) -> Vec<u32> {
        let words = word_hashes(text);
        let n = self.ngram.min(words.len());
        if n == 0 {
            return Vec::new();
        }
        let oldest = (1..n).fold(1_u64, |power, _| power.wrapping_mul(BASE));
        let mut hash = 0_u64;
        let mut shingles = Vec::with_capacity(words.len() + 1 - n);
        for (i, word) in words.iter().enumerate() {
            if i >= n {
                hash = hash.wrapping_sub(words[i - n].wrapping_mul(oldest));
            }
            hash = hash.wrapping_mul(BASE).wrapping_add(*word);
            if i + 1 >= n {
                shingles.push((mix(hash) >> 32) as u32);
            }
        }
        shingles
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The hashes of the words, in lower case: runs of letters, digits and marks, and every character of the scripts that put
/// no spaces between words.
fn word_hashes(text: &str) -> Vec<u64> {
    let mut hashes = Vec::with_capacity(text.len() / 5);
    let mut word = String::new();
    let finish = |word: &mut String, hashes: &mut Vec<u64>| {
        if !word.is_empty() {
            hashes.push(xxh3_64(word.as_bytes()));
            word.clear();
        }
    };
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            word.push(c.to_ascii_lowercase());
        } else if c.is_ascii() || !(c.is_alphanumeric() || is_mark(c)) {
            finish(&mut word, &mut hashes);
        } else if is_unspaced(c) {
            finish(&mut word, &mut hashes);
            hashes.push(u64::from(u32::from(c)).wrapping_mul(BASE));
        } else {
            word.extend(c.to_lowercase());
        }
    }
    finish(&mut word, &mut hashes);
    hashes
}

/// Combining diacritics; most marks of other scripts count as letters already.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36F}')
}

/// Chinese characters, Japanese syllables, and Thai, Lao, Myanmar and Khmer letters.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}' | '\u{3040}'..='\u{30FF}'
        | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

/// Equal rows over rows of two signatures, as bytes: an unbiased estimate of the Jaccard similarity of the sets of shingles
/// (Broder 1997).
pub fn similarity(a: &[u8], b: &[u8]) -> f64 {
    let equal = a.chunks(4).zip(b.chunks(4)).filter(|(a, b)| a == b).count();
    equal as f64 / (a.len() / 4).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_equal_rows_estimates_the_jaccard_similarity() {
        // Single words: 300 in common of 500 in all.
        let text = |range: std::ops::Range<u32>| range.map(|i| format!("w{i} ")).collect::<String>();
        let (a, b) = (text(0..400), text(100..500));
        let hasher = MinHasher::new(1, 2048);
        let sign = |text: &str| {
            let mut signature = vec![0; 2048];
            assert!(hasher.sign(text, &mut signature));
            signature.iter().flat_map(|row| row.to_le_bytes()).collect::<Vec<u8>>()
        };
        let estimate = similarity(&sign(&a), &sign(&b));
        assert!((estimate - 0.6).abs() < 0.04, "{estimate}");
    }

    #[test]
    fn a_rolled_hash_is_that_of_the_words_alone() {
        let hasher = MinHasher::new(3, 1);
        assert_eq!(hasher.shingles("a b c d e")[2], hasher.shingles("c d e")[0]);
        assert_eq!(hasher.shingles("one two").len(), 1);
    }

    #[test]
    fn chinese_is_taken_character_by_character() {
        assert_eq!(word_hashes("春眠不覺曉").len(), 5);
        assert_eq!(word_hashes("GPT模型, naïve").len(), 4);
    }
}
