//! The rules of C4 for lines and pages.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Anchored, Input};
use cupola_artifact::{Context, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::lines::{lines, strip};
use crate::step::{Each, Kind, Notes, Setting, Verdict};
use crate::steps::words::{count_sentences, is_space};

/// Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2, as its authors' code and datatrove apply it:
/// removes lines that are no full sentences or speak of JavaScript, cookies or policies, and judges what is left of the page.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct C4 {
    /// Bad lines and citation marks are taken out of the text; false leaves it whole and only judges.
    pub remove_lines: bool,
    /// Marks such as `[3]` and `[citation needed]` are taken out of each line.
    pub remove_citations: bool,
    /// A line that does not end in `.`, `?`, `!`, `"` or `'`, or that ends in `...`, is bad.
    pub filter_no_terminal_punct: bool,
    /// The fewest sentences in good lines; 5. 0 for no limit.
    pub min_num_sentences: usize,
    /// A line of fewer words is bad; 3. 0 for no limit.
    pub min_words_per_line: usize,
    /// A line with a longer word is bad, in characters; 1000. 0 for no limit.
    pub max_word_length: usize,
    /// A good line with "lorem ipsum" drops the document.
    pub filter_lorem_ipsum: bool,
    /// A line with "javascript" is bad.
    pub filter_javascript: bool,
    /// A good line with `{` drops the document.
    pub filter_curly_bracket: bool,
    /// A line that speaks of terms of use, privacy or cookie policies or of the use of cookies is bad.
    pub filter_policy: bool,
    #[serde(skip)]
    phrases: Option<AhoCorasick>,
}

impl Default for C4 {
    fn default() -> Self {
        Self {
            remove_lines: true,
            remove_citations: true,
            filter_no_terminal_punct: true,
            min_num_sentences: 5,
            min_words_per_line: 3,
            max_word_length: 1000,
            filter_lorem_ipsum: true,
            filter_javascript: true,
            filter_curly_bracket: true,
            filter_policy: true,
            phrases: None,
        }
    }
}

/// The step.
pub const C4_PAGES: Kind = Kind::each::<C4>(
    "c4",
    "removes lines that are no sentences; placeholder text, curly brackets, few sentences (Raffel et al. 2020)",
);

/// Found in any case; the first two by their places here.
const PHRASES: [&str; 8] = [
    "lorem ipsum",
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
];
const LOREM_IPSUM: usize = 0;
const JAVASCRIPT: usize = 1;

/// What is to be done with a line.
enum Line<'a> {
    Good(Cow<'a, str>),
    /// Why it goes, as the report counts it.
    Bad(&'static str),
    DropPage(&'static str),
}

impl Each for C4 {
    fn prepare(&mut self, _: &Setting<'_>) -> Result<()> {
        let phrases =
            AhoCorasick::builder().ascii_case_insensitive(true).kind(Some(AhoCorasickKind::DFA)).build(PHRASES);
        self.phrases = Some(phrases.context(|| "cannot prepare the phrases of `c4`".to_owned())?);
        Ok(())
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let text = &document.text;
        let has_phrases = self.phrases.as_ref().is_some_and(|phrases| phrases.is_match(text.as_str()));
        let (mut sentences, mut kept, mut bad) = (0, String::new(), Vec::new());
        for line in lines(text) {
            match self.judge(line, has_phrases) {
                Line::DropPage(reason) => return Verdict::Drop(reason),
                Line::Bad(reason) => bad.push(reason),
                Line::Good(line) => {
                    if sentences < self.min_num_sentences {
                        sentences += count_sentences(&line, self.min_num_sentences - sentences);
                    }
                    if self.remove_lines {
                        kept.push_str(&line);
                        kept.push('\n');
                    }
                }
            }
        }
        if sentences < self.min_num_sentences {
            return Verdict::Drop("c4_too_few_sentences");
        }
        if self.remove_lines {
            bad.iter().for_each(|reason| notes.count(reason, 1));
            kept.truncate(kept.trim_end_matches(is_space).len());
            document.text = if kept.starts_with(is_space) { strip(&kept).to_owned() } else { kept };
        }
        Verdict::Keep
    }
}

impl C4 {
    fn judge<'a>(&self, line: &'a str, has_phrases: bool) -> Line<'a> {
        let line = strip(line);
        let too_long = |word: &str| word.len() > self.max_word_length && word.chars().count() > self.max_word_length;
        if self.max_word_length > 0 && line.len() > self.max_word_length && line.split(is_space).any(too_long) {
            return Line::Bad("c4_line_too_long_word");
        }
        let words = || line.split(is_space).filter(|word| !word.is_empty());
        let full = self.min_words_per_line == 0 || words().nth(self.min_words_per_line - 1).is_some();
        let line = if self.remove_citations { without_citations(line) } else { Cow::Borrowed(line) };
        if self.filter_no_terminal_punct && (!line.ends_with(['.', '?', '!', '"', '\'']) || line.ends_with("...")) {
            return Line::Bad("c4_line_no_terminal_punct");
        }
        if !full {
            return Line::Bad("c4_line_too_few_words");
        }
        let found = if has_phrases { self.phrases_in(&line) } else { [false; PHRASES.len()] };
        if self.filter_lorem_ipsum && found[LOREM_IPSUM] {
            return Line::DropPage("c4_lorem_ipsum");
        }
        if self.filter_javascript && found[JAVASCRIPT] {
            return Line::Bad("c4_line_javascript");
        }
        if self.filter_curly_bracket && line.contains('{') {
            return Line::DropPage("c4_curly_bracket");
        }
        if self.filter_policy && found[JAVASCRIPT + 1..].contains(&true) {
            return Line::Bad("c4_line_policy");
        }
        Line::Good(line)
    }

    fn phrases_in(&self, line: &str) -> [bool; PHRASES.len()] {
        let mut found = [false; PHRASES.len()];
        if let Some(phrases) = &self.phrases {
            let input = Input::new(line).anchored(Anchored::No);
            phrases.find_overlapping_iter(input).for_each(|at| found[at.pattern().as_usize()] = true);
        }
        found
    }
}

/// Without `[`, digits, `]`, and without `[edit]` and `[citation needed]`.
fn without_citations(line: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut done = 0;
    for (at, _) in line.match_indices('[') {
        let rest = &line[at + 1..];
        let inside = ["edit]", "citation needed]"].into_iter().find(|mark| rest.starts_with(mark)).map(str::len);
        let digits = || {
            let end = rest.find(|c: char| !c.is_numeric())?;
            rest[end..].starts_with(']').then_some(end + 1)
        };
        if let Some(length) = inside.or_else(digits) {
            out.push_str(&line[done..at]);
            done = at + 1 + length;
        }
    }
    if done == 0 {
        return Cow::Borrowed(line);
    }
    out.push_str(&line[done..]);
    Cow::Owned(out)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    const GOOD: &str =
        "This is a line of words. It has a second sentence.\nHere is another full line! And more?\nThe end came.";

    fn run(step: C4, text: &str) -> (Verdict, String, Notes) {
        let (mut step, mut document, mut notes) = (step, Document::new("id", text, "source"), Notes::default());
        step.prepare(&Setting { recipe_dir: std::path::Path::new("."), seed: 0 }).unwrap();
        (step.apply(&mut document, &mut notes), document.text, notes)
    }

    #[test]
    fn each_rule_has_its_reason() {
        for (text, expected) in [
            (format!("{GOOD}\nLorem Ipsum dolor sit amet."), "c4_lorem_ipsum"),
            (format!("{GOOD}\nif (a) {{ b(); }} is code."), "c4_curly_bracket"),
            ("Only one sentence stands here today.".to_owned(), "c4_too_few_sentences"),
            ("Home\nAbout us\nContact\nImprint".to_owned(), "c4_too_few_sentences"),
            ("Please enable JavaScript to see it.\n".repeat(5), "c4_too_few_sentences"),
            ("The story goes on and on...\n".repeat(5), "c4_too_few_sentences"),
        ] {
            assert_eq!(run(C4::default(), &text).0, Verdict::Drop(expected), "{text}");
        }
        assert_eq!(run(C4::default(), GOOD).0, Verdict::Keep);
    }

    #[test]
    fn bad_lines_are_removed_and_counted() {
        let bad = "Menu\nWe use cookies on this page.\nSee [1] and [edit] here[23].\nToo short.\nPlease turn on JavaScript now.";
        let (verdict, text, notes) = run(C4::default(), &format!("{bad}\n  {GOOD}  \n"));
        assert_eq!((verdict, text), (Verdict::Keep, format!("See  and  here.\n{GOOD}")));
        let counts: Vec<(&str, u64)> = notes.counts().iter().map(|(name, n)| (name.as_str(), *n)).collect();
        let expected = ["c4_line_javascript", "c4_line_no_terminal_punct", "c4_line_policy", "c4_line_too_few_words"]
            .map(|name| (name, 1));
        assert_eq!(counts, expected);
    }

    #[test]
    fn a_text_is_left_whole_where_that_is_asked_for() {
        let text = format!("Menu\n{GOOD}");
        assert_eq!(run(C4 { remove_lines: false, ..C4::default() }, &text).1, text);
    }

    #[test]
    fn brackets_and_lorem_ipsum_in_bad_lines_do_not_count() {
        let text = format!("lorem ipsum\nfunction() {{\n{GOOD}");
        assert_eq!(run(C4::default(), &text).0, Verdict::Keep);
    }
}
