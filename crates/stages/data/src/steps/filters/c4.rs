//! The page rules of C4.

use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::lines::{ends_in_punctuation, visible_lines};
use crate::step::{Each, Kind, Notes, Verdict, first_reason};

/// Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2 (the journal's version: three sentences,
/// five words). C4 removes lines and judges what is left of the page; this filter judges the same way but leaves the text
/// whole. The list of bad words is not applied.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct C4 {}

/// The step.
pub const C4_PAGES: Kind = Kind::each::<C4>(
    "c4",
    "placeholder text, curly brackets, fewer than three sentences in full lines (Raffel et al. 2020)",
);

const MIN_SENTENCES: usize = 3;
const MIN_WORDS_PER_LINE: usize = 5;
/// Lines with these are not counted.
const BOILERPLATE: [&str; 7] =
    ["javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"];

impl Each for C4 {
    fn apply(&self, document: &mut Document, _: &mut Notes) -> Verdict {
        self.check(&document.text)
    }
}

impl C4 {
    /// Keep or drop.
    fn check(&self, text: &str) -> Verdict {
        let lower = text.to_lowercase();
        let sentences: usize = visible_lines(&lower).filter(|line| is_full(line)).map(sentences).sum();
        first_reason(&[
            (lower.contains("lorem ipsum"), "c4_lorem_ipsum"),
            (text.contains('{'), "c4_curly_bracket"),
            (sentences < MIN_SENTENCES, "c4_few_sentences"),
        ])
    }
}

/// Whether C4 would keep the line (given in lower case).
fn is_full(line: &str) -> bool {
    ends_in_punctuation(line)
        && !line.ends_with("...")
        && !line.ends_with('…')
        && line.split_whitespace().nth(MIN_WORDS_PER_LINE - 1).is_some()
        && !BOILERPLATE.iter().any(|phrase| line.contains(phrase))
}

/// Words that end in a sentence's punctuation; at least one in a line that is kept.
fn sentences(line: &str) -> usize {
    let ends = |word: &&str| {
        word.trim_end_matches(['"', '\'', ')', '\u{201D}', '\u{2019}']).ends_with(['.', '!', '?', '。', '！', '？'])
    };
    line.split_whitespace().filter(ends).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_reason() {
        let good = "This is a line of words. It has a second sentence.\nHere is another full line!";
        assert_eq!(C4 {}.check(good), Verdict::Keep);
        for (text, expected) in [
            (format!("{good}\nLorem Ipsum dolor"), "c4_lorem_ipsum"),
            (format!("{good}\nif (a) {{"), "c4_curly_bracket"),
            ("Only one sentence stands here today.".to_owned(), "c4_few_sentences"),
            ("Home\nAbout us\nContact\nImprint".to_owned(), "c4_few_sentences"),
            ("Please enable JavaScript to see it.\n".repeat(5), "c4_few_sentences"),
            ("The story goes on and on...\n".repeat(5), "c4_few_sentences"),
        ] {
            assert_eq!(C4 {}.check(&text), Verdict::Drop(expected), "{text}");
        }
    }
}
