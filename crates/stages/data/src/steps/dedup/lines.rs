//! Lines and paragraphs that stand in several documents.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Range;

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::step::{Across, Decision, Key, Keys, Kind, Notes, Place, Sketches, Verdict};
use crate::steps::cut::cut;

/// The step for lines.
pub const LINE_DUPLICATES: Kind = Kind::across::<PartDuplicates<Lines>>(
    "line_duplicates",
    "removes lines that stand in several documents, or several times in one",
);

/// The step for paragraphs.
pub const PARAGRAPH_DUPLICATES: Kind = Kind::across::<PartDuplicates<Paragraphs>>(
    "paragraph_duplicates",
    "removes paragraphs that stand in several documents, or several times in one (Wenzek et al. 2020)",
);

/// Parts are compared by a hash of 128 bits of their text without the spaces around it. A document of which nothing is left is
/// dropped.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, bound = "")]
pub struct PartDuplicates<P> {
    /// Parts with fewer characters are left alone: a line such as `}` or `***` is no copy. Default 40, about eight words.
    pub min_chars: usize,
    /// Parts that occur less often, in all documents together, are left alone. Default 2.
    pub min_count: usize,
    /// Which of the occurrences stays: the `first`, the default, or `none`. With `none` and a `min_count` of, say, 10, what
    /// many pages have (menus, notices) goes altogether and what a few quote stays.
    pub keep: KeepOf,
    /// Parts also count as equal that differ only in upper and lower case, in digits, or in what is neither letter nor digit
    /// (as in `CCNet`, Wenzek et al. 2020). Default false.
    pub loose: bool,
    /// What tells that a part was there: `exact`, the default, its key of 28 bytes, beside the others; `bloom`, a Bloom filter in
    /// memory, of 3.6 bytes for each part with the default `false_positives`, which takes now and then a new part for one that
    /// was there.
    pub index: IndexOf,
    /// With `bloom`, the share of new parts that are taken for old ones, at most. Default one in a million.
    pub false_positives: f64,
    #[serde(skip)]
    part: PhantomData<P>,
}

/// Which of equal parts stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepOf {
    /// The first.
    First,
    /// None of them.
    None,
}

/// What remembers parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexOf {
    /// Keys.
    Exact,
    /// A Bloom filter.
    Bloom,
}

impl<P> Default for PartDuplicates<P> {
    fn default() -> Self {
        Self {
            min_chars: 40,
            min_count: 2,
            keep: KeepOf::First,
            loose: false,
            index: IndexOf::Exact,
            false_positives: 1e-6,
            part: PhantomData,
        }
    }
}

/// How a text is divided.
pub trait Parts: Debug + Send + Sync + 'static {
    /// What the parts are called, in counts and reasons.
    const NAME: &'static str;

    /// The parts, one after another; together they are the text.
    fn divide(text: &str) -> Vec<Range<usize>>;
}

/// Lines with their ends.
#[derive(Debug)]
pub struct Lines;

/// Runs of lines that are not blank, with the blank ones after them.
#[derive(Debug)]
pub struct Paragraphs;

impl Parts for Lines {
    const NAME: &'static str = "line_duplicates";

    fn divide(text: &str) -> Vec<Range<usize>> {
        let mut end = 0;
        let line = |line: &str| {
            end += line.len();
            end - line.len()..end
        };
        text.split_inclusive('\n').map(line).collect()
    }
}

impl Parts for Paragraphs {
    const NAME: &'static str = "paragraph_duplicates";

    fn divide(text: &str) -> Vec<Range<usize>> {
        let mut paragraphs: Vec<Range<usize>> = Vec::new();
        let mut after_blank = true;
        for line in Lines::divide(text) {
            let blank = text[line.clone()].trim().is_empty();
            match paragraphs.last_mut() {
                Some(paragraph) if blank || !after_blank => paragraph.end = line.end,
                _ => paragraphs.push(line),
            }
            after_blank = blank;
        }
        paragraphs
    }
}

impl<P: Parts> Across for PartDuplicates<P> {
    fn validate(&self) -> Result<()> {
        if self.min_count < 2 {
            return Err(Error::usage(format!("`min_count` of `{}` is {}", P::NAME, self.min_count))
                .with_hint("what occurs once is no duplicate: it must be 2 or more"));
        }
        if self.index == IndexOf::Bloom && (self.min_count > 2 || self.keep == KeepOf::None) {
            return Err(Error::usage(format!("`{}` has `index = \"bloom\"`, which cannot count", P::NAME))
                .with_hint("leave `min_count` and `keep` out, or count with `index = \"exact\"`"));
        }
        if !(self.false_positives > 0.0 && self.false_positives < 1.0) {
            let (name, value) = (P::NAME, self.false_positives);
            return Err(Error::usage(format!("`false_positives` of `{name}` is {value}, not between 0 and 1")));
        }
        Ok(())
    }

    fn bloom(&self) -> Option<f64> {
        (self.index == IndexOf::Bloom).then_some(self.false_positives)
    }

    fn keys(&self, document: &Document, place: Place, keys: &mut Keys) {
        for (part, range) in (0..).zip(P::divide(&document.text)) {
            let text = document.text[range].trim();
            if text.chars().nth(self.min_chars.saturating_sub(1)).is_some() {
                let hash = xxh3_128(if self.loose { loosened(text) } else { Cow::Borrowed(text) }.as_bytes());
                keys.push(Key { hash: (hash >> 64) as u64, check: hash as u64, place, part });
            }
        }
    }

    fn group(&self, group: &[Key], _: &dyn Sketches, decisions: &mut Vec<Decision>) -> Result<()> {
        let [first, ..] = group else { return Ok(()) };
        if group.len() >= self.min_count {
            let goes = &group[usize::from(self.keep == KeepOf::First)..];
            let decide = |key: &Key| Decision { place: key.place, part: key.part, length: 0, other: first.place };
            decisions.extend(goes.iter().map(decide));
        }
        Ok(())
    }

    fn apply(&self, document: &mut Document, decisions: &[Decision], notes: &mut Notes) -> Verdict {
        let parts = P::divide(&document.text);
        let goes = decisions.iter().filter_map(|decision| parts.get(decision.part as usize).cloned());
        cut(document, goes, P::NAME, notes)
    }
}

/// Lower case, digits as 0, and nothing but letters and digits.
fn loosened(text: &str) -> Cow<'_, str> {
    let plain = |c: char| if c.is_numeric() { '0' } else { c };
    Cow::Owned(text.chars().filter(|c| c.is_alphanumeric()).map(plain).flat_map(char::to_lowercase).collect())
}

#[cfg(test)]
mod tests {
    use super::super::memory::{step, texts};
    use super::*;

    const MENU: &str = "Home | Products | About us | Contact | Imprint\n";

    #[test]
    fn lines_stay_where_they_are_first() {
        let lines = step::<PartDuplicates<Lines>>("");
        let left = texts(&lines, &[&format!("{MENU}one\n}}\n"), &format!("two\n  {MENU}}}"), MENU]);
        assert_eq!(left, [format!("{MENU}one\n}}\n"), "two\n}".to_owned(), String::new()]);
    }

    #[test]
    fn lines_that_many_have_can_go_everywhere() {
        let lines = step::<PartDuplicates<Lines>>("keep = 'none'\nmin_count = 3\nmin_chars = 3");
        let left = texts(&lines, &["menu\nquote\na", "menu\nquote\nb", "c\nmenu"]);
        assert_eq!(left, ["quote\na", "quote\nb", "c\n"]);
    }

    #[test]
    fn a_line_repeated_in_one_document_is_a_duplicate_too() {
        assert_eq!(texts(&step::<PartDuplicates<Lines>>(""), &[MENU.repeat(3)]), [MENU]);
    }

    #[test]
    fn loose_comparison_leaves_case_digits_and_signs_out() {
        let loose = step::<PartDuplicates<Lines>>("loose = true\nmin_chars = 5");
        assert_eq!(texts(&loose, &["Page 17 of 20\n", "page 18, of 20!\nx"]), ["Page 17 of 20\n", "x"]);
    }

    #[test]
    fn paragraphs_go_as_wholes_with_the_blank_lines_after_them() {
        let paragraphs = step::<PartDuplicates<Paragraphs>>("min_chars = 5");
        let left =
            texts(&paragraphs, &["first line\nsecond\n\nthird", "\n\nfirst line\nsecond\n \n\nfirst line\n\nend"]);
        assert_eq!(left, ["first line\nsecond\n\nthird", "\n\nfirst line\n\nend"]);
    }

    #[test]
    fn parts_are_the_whole_text() {
        for text in ["", "\n", "a", "a\n\nb\n", "\n\na\nb\n \n\n\nc", "a\r\n\r\nb"] {
            for parts in [Lines::divide(text), Paragraphs::divide(text)] {
                assert_eq!(parts.into_iter().map(|part| &text[part]).collect::<String>(), text);
            }
        }
    }

    #[test]
    fn counting_to_one_is_refused() {
        for wrong in ["min_count = 1", "index = 'bloom'\nkeep = 'none'", "index = 'bloom'\nfalse_positives = 0.0"] {
            assert!(LINE_DUPLICATES.configure(wrong.parse().expect("a table")).is_err(), "{wrong}");
        }
    }
}
