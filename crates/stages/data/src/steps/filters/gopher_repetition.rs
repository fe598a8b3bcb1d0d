//! The repetition rules of Gopher.

use std::cell::RefCell;

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};

use super::lines::{repeated, share, strip};
use super::ngrams::{Ngrams, Repetition};
use crate::step::{Each, Kind, Notes, Verdict, first_reason};
use crate::steps::words::{Splitting, Table, with_words};

/// Rae et al. 2021, appendix A1.2, table A1, as datatrove applies it: lines, paragraphs and word n-grams that repeat, as shares
/// of lines and paragraphs and of the text's characters. A share of 0 switches its rule off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GopherRepetition {
    /// The largest share of lines that were there before; 0.30.
    pub dup_line_frac: f64,
    /// The largest share of paragraphs, between empty lines, that were there before; 0.30.
    pub dup_para_frac: f64,
    /// The largest share of characters in lines that were there before; 0.20.
    pub dup_line_char_frac: f64,
    /// The largest share of characters in paragraphs that were there before; 0.20.
    pub dup_para_char_frac: f64,
    /// Words (2 to 10), and the largest share of the characters that the most frequent n-gram of so many words may cover.
    pub top_n_grams: Vec<(usize, f64)>,
    /// Words (2 to 10), and the largest share of the characters that repeated n-grams of so many words may cover.
    pub dup_n_grams: Vec<(usize, f64)>,
    /// What a word is: `english`, or `characters` where scripts have no spaces.
    pub words: Splitting,
}

impl Default for GopherRepetition {
    fn default() -> Self {
        Self {
            dup_line_frac: 0.30,
            dup_para_frac: 0.30,
            dup_line_char_frac: 0.20,
            dup_para_char_frac: 0.20,
            top_n_grams: vec![(2, 0.20), (3, 0.18), (4, 0.16)],
            dup_n_grams: vec![(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)],
            words: Splitting::English,
        }
    }
}

/// The step.
pub const GOPHER_REPETITION: Kind = Kind::each::<GopherRepetition>(
    "gopher_repetition",
    "repeated lines, paragraphs and word n-grams (Rae et al. 2021, A1.2)",
);

/// The most words of an n-gram.
const LONGEST: usize = 10;

const TOP: [&str; LONGEST - 1] = [
    "gopher_top_2_gram",
    "gopher_top_3_gram",
    "gopher_top_4_gram",
    "gopher_top_5_gram",
    "gopher_top_6_gram",
    "gopher_top_7_gram",
    "gopher_top_8_gram",
    "gopher_top_9_gram",
    "gopher_top_10_gram",
];

const DUPLICATED: [&str; LONGEST - 1] = [
    "gopher_duplicated_2_n_grams",
    "gopher_duplicated_3_n_grams",
    "gopher_duplicated_4_n_grams",
    "gopher_duplicated_5_n_grams",
    "gopher_duplicated_6_n_grams",
    "gopher_duplicated_7_n_grams",
    "gopher_duplicated_8_n_grams",
    "gopher_duplicated_9_n_grams",
    "gopher_duplicated_10_n_grams",
];

thread_local! {
    static SCRATCH: RefCell<(Table, Ngrams)> = RefCell::default();
}

impl Each for GopherRepetition {
    fn validate(&self) -> Result<()> {
        match self.top_n_grams.iter().chain(&self.dup_n_grams).find(|(n, _)| !(2..=LONGEST).contains(n)) {
            None => Ok(()),
            Some((n, _)) => Err(Error::usage(format!("`gopher_repetition` cannot count n-grams of {n} words"))
                .with_hint(format!(
                    "`top_n_grams` and `dup_n_grams` are lists of [words, share] with 2 to {LONGEST} words"
                ))),
        }
    }

    fn apply(&self, document: &mut Document, _: &mut Notes) -> Verdict {
        SCRATCH.with_borrow_mut(|(seen, ngrams)| self.check(&document.text, seen, ngrams))
    }
}

impl GopherRepetition {
    /// Keep or drop.
    fn check(&self, text: &str, seen: &mut Table, ngrams: &mut Ngrams) -> Verdict {
        let characters = text.chars().count();
        if characters == 0 {
            return Verdict::Drop("gopher_empty");
        }
        let over = |part: usize, whole: usize, most: f64| most != 0.0 && share(part, whole) > most;
        let paragraphs = repeated(between_runs(strip(text), 2), seen);
        let lines = repeated(between_runs(text, 1), seen);
        let verdict = first_reason(&[
            (over(paragraphs.again, paragraphs.parts, self.dup_para_frac), "gopher_dup_para_frac"),
            (over(paragraphs.characters, characters, self.dup_para_char_frac), "gopher_dup_para_char_frac"),
            (over(lines.again, lines.parts, self.dup_line_frac), "gopher_dup_line_frac"),
            (over(lines.characters, characters, self.dup_line_char_frac), "gopher_dup_line_char_frac"),
        ]);
        if verdict != Verdict::Keep {
            return verdict;
        }
        let longest = self.top_n_grams.iter().chain(&self.dup_n_grams).map(|(n, _)| *n).max().unwrap_or(0);
        let found = with_words(text, self.words, |words| ngrams.count(words, longest));
        let over = |n: usize, most: f64, of: fn(&Repetition) -> usize| share(of(&found[n]), characters) > most;
        let top = self.top_n_grams.iter().find(|(n, most)| over(*n, *most, |at| at.top));
        let duplicated = || self.dup_n_grams.iter().find(|(n, most)| over(*n, *most, |at| at.duplicated));
        match (top, top.map_or_else(duplicated, |_| None)) {
            (Some((n, _)), _) => Verdict::Drop(TOP[n - 2]),
            (_, Some((n, _))) => Verdict::Drop(DUPLICATED[n - 2]),
            _ => Verdict::Keep,
        }
    }
}

/// What stands between runs of at least `n` line feeds; at least one part.
fn between_runs(text: &str, n: usize) -> impl Iterator<Item = &str> {
    let ends = Finder::new(if n == 1 { "\n" } else { "\n\n" });
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = ends.find(text.as_bytes()) else { return rest.take() };
        rest = Some(text[end..].trim_start_matches('\n'));
        Some(&text[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` different words.
    fn words(n: usize) -> String {
        (0..n).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ")
    }

    fn check(text: &str) -> Verdict {
        GopherRepetition::default().check(text, &mut Table::default(), &mut Ngrams::default())
    }

    #[test]
    fn each_rule_has_its_reason() {
        let long = words(60);
        for (text, expected) in [
            ("one\n\ntwo\n\none".to_owned(), "gopher_dup_para_frac"),
            (format!("{long}\n\nother\n\nmore\n\nthings\n\n{long}"), "gopher_dup_para_char_frac"),
            ("one\ntwo\none".to_owned(), "gopher_dup_line_frac"),
            (format!("{long}\nother\nmore\nthings\n{long}"), "gopher_dup_line_char_frac"),
            (format!("{} {}", "again again ".repeat(20), words(40)), "gopher_top_2_gram"),
            (format!("{long} a {long}"), "gopher_duplicated_5_n_grams"),
        ] {
            assert_eq!(check(&text), Verdict::Drop(expected));
        }
        assert_eq!(check(&long), Verdict::Keep);
    }

    #[test]
    fn a_threshold_of_nothing_switches_a_rule_off_and_a_higher_one_moves_it() {
        let text = "one\ntwo\none";
        let off =
            GopherRepetition { dup_line_frac: 0.0, dup_line_char_frac: 0.0, top_n_grams: vec![], ..Default::default() };
        let higher = GopherRepetition { dup_line_frac: 0.34, ..Default::default() };
        let check = |step: &GopherRepetition| step.check(text, &mut Table::default(), &mut Ngrams::default());
        assert_eq!(check(&off), Verdict::Keep);
        assert_eq!(check(&higher), Verdict::Drop("gopher_dup_line_char_frac"));
    }

    #[test]
    fn n_grams_of_too_many_words_are_a_usage_error() {
        let step = GopherRepetition { top_n_grams: vec![(11, 0.1)], ..Default::default() };
        assert!(step.validate().is_err_and(|e| e.chain().contains("11 words")));
        assert!(GopherRepetition::default().validate().is_ok());
    }

    #[test]
    fn blank_lines_divide_paragraphs_and_runs_of_line_feeds_lines() {
        assert_eq!(between_runs("a\n\n\nb\nc", 2).collect::<Vec<_>>(), ["a", "b\nc"]);
        assert_eq!(between_runs("\na\n\nb\n", 1).collect::<Vec<_>>(), ["", "a", "b", ""]);
        assert_eq!(between_runs("", 2).collect::<Vec<_>>(), [""]);
    }
}
