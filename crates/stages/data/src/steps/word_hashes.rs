//! Words of any script, as hashes: what shingles and n-grams are made of.

use std::ops::Range;

/// An odd multiplier with well spread bits (the golden ratio's), so that every bit of what it multiplies counts.
pub const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Calls `found` with the hash and the place of every word, in lower case: runs of letters, digits and marks, and each character
/// of the scripts that put no spaces between words.
pub fn each_word(text: &str, mut found: impl FnMut(u64, Range<usize>)) {
    let bytes = text.as_bytes();
    let (mut at, mut start, mut hash) = (0, 0, EMPTY);
    loop {
        while let Some(letter) = bytes.get(at).map(|byte| LETTERS[usize::from(*byte)]).filter(|letter| *letter != 0) {
            hash = extend(hash, u32::from(letter));
            at += 1;
        }
        let other = bytes.get(at).is_some_and(|byte| !byte.is_ascii()).then(|| text[at..].chars().next()).flatten();
        match other {
            Some(c) if c.is_alphanumeric() || is_mark(c) => {
                let after = at + c.len_utf8();
                if !is_unspaced(c) {
                    hash = c.to_lowercase().fold(hash, |hash, c| extend(hash, u32::from(c)));
                    at = after;
                    continue;
                }
                if start < at {
                    found(mix(hash), start..at);
                }
                found(mix(extend(EMPTY, u32::from(c))), at..after);
                at = after;
            }
            _ => {
                if start < at {
                    found(mix(hash), start..at);
                }
                if at == bytes.len() {
                    return;
                }
                at += other.map_or(1, char::len_utf8);
            }
        }
        (start, hash) = (at, EMPTY);
    }
}

/// The hash of a word without letters.
const EMPTY: u64 = 0x6375_706F_6C61;

fn extend(hash: u64, letter: u32) -> u64 {
    (hash ^ u64::from(letter)).wrapping_mul(SPREAD)
}

/// Spreads all bits over all bits (`SplitMix64`, Steele et al. 2014).
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// ASCII letters and digits in lower case, 0 for everything else.
const LETTERS: [u8; 256] = {
    let mut letters = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        if (byte as u8).is_ascii_alphanumeric() {
            letters[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    letters
};

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

/// The hashes of all runs of words of one length.
#[derive(Debug)]
pub struct Grams {
    /// Words of each.
    n: usize,
    /// What the oldest word is multiplied by.
    oldest: u64,
}

impl Grams {
    /// Runs of `n` words, at least one.
    pub fn new(n: usize) -> Self {
        let n = n.max(1);
        Self { n, oldest: (1..n).fold(1, |power: u64, _| power.wrapping_mul(SPREAD)) }
    }

    /// Calls `found` with the hash of each run of `words`, in their order; there are none where there are fewer words.
    pub fn each(&self, words: &[u64], mut found: impl FnMut(u64)) {
        let Some(ahead) = words.get(self.n - 1..) else { return };
        let mut hash = words[..self.n - 1].iter().fold(0, |hash, word| add(hash, *word));
        for (oldest, newest) in words.iter().zip(ahead) {
            hash = add(hash, *newest);
            found(mix(hash));
            hash = hash.wrapping_sub(oldest.wrapping_mul(self.oldest));
        }
    }
}

fn add(hash: u64, word: u64) -> u64 {
    hash.wrapping_mul(SPREAD).wrapping_add(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        each_word(text, |_, place| words.push(&text[place]));
        words
    }

    fn hashes(text: &str) -> Vec<u64> {
        let mut hashes = Vec::new();
        each_word(text, |hash, _| hashes.push(hash));
        hashes
    }

    #[test]
    fn words_are_runs_of_letters_digits_and_marks() {
        assert_eq!(
            words("The river, 3 days — naïve cafe\u{301}s… x"),
            ["The", "river", "3", "days", "naïve", "cafe\u{301}s", "x"]
        );
        assert_eq!(words(""), [""; 0]);
        assert_eq!(words(" \n😀…"), [""; 0]);
    }

    #[test]
    fn scripts_without_spaces_are_taken_character_by_character() {
        assert_eq!(words("春眠不覺曉"), ["春", "眠", "不", "覺", "曉"]);
        assert_eq!(words("GPT模型v2, naïve"), ["GPT", "模", "型", "v2", "naïve"]);
        assert_eq!(words("ไทย").len(), 3);
    }

    #[test]
    fn hashes_do_not_tell_upper_from_lower_case_and_tell_everything_else() {
        assert_eq!(hashes("River ÉTÉ"), hashes("(rIVER) été"));
        let mut all = hashes("a b ab ba aa aaa 1 11 é e 字 学");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 12);
    }

    #[test]
    fn a_rolled_hash_is_that_of_the_words_alone() {
        let grams = |text: &str, n: usize| {
            let mut all = Vec::new();
            Grams::new(n).each(&hashes(text), |hash| all.push(hash));
            all
        };
        for n in 1..5 {
            let long = grams("a b c d e f g", n);
            assert_eq!(long.len(), 8 - n);
            assert_eq!(long[2..4], grams("c d e f g", n)[..2]);
        }
        assert_eq!(grams("one two", 3), [0; 0]);
    }
}
