//! Making text uniform, so that equal texts are equal bytes.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use cupola_records::Document;
use serde::{Deserialize, Serialize};

use crate::step::{Each, Kind, Notes, Verdict};

/// The step.
pub const NORMALIZE: Kind =
    Kind::each::<Normalize>("normalize", "makes Unicode form, line ends and control characters uniform");

/// What is made uniform in each text. A text of nothing but white space is dropped as `empty`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Normalize {
    /// Unicode normalization form C: `e` + combining acute becomes `é`.
    pub nfc: bool,
    /// `\r\n` and lone `\r` become `\n`.
    pub line_ends: bool,
    /// Control characters (Unicode category Cc) other than `\n` and `\t` are removed.
    pub control: bool,
}

impl Default for Normalize {
    fn default() -> Self {
        Self { nfc: true, line_ends: true, control: true }
    }
}

impl Each for Normalize {
    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let before = document.text.len();
        if let Cow::Owned(text) = normalize(&document.text, self) {
            document.text = text;
            notes.count("normalized_documents", u64::from(before != document.text.len()));
        }
        if document.text.trim().is_empty() { Verdict::Drop("empty") } else { Verdict::Keep }
    }
}

/// Applies what `config` asks for; text that is uniform already is borrowed. Spaces are kept, also at the ends of lines.
fn normalize<'a>(text: &'a str, config: &Normalize) -> Cow<'a, str> {
    // Line ends and control characters before composition: removing a character can bring together what composes.
    let cleaned = clean(text, config);
    if !config.nfc || cleaned.is_ascii() || is_nfc_quick(cleaned.chars()) == IsNormalized::Yes {
        return cleaned;
    }
    Cow::Owned(cleaned.nfc().collect())
}

fn clean<'a>(text: &'a str, config: &Normalize) -> Cow<'a, str> {
    let concerns = |c: char| match c {
        '\n' | '\t' => false,
        '\r' => config.line_ends || config.control,
        c => config.control && c.is_control(),
    };
    let Some(first) = text.find(concerns) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..first]);
    let mut characters = text[first..].chars().peekable();
    while let Some(c) = characters.next() {
        if c == '\r' && config.line_ends {
            characters.next_if_eq(&'\n');
            out.push('\n');
        } else if !concerns(c) {
            out.push(c);
        } else if c == '\r' && characters.peek() == Some(&'\n') {
            // `line_ends` is off: the pair is a line end that is to be kept, not a stray control character.
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Normalize = Normalize { nfc: true, line_ends: true, control: true };

    #[test]
    fn characters_are_composed() {
        assert_eq!(normalize("cafe\u{301}", &ALL), "café");
        assert_eq!(normalize("\u{1100}\u{1161}", &ALL), "가");
    }

    #[test]
    fn all_line_ends_become_line_feeds() {
        assert_eq!(normalize("a\r\nb\rc\nd\r\r\n", &ALL), "a\nb\nc\nd\n\n");
    }

    #[test]
    fn control_characters_go_and_tabs_and_trailing_spaces_stay() {
        assert_eq!(normalize("a\0b\u{7}\tc  \n\u{85}\u{9F}d\u{7F}", &ALL), "ab\tc  \nd");
    }

    #[test]
    fn composition_reaches_over_a_removed_character() {
        assert_eq!(normalize("e\0\u{301}", &ALL), "é");
    }

    #[test]
    fn what_is_switched_off_is_left_alone() {
        let none = Normalize { nfc: false, line_ends: false, control: false };
        assert_eq!(normalize("e\u{301}\r\n\0", &none), "e\u{301}\r\n\0");
        let control = Normalize { nfc: false, line_ends: false, control: true };
        assert_eq!(normalize("a\r\nb\rc", &control), "a\r\nbc");
    }

    #[test]
    fn normalizing_twice_changes_nothing() {
        for text in ["e\u{301}\r\r\n\0\r", "\r\0\n", "\u{212B}\u{FB01}", "plain"] {
            let once = normalize(text, &ALL).into_owned();
            assert_eq!(normalize(&once, &ALL), once);
        }
    }
}
