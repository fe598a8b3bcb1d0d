//! The words that an n-gram model counts.

use xxhash_rust::xxh3::xxh3_64;

use crate::steps::words::is_unspaced;

/// What ends a line for the model.
pub const END: u64 = 1;

/// Calls `word` with the hash of each word of a line, in lower case and with 0 for every digit: runs of letters, digits and marks,
/// single characters of scripts without spaces, single signs.
pub fn words_of(line: &str, mut word: impl FnMut(u64)) {
    let mut run = String::new();
    let mut finish = |run: &mut String| {
        if !run.is_empty() {
            word(xxh3_64(run.as_bytes()));
            run.clear();
        }
    };
    for c in line.chars() {
        if c.is_ascii_lowercase() {
            run.push(c);
        } else if c.is_numeric() {
            run.push('0');
        } else if (c.is_alphabetic() || matches!(c, '\u{300}'..='\u{36F}')) && !is_unspaced(c) {
            run.extend(c.to_lowercase());
        } else {
            finish(&mut run);
            if !c.is_whitespace() {
                run.push(c);
                finish(&mut run);
            }
        }
    }
    finish(&mut run);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_digits_do_not_count() {
        let words = |line| {
            let mut all = Vec::new();
            words_of(line, |word| all.push(word));
            all
        };
        assert_eq!(words("In 1984, GPT模型"), words("in 2025, gpt模型"));
        assert_eq!(words("In 1984, GPT模型.").len(), 7);
        assert!(words(" \t").is_empty());
    }
}
