//! `FineWeb`'s own rules.

use std::cell::RefCell;

use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::lines::{between_line_feeds, repeated, share, strip};
use crate::step::{Each, Kind, Notes, Verdict, first_reason};
use crate::steps::words::{Splitting, Table, is_terminal, with_words};

/// Penedo et al. 2024, "The FineWeb Datasets", section 3.6, with datatrove's thresholds: rules found by comparing the
/// statistics of good and bad crawls, meant to come after those of Gopher and C4.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineWeb {
    /// A document is dropped when less than this share of its lines, blank ones left out, ends in one of `stop_chars`; 0.12.
    pub line_punct_thr: f64,
    /// A document without any such line is spared that rule; false.
    pub line_punct_exclude_zero: bool,
    /// What a full line ends in. Where none is given, the marks that end sentences in any script, as in datatrove 0.10; in
    /// earlier versions these were . ' " ! and ?.
    pub stop_chars: Vec<String>,
    /// A document is dropped when more than this share of its lines is short; 0.67.
    pub short_line_thr: f64,
    /// The longest short line, in characters; 30.
    pub short_line_length: usize,
    /// A document is dropped when more than this share of its characters is in lines that were there before; 0.01, as in
    /// datatrove (the paper says 0.1).
    pub char_duplicates_ratio: f64,
    /// The most line feeds to a word; 0.3.
    pub new_line_ratio: f64,
    /// What a word is: `english`, or `characters` where scripts have no spaces.
    pub words: Splitting,
}

impl Default for FineWeb {
    fn default() -> Self {
        Self {
            line_punct_thr: 0.12,
            line_punct_exclude_zero: false,
            stop_chars: Vec::new(),
            short_line_thr: 0.67,
            short_line_length: 30,
            char_duplicates_ratio: 0.01,
            new_line_ratio: 0.3,
            words: Splitting::English,
        }
    }
}

/// The step.
pub const FINEWEB: Kind = Kind::each::<FineWeb>(
    "fineweb",
    "lines without final punctuation, repeated lines, short lines, lists (Penedo et al. 2024)",
);

thread_local! {
    static SEEN: RefCell<Table> = RefCell::default();
}

impl Each for FineWeb {
    fn apply(&self, document: &mut Document, _: &mut Notes) -> Verdict {
        SEEN.with_borrow_mut(|seen| self.check(&document.text, seen))
    }
}

impl FineWeb {
    /// Keep or drop.
    fn check(&self, text: &str, seen: &mut Table) -> Verdict {
        let visible = || between_line_feeds(text).filter(|line| !strip(line).is_empty());
        let (mut all, mut full, mut short) = (0, 0, 0);
        for line in visible() {
            all += 1;
            full += usize::from(self.is_full(line));
            short += usize::from(self.is_short(line));
        }
        let full = share(full, all);
        let verdict = first_reason(&[
            (all == 0, "fineweb_empty"),
            (full < self.line_punct_thr && !(full == 0.0 && self.line_punct_exclude_zero), "fineweb_line_punct_ratio"),
            (share(short, all) > self.short_line_thr, "fineweb_short_line_ratio"),
        ]);
        if verdict != Verdict::Keep {
            return verdict;
        }
        let line_feeds = text.bytes().filter(|b| *b == b'\n').count();
        let again = repeated(visible(), seen).characters;
        if share(again, text.chars().count() - line_feeds) > self.char_duplicates_ratio {
            return Verdict::Drop("fineweb_char_dup_ratio");
        }
        let words = with_words(text, self.words, |words| words.ids().len());
        first_reason(&[(share(line_feeds, words) > self.new_line_ratio, "fineweb_list_ratio")])
    }

    fn is_full(&self, line: &str) -> bool {
        if self.stop_chars.is_empty() {
            line.ends_with(is_terminal)
        } else {
            self.stop_chars.iter().any(|end| line.ends_with(end.as_str()))
        }
    }

    fn is_short(&self, line: &str) -> bool {
        // A character has at most four bytes.
        line.len() <= self.short_line_length
            || line.len() <= 4 * self.short_line_length && line.chars().count() <= self.short_line_length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(step: &FineWeb, text: &str) -> Verdict {
        step.check(text, &mut Table::default())
    }

    #[test]
    fn each_rule_has_its_reason() {
        let line = |n: usize| format!("Line number {n} says something that nobody has said before.\n");
        let prose: String = (0..10).map(line).collect();
        for (text, expected) in [
            (prose.replace('.', ""), "fineweb_line_punct_ratio"),
            ("Short.\nAlso short.\nShorter.\n".to_owned(), "fineweb_short_line_ratio"),
            (format!("{prose}{prose}"), "fineweb_char_dup_ratio"),
            (
                (0..9).map(|n| format!("{n}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbb!\n")).collect(),
                "fineweb_list_ratio",
            ),
        ] {
            assert_eq!(check(&FineWeb::default(), &text), Verdict::Drop(expected), "{text}");
        }
        assert_eq!(check(&FineWeb::default(), &prose), Verdict::Keep);
    }

    #[test]
    fn a_document_without_full_lines_can_be_spared() {
        let text = "这是一行没有句号的文字而且它比三十个字符更长因为它一直继续下去直到最后也没有停下来的意思的样子";
        let spared = FineWeb { line_punct_exclude_zero: true, ..FineWeb::default() };
        assert_eq!(check(&FineWeb::default(), text), Verdict::Drop("fineweb_line_punct_ratio"));
        assert_eq!(check(&spared, text), Verdict::Keep);
    }
}
