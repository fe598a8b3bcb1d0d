//! `FineWeb`'s own rules.

use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::lines::{ends_in_punctuation, repeated, share, visible_lines};
use crate::step::{Each, Kind, Notes, Verdict, first_reason};

/// Penedo et al. 2024, "The FineWeb Datasets", section 3.6: three rules found by comparing the statistics of good and bad
/// crawls, meant to come after those of Gopher and C4.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineWeb {}

/// The step.
pub const FINEWEB: Kind = Kind::each::<FineWeb>(
    "fineweb",
    "lines without final punctuation, repeated lines, short lines (Penedo et al. 2024)",
);

const MIN_LINES_WITH_PUNCTUATION: f64 = 0.12;
const MAX_CHARACTERS_IN_REPEATED_LINES: f64 = 0.1;
const MAX_SHORT_LINES: f64 = 0.67;
const SHORT_LINE_CHARACTERS: usize = 30;

impl Each for FineWeb {
    fn apply(&self, document: &mut Document, _: &mut Notes) -> Verdict {
        self.check(&document.text)
    }
}

impl FineWeb {
    /// Keep or drop.
    fn check(&self, text: &str) -> Verdict {
        let (mut lines, mut punctuated, mut short) = (0, 0, 0);
        for line in visible_lines(text) {
            lines += 1;
            punctuated += usize::from(ends_in_punctuation(line));
            short += usize::from(line.chars().nth(SHORT_LINE_CHARACTERS - 1).is_none());
        }
        let characters = text.chars().filter(|c| *c != '\n').count();
        first_reason(&[
            (lines == 0, "fineweb_empty"),
            (share(punctuated, lines) <= MIN_LINES_WITH_PUNCTUATION, "fineweb_line_punct_ratio"),
            (share(short, lines) >= MAX_SHORT_LINES, "fineweb_short_line_ratio"),
            (
                repeated(visible_lines(text), characters).characters >= MAX_CHARACTERS_IN_REPEATED_LINES,
                "fineweb_char_dup_ratio",
            ),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_reason() {
        let line = |n: usize| format!("This is line number {n} of a text with long enough lines.\n");
        let good: String = (0..10).map(line).collect();
        assert_eq!(FineWeb {}.check(&good), Verdict::Keep);
        for (text, expected) in [
            (good.replace('.', ""), "fineweb_line_punct_ratio"),
            (format!("{}{}", line(1), "A short line.\n".repeat(3)), "fineweb_short_line_ratio"),
            (format!("{good}{}{}", line(1), line(2)), "fineweb_char_dup_ratio"),
            (" \n ".to_owned(), "fineweb_empty"),
        ] {
            assert_eq!(FineWeb {}.check(&text), Verdict::Drop(expected), "{text}");
        }
    }
}
