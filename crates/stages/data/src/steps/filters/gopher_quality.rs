//! The quality rules of Gopher.

use cupola_artifact::Result;
use cupola_records::Document;
use memchr::memmem::find_iter;
use serde::{Deserialize, Serialize};

use super::lines::{lines, share};
use crate::step::{Each, Kind, Notes, Setting, Verdict, first_reason};
use crate::steps::words::{Splitting, Words, hash, is_space, with_words};

/// Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", appendix A1.1, as datatrove
/// applies it. A threshold of 0 switches its rule off. The stop words are English, so other languages are dropped as
/// `gopher_enough_stop_words` unless their own are given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GopherQuality {
    /// The fewest words, those of nothing but punctuation left out; 50.
    pub min_doc_words: usize,
    /// The most words; 100,000.
    pub max_doc_words: usize,
    /// The shortest mean length of a word in characters; 3.
    pub min_avg_word_length: f64,
    /// The longest mean length of a word in characters; 10.
    pub max_avg_word_length: f64,
    /// The most hash signs, and the most ellipses, to a word; 0.1.
    pub max_symbol_word_ratio: f64,
    /// The largest share of lines that begin with one of `bullets`; 0.9.
    pub max_bullet_lines_ratio: f64,
    /// The largest share of lines that end in an ellipsis; 0.3.
    pub max_ellipsis_lines_ratio: f64,
    /// The smallest share of words that have a letter; 0.8. (The name is datatrove's.)
    pub max_non_alpha_words_ratio: f64,
    /// The fewest different ones of `stop_words` in the text; 2.
    pub min_stop_words: usize,
    /// Words that ordinary text has: the, be, to, of, and, that, have, with.
    pub stop_words: Vec<String>,
    /// What begins the line of a list: • and -.
    pub bullets: Vec<String>,
    /// What a word is: `english`, or `characters` where scripts have no spaces.
    pub words: Splitting,
    #[serde(skip)]
    stop_hashes: Vec<u64>,
}

impl Default for GopherQuality {
    fn default() -> Self {
        let all = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            min_doc_words: 50,
            max_doc_words: 100_000,
            min_avg_word_length: 3.0,
            max_avg_word_length: 10.0,
            max_symbol_word_ratio: 0.1,
            max_bullet_lines_ratio: 0.9,
            max_ellipsis_lines_ratio: 0.3,
            max_non_alpha_words_ratio: 0.8,
            min_stop_words: 2,
            stop_words: all(&["the", "be", "to", "of", "and", "that", "have", "with"]),
            bullets: all(&["•", "-"]),
            words: Splitting::English,
            stop_hashes: Vec::new(),
        }
    }
}

/// The step.
pub const GOPHER_QUALITY: Kind = Kind::each::<GopherQuality>(
    "gopher_quality",
    "length, word length, symbols, bullets, ellipses, letters and English stop words (Rae et al. 2021, A1.1)",
);

impl Each for GopherQuality {
    fn prepare(&mut self, _: &Setting<'_>) -> Result<()> {
        self.stop_hashes = self.stop_words.iter().map(|word| hash(word)).collect();
        self.stop_hashes.sort_unstable();
        self.stop_hashes.dedup();
        Ok(())
    }

    fn apply(&self, document: &mut Document, _: &mut Notes) -> Verdict {
        let text = &document.text;
        with_words(text, self.words, |words| self.check(text, words))
    }
}

/// What is counted of the words.
#[derive(Default)]
struct Counts {
    /// All words, punctuation too.
    all: usize,
    /// Words that are more than punctuation, and their characters.
    full: usize,
    characters: usize,
    alphabetic: usize,
    stop_words: usize,
}

impl GopherQuality {
    /// Keep or drop.
    fn check(&self, text: &str, words: &Words) -> Verdict {
        let counts = self.count(words);
        let mean = share(counts.characters, counts.full);
        let symbols = |n: usize| self.max_symbol_word_ratio != 0.0 && share(n, counts.all) > self.max_symbol_word_ratio;
        let ellipses = find_iter(text.as_bytes(), "...").count() + find_iter(text.as_bytes(), "…").count();
        let verdict = first_reason(&[
            (counts.full < self.min_doc_words, "gopher_short_doc"),
            (self.max_doc_words != 0 && counts.full > self.max_doc_words, "gopher_long_doc"),
            (mean < self.min_avg_word_length, "gopher_below_avg_threshold"),
            (self.max_avg_word_length != 0.0 && mean > self.max_avg_word_length, "gopher_above_avg_threshold"),
            (symbols(text.bytes().filter(|b| *b == b'#').count()), "gopher_too_many_hashes"),
            (symbols(ellipses), "gopher_too_many_ellipsis"),
        ]);
        if verdict != Verdict::Keep {
            return verdict;
        }
        let (mut all, mut bulleted, mut trailing_off) = (0, 0, 0);
        for line in lines(text) {
            all += 1;
            let (start, end) = (line.trim_start_matches(is_space), line.trim_end_matches(is_space));
            bulleted += usize::from(self.bullets.iter().any(|bullet| start.starts_with(bullet.as_str())));
            trailing_off += usize::from(end.ends_with("...") || end.ends_with('…'));
        }
        let over = |n: usize, most: f64| most != 0.0 && share(n, all) > most;
        let alphabetic = share(counts.alphabetic, counts.all);
        first_reason(&[
            (over(bulleted, self.max_bullet_lines_ratio), "gopher_too_many_bullets"),
            (over(trailing_off, self.max_ellipsis_lines_ratio), "gopher_too_many_end_ellipsis"),
            (alphabetic < self.max_non_alpha_words_ratio, "gopher_below_alpha_threshold"),
            (counts.stop_words < self.min_stop_words, "gopher_enough_stop_words"),
        ])
    }

    fn count(&self, words: &Words) -> Counts {
        let mut counts = Counts { all: words.ids().len(), ..Counts::default() };
        let mut missing = self.stop_hashes.clone();
        for entry in words.entries() {
            counts.alphabetic += usize::from(entry.is_alphabetic());
            if !entry.is_symbol() {
                counts.full += 1;
                counts.characters += entry.chars as usize;
            }
            // Nobody asks for more than enough.
            if counts.stop_words < self.min_stop_words
                && let Some(place) = missing.iter().position(|hash| *hash == entry.hash)
            {
                counts.stop_words += 1;
                missing.swap_remove(place);
            }
        }
        counts
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn verdict(step: &GopherQuality, text: &str) -> Verdict {
        let mut step = step.clone();
        step.prepare(&Setting { recipe_dir: std::path::Path::new("."), seed: 0 }).unwrap();
        step.apply(&mut Document::new("id", text, "source"), &mut Notes::default())
    }

    fn reason(text: &str) -> Verdict {
        verdict(&GopherQuality::default(), text)
    }

    #[test]
    fn each_rule_has_its_reason() {
        let fifty = "the garden of wonders and ".repeat(20);
        for (text, expected) in [
            ("too short".to_owned(), "gopher_short_doc"),
            ("the of word and ".repeat(25_001), "gopher_long_doc"),
            ("a b ".repeat(50), "gopher_below_avg_threshold"),
            ("incomprehensibilities ".repeat(60), "gopher_above_avg_threshold"),
            (format!("{fifty}{}", "#".repeat(20)), "gopher_too_many_hashes"),
            (fifty.replace("wonders", "won..."), "gopher_too_many_ellipsis"),
            (format!("- {}", fifty.replace("and ", "and\n- ")), "gopher_too_many_bullets"),
            (
                "they have the garden to walk and\nto look at all day long...\n".repeat(8),
                "gopher_too_many_end_ellipsis",
            ),
            (
                format!("{}the of", fifty.replace("wonders", "12345").replace("garden", "12345")),
                "gopher_below_alpha_threshold",
            ),
            ("wonderful garden ".repeat(40), "gopher_enough_stop_words"),
        ] {
            assert_eq!(reason(&text), Verdict::Drop(expected));
        }
        assert_eq!(reason(&fifty), Verdict::Keep);
    }

    #[test]
    fn fifty_words_are_enough_and_forty_nine_are_not() {
        let text = |n: usize| format!("the and{}!", " garden".repeat(n - 2));
        assert_eq!(reason(&text(50)), Verdict::Keep);
        assert_eq!(reason(&text(49)), Verdict::Drop("gopher_short_doc"));
        let fewer = GopherQuality { min_doc_words: 40, ..Default::default() };
        assert_eq!(verdict(&fewer, &text(49)), Verdict::Keep);
    }

    #[test]
    fn chinese_is_judged_by_its_characters_where_that_is_asked_for() {
        let text = "人之初，性本善。性相近，习相远。苟不教，性乃迁。".repeat(5);
        assert_eq!(reason(&text), Verdict::Drop("gopher_short_doc"));
        let chinese = GopherQuality {
            words: Splitting::Characters,
            min_avg_word_length: 1.0,
            max_non_alpha_words_ratio: 0.7,
            stop_words: vec!["之".into(), "不".into()],
            ..Default::default()
        };
        assert_eq!(verdict(&chinese, &text), Verdict::Keep);
    }
}
