//! Documents with words of a list.

use std::path::Path;

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::phrases::Phrases;
use super::read_lists;
use crate::step::{Each, Kind, Notes, Setting, Verdict};
use crate::steps::words::{Splitting, with_words};

/// Drops documents that have too many words or phrases of a list. They are found in any case and in all of Unicode's compatible
/// forms, alone in scripts with spaces and inside runs of characters in those without.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WordList {
    /// Files with a word or phrase on each line; lines with # are comments.
    pub lists: Vec<String>,
    /// Further words and phrases.
    pub words: Vec<String>,
    /// So many of them drop a document; 1.
    pub min_count: usize,
    /// And they must be at least this share of the text's words (characters, in scripts without spaces); 0.
    pub min_share: f64,
    /// They are found within other words too; false.
    pub anywhere: bool,
    /// A field of the document to write their number to; none.
    pub field: Option<String>,
    /// Whether documents are dropped, or only the field is written; true.
    pub drop: bool,
    #[serde(skip)]
    phrases: Option<Phrases>,
}

impl Default for WordList {
    fn default() -> Self {
        Self {
            lists: Vec::new(),
            words: Vec::new(),
            min_count: 1,
            min_share: 0.0,
            anywhere: false,
            field: None,
            drop: true,
            phrases: None,
        }
    }
}

/// The step.
pub const WORD_LIST: Kind = Kind::each::<WordList>("word_list", "documents with words of a list, e.g. offensive ones");

impl Each for WordList {
    fn validate(&self) -> Result<()> {
        if self.lists.is_empty() && self.words.is_empty() {
            return Err(Error::usage("`word_list` has no words")
                .with_hint("`lists` names files with a word on each line, `words` has words themselves"));
        }
        if !self.drop && self.field.is_none() {
            return Err(Error::usage("`word_list` neither drops documents nor writes a field")
                .with_hint("set `field`, or leave `drop` true"));
        }
        if !(0.0..=1.0).contains(&self.min_share) || self.min_count == 0 {
            return Err(Error::usage("`word_list` needs a `min_count` of at least 1 and a `min_share` of 0 to 1"));
        }
        Ok(())
    }

    fn references(&self) -> Vec<String> {
        self.lists.clone()
    }

    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        self.phrases = Some(self.phrases(setting.recipe_dir)?);
        Ok(())
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let Some(phrases) = &self.phrases else { return Verdict::SetAside("`word_list` is not prepared".to_owned()) };
        let all = self.field.is_some() || self.min_share > 0.0;
        let found = phrases.count(&document.text, if all { usize::MAX } else { self.min_count });
        if let Some(field) = &self.field {
            document.fields.insert(field.clone(), found.into());
        }
        if found > 0 {
            notes.count("word_list_documents", 1);
        }
        let many =
            found >= self.min_count && (self.min_share == 0.0 || found as f64 >= self.min_share * words(document));
        if self.drop && many { Verdict::Drop("word_list") } else { Verdict::Keep }
    }
}

impl WordList {
    fn phrases(&self, recipe_dir: &Path) -> Result<Phrases> {
        let mut all = read_lists(recipe_dir, &self.lists, true)?;
        all.extend(self.words.iter().cloned());
        Phrases::new(&all, self.anywhere)
    }
}

fn words(document: &Document) -> f64 {
    with_words(&document.text, Splitting::Characters, |words| words.ids().len()) as f64
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn run(mut step: WordList, text: &str) -> (Verdict, Document) {
        step.validate().unwrap();
        step.prepare(&Setting { recipe_dir: Path::new("/"), seed: 0 }).unwrap();
        let mut document = Document::new("id", text, "source");
        (step.apply(&mut document, &mut Notes::default()), document)
    }

    fn listed(words: &[&str]) -> WordList {
        WordList { words: words.iter().map(|&w| w.to_owned()).collect(), ..WordList::default() }
    }

    #[test]
    fn a_document_with_a_listed_word_is_dropped() {
        assert_eq!(run(listed(&["damn"]), "Well, damn it.").0, Verdict::Drop("word_list"));
        assert_eq!(run(listed(&["damn"]), "The damned went on.").0, Verdict::Keep);
    }

    #[test]
    fn counts_and_shares_are_thresholds() {
        let text = "bad words and bad words and other words of all kinds";
        let at_least = |min_count, min_share| WordList { min_count, min_share, ..listed(&["bad"]) };
        assert_eq!(run(at_least(2, 0.0), text).0, Verdict::Drop("word_list"));
        assert_eq!(run(at_least(3, 0.0), text).0, Verdict::Keep);
        assert_eq!(run(at_least(1, 0.18), text).0, Verdict::Drop("word_list"));
        assert_eq!(run(at_least(1, 0.19), text).0, Verdict::Keep);
    }

    #[test]
    fn the_number_can_be_written_instead() {
        let step = WordList { field: Some("bad".to_owned()), drop: false, ..listed(&["垃圾"]) };
        let (verdict, document) = run(step, "垃圾邮件和垃圾");
        assert_eq!((verdict, &document.fields["bad"]), (Verdict::Keep, &2.into()));
    }

    #[test]
    fn lists_are_files_and_a_missing_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bad.txt"), "# comment\nDamn\n\n").unwrap();
        let mut step = WordList { lists: vec!["bad.txt".to_owned()], ..WordList::default() };
        let setting = Setting { recipe_dir: dir.path(), seed: 0 };
        step.prepare(&setting).unwrap();
        let verdict = step.apply(&mut Document::new("id", "damn comment", "source"), &mut Notes::default());
        assert_eq!((verdict, step.references()), (Verdict::Drop("word_list"), vec!["bad.txt".to_owned()]));
        step.lists = vec!["worse.txt".to_owned()];
        assert!(step.prepare(&setting).is_err_and(|e| e.chain().contains("worse.txt")));
        assert!(WordList::default().validate().is_err());
    }
}
