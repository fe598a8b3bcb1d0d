//! Finding many words and phrases at once.

use std::borrow::Cow;

use aho_corasick::AhoCorasick;
use cupola_artifact::{Context, Result};
use unicode_normalization::UnicodeNormalization;

use crate::steps::words::is_unspaced;

/// Words and phrases to be found in any case and in any of Unicode's compatible forms. They stand alone, with no letter or
/// digit beside them, except where they begin or end in a script that has no spaces.
pub struct Phrases {
    finder: AhoCorasick,
    /// Whether something must stand before and after each.
    free: Vec<(bool, bool)>,
}

impl Phrases {
    /// Gets ready to find `phrases`; with `anywhere` also within words.
    pub fn new(phrases: &[String], anywhere: bool) -> Result<Self> {
        let mut folded: Vec<String> = phrases.iter().map(|phrase| fold(phrase).into_owned()).collect();
        folded.sort_unstable();
        folded.dedup();
        let free_at = |c: Option<char>| !anywhere && c.is_some_and(|c| !is_unspaced(c));
        let free = folded.iter().map(|p| (free_at(p.chars().next()), free_at(p.chars().next_back()))).collect();
        let finder = AhoCorasick::new(&folded).context(|| "cannot prepare the list of words".to_owned())?;
        Ok(Self { finder, free })
    }

    /// How many there are in a text, up to `most`; those that overlap count once.
    pub fn count(&self, text: &str, most: usize) -> usize {
        let text = fold(text);
        let (mut found, mut free_from) = (0, 0);
        for at in self.finder.find_overlapping_iter(&*text) {
            if found == most {
                break;
            }
            let (before, after) = self.free[at.pattern().as_usize()];
            let stands_alone = !(before && text[..at.start()].chars().next_back().is_some_and(in_word)
                || after && text[at.end()..].chars().next().is_some_and(in_word));
            if at.start() >= free_from && stands_alone {
                found += 1;
                free_from = at.end();
            }
        }
        found
    }
}

fn in_word(c: char) -> bool {
    !is_unspaced(c) && is_letter_or_mark(c)
}

fn is_letter_or_mark(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || matches!(c, '\u{300}'..='\u{36F}')
}

/// In lower case and, beyond ASCII, in normalization form KC: full width and half width, ligatures and composed forms are one.
fn fold(text: &str) -> Cow<'_, str> {
    if !text.is_ascii() {
        return Cow::Owned(text.nfkc().flat_map(char::to_lowercase).collect());
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Cow::Owned(text.to_ascii_lowercase());
    }
    Cow::Borrowed(text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn count(phrases: &[&str], text: &str) -> usize {
        let phrases: Vec<String> = phrases.iter().map(|&p| p.to_owned()).collect();
        Phrases::new(&phrases, false).unwrap().count(text, usize::MAX)
    }

    #[test]
    fn words_are_found_alone_and_in_any_case() {
        assert_eq!(count(&["ham", "Spam"], "SPAM, spam; hamlet and spammer, ham_1 ham"), 3);
        assert_eq!(count(&["two words"], "Two Words or two  words"), 1);
        assert_eq!(count(&["straße"], "Die STRASSE und die Straße"), 1);
    }

    #[test]
    fn compatible_forms_are_one() {
        assert_eq!(count(&["spam"], "ｓｐａｍ and ＳＰＡＭ"), 2);
        assert_eq!(count(&["café"], "CAFE\u{301}"), 1);
    }

    #[test]
    fn scripts_without_spaces_are_searched_inside_runs() {
        assert_eq!(count(&["垃圾"], "这是垃圾邮件，垃圾！"), 2);
        assert_eq!(count(&["sm"], "smile 这是sm"), 1);
    }

    #[test]
    fn what_overlaps_counts_once() {
        assert_eq!(count(&["bad", "bad word", "word"], "a bad word"), 2);
        let phrases = Phrases::new(&["x".to_owned()], true).unwrap();
        assert_eq!((phrases.count("axxx", 2), phrases.count("axxx", 9)), (2, 3));
    }
}
