//! What a rule is.

use super::fake::Chance;
use super::text::{Groups, Text};

/// Bytes of a text: first, and after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
}

impl Span {
    /// From the first byte to before the last.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

/// Where a rule looks, so that one cheap pass over the bytes decides what is looked at at all.
pub enum Anchor {
    /// At each of these bytes.
    Byte(&'static [u8], fn(&Text<'_>, usize) -> Option<Span>),
    /// At the first digit of each run of digits.
    Number(fn(&Text<'_>, &Groups) -> Option<Span>),
    /// At each beginning of a known service's keys.
    Prefix,
}

/// A kind of personal data: how it is found, called and replaced.
pub struct Rule {
    /// What settings and counts call it.
    pub name: &'static str,
    /// What stands in the text instead of it when it is masked.
    pub label: &'static str,
    /// Why a document is dropped that has it.
    pub reason: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Where it is looked for, and how.
    pub anchor: Anchor,
    /// Another value of the same form that is nobody's.
    pub fake: fn(&str, &mut Chance) -> String,
}

/// A rule whose mask and reason follow from two spellings of its name.
macro_rules! rule {
    ($name:literal, $label:literal, $about:literal, $anchor:expr, $fake:expr) => {
        $crate::steps::privacy::rule::Rule {
            name: $name,
            label: concat!("[", $label, "]"),
            reason: concat!("privacy_", $name),
            about: $about,
            anchor: $anchor,
            fake: $fake,
        }
    };
}
pub(super) use rule;
