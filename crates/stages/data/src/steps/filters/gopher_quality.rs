//! The quality rules of Gopher.

use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::lines::{share, visible_lines};
use crate::step::{Each, Kind, Notes, Verdict, first_reason};

/// Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", appendix A1.1.
///
/// A word is what stands between white space and has a letter or a digit. The stop words are English, so other
/// languages are dropped as `gopher_few_stop_words`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GopherQuality {}

/// The step.
pub const GOPHER_QUALITY: Kind = Kind::each::<GopherQuality>(
    "gopher_quality",
    "length, word length, symbols, bullets, ellipses, letters and English stop words (Rae et al. 2021, A1.1)",
);

const MIN_WORDS: usize = 50;
const MAX_WORDS: usize = 100_000;
const MIN_MEAN_WORD_CHARACTERS: f64 = 3.0;
const MAX_MEAN_WORD_CHARACTERS: f64 = 10.0;
/// Of hash signs or ellipses to words.
const MAX_SYMBOL_RATIO: f64 = 0.1;
const MAX_BULLET_LINES: f64 = 0.9;
const MAX_ELLIPSIS_LINES: f64 = 0.3;
const MIN_ALPHABETIC_WORDS: f64 = 0.8;
const MIN_STOP_WORDS: usize = 2;
const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];
const BULLETS: [char; 7] = ['•', '‣', '▪', '◦', '●', '-', '*'];

impl Each for GopherQuality {
    fn apply(&self, document: &mut Document, _: &mut Notes) -> Verdict {
        self.check(&document.text)
    }
}

impl GopherQuality {
    /// Keep or drop.
    fn check(&self, text: &str) -> Verdict {
        let (mut tokens, mut words, mut characters, mut alphabetic) = (0_usize, 0_usize, 0_usize, 0_usize);
        let mut stop_words = [false; STOP_WORDS.len()];
        for token in text.split_whitespace() {
            tokens += 1;
            alphabetic += usize::from(token.chars().any(char::is_alphabetic));
            let word = token.trim_matches(|c: char| !c.is_alphanumeric());
            if !word.is_empty() {
                words += 1;
                characters += token.chars().count();
                for (seen, stop) in stop_words.iter_mut().zip(STOP_WORDS) {
                    *seen |= word.eq_ignore_ascii_case(stop);
                }
            }
        }
        let (mut lines, mut bulleted, mut trailing_off) = (0, 0, 0);
        for line in visible_lines(text) {
            lines += 1;
            bulleted += usize::from(line.starts_with(BULLETS));
            trailing_off += usize::from(line.ends_with("...") || line.ends_with('…'));
        }
        let hashes = text.matches('#').count();
        let ellipses = text.matches("...").count() + text.matches('…').count();
        let mean = share(characters, words);
        first_reason(&[
            (words < MIN_WORDS, "gopher_short_doc"),
            (words > MAX_WORDS, "gopher_long_doc"),
            (mean < MIN_MEAN_WORD_CHARACTERS, "gopher_short_words"),
            (mean > MAX_MEAN_WORD_CHARACTERS, "gopher_long_words"),
            (share(hashes, tokens) > MAX_SYMBOL_RATIO, "gopher_too_many_hashes"),
            (share(ellipses, tokens) > MAX_SYMBOL_RATIO, "gopher_too_many_ellipses"),
            (share(bulleted, lines) > MAX_BULLET_LINES, "gopher_too_many_bullets"),
            (share(trailing_off, lines) > MAX_ELLIPSIS_LINES, "gopher_too_many_end_ellipses"),
            (share(alphabetic, tokens) < MIN_ALPHABETIC_WORDS, "gopher_below_alpha_threshold"),
            (stop_words.iter().filter(|seen| **seen).count() < MIN_STOP_WORDS, "gopher_few_stop_words"),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> Verdict {
        GopherQuality {}.check(text)
    }

    #[test]
    fn each_rule_has_its_reason() {
        let fifty = "the garden of wonders and ".repeat(20);
        for (text, expected) in [
            ("too short".to_owned(), "gopher_short_doc"),
            ("the of word and ".repeat(25_001), "gopher_long_doc"),
            ("a b ".repeat(50), "gopher_short_words"),
            ("incomprehensibilities ".repeat(60), "gopher_long_words"),
            (format!("{fifty}{}", "#".repeat(20)), "gopher_too_many_hashes"),
            (fifty.replace("wonders", "won..."), "gopher_too_many_ellipses"),
            (format!("- {}", fifty.replace("and ", "and\n- ")), "gopher_too_many_bullets"),
            (
                format!("{}the of", fifty.replace("wonders", "12345").replace("garden", "12345")),
                "gopher_below_alpha_threshold",
            ),
            ("wonderful garden ".repeat(40), "gopher_few_stop_words"),
        ] {
            assert_eq!(reason(&text), Verdict::Drop(expected));
        }
        assert_eq!(reason(&fifty), Verdict::Keep);
    }

    #[test]
    fn fifty_words_are_enough_and_forty_nine_are_not() {
        let text = |n: usize| format!("the and{}", " garden".repeat(n - 2));
        assert_eq!(reason(&text(50)), Verdict::Keep);
        assert_eq!(reason(&text(49)), Verdict::Drop("gopher_short_doc"));
    }
}
