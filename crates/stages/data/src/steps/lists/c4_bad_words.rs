//! C4's list of bad words.

use std::collections::BTreeMap;

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::phrases::Phrases;
use super::read_list;
use crate::step::{Each, Kind, Notes, Setting, Verdict};

/// Raffel et al. 2020, section 2.2: a page with any word of the "List of Dirty, Naughty, Obscene or Otherwise Bad Words" goes.
/// The lists are files of yours, one for each language.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct C4BadWords {
    /// The file with the words of each language, e.g. `{ en = "lists/en", zh = "lists/zh" }`.
    pub lists: BTreeMap<String, String>,
    /// The field that has a document's language; `language`.
    pub language_field: String,
    /// The language of documents that do not tell it; `en`.
    pub default_language: String,
    /// The share of documents with bad words that is kept all the same; 0.
    pub keep_fraction: f64,
    /// Words of the lists that are no reason, e.g. because they are part of many others; those that C4 leaves out.
    pub allowed: Vec<String>,
    #[serde(skip)]
    phrases: BTreeMap<String, Phrases>,
    #[serde(skip)]
    seed: u64,
}

impl Default for C4BadWords {
    fn default() -> Self {
        Self {
            lists: BTreeMap::new(),
            language_field: "language".to_owned(),
            default_language: "en".to_owned(),
            keep_fraction: 0.0,
            allowed: ["sm", "グロ", "女の子", "性"].map(str::to_owned).to_vec(),
            phrases: BTreeMap::new(),
            seed: 0,
        }
    }
}

/// The step.
pub const C4_BAD_WORDS: Kind = Kind::each::<C4BadWords>(
    "c4_bad_words",
    "pages with a word of their language's list of bad words (Raffel et al. 2020)",
);

impl Each for C4BadWords {
    fn validate(&self) -> Result<()> {
        if self.lists.is_empty() {
            return Err(Error::usage("`c4_bad_words` has no list")
                .with_hint("set `lists` to a file of words for each language, e.g. { en = \"lists/en\" }"));
        }
        if !(0.0..=1.0).contains(&self.keep_fraction) {
            return Err(Error::usage(format!(
                "`keep_fraction` of `c4_bad_words` is {}, not 0 to 1",
                self.keep_fraction
            )));
        }
        Ok(())
    }

    fn references(&self) -> Vec<String> {
        self.lists.values().cloned().collect()
    }

    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        self.seed = setting.seed;
        for (language, file) in &self.lists {
            let mut words = read_list(setting.recipe_dir, file, false)?;
            words.retain(|word| !self.allowed.contains(word));
            // As in C4: no spaces divide words in these languages.
            let anywhere = ["ja", "th", "zh"].iter().any(|other| language.starts_with(other));
            self.phrases.insert(language.clone(), Phrases::new(&words, anywhere)?);
        }
        Ok(())
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let language = document.field(&self.language_field).unwrap_or(&self.default_language);
        let Some(phrases) = self.phrases.get(language) else {
            notes.count("c4_bad_words_no_list", 1);
            return Verdict::Keep;
        };
        if phrases.count(&document.text, 1) == 0 {
            return Verdict::Keep;
        }
        // A number from 0 to 1 that depends on the document and the seed alone.
        let drawn = xxh3_64_with_seed(document.id.as_bytes(), self.seed) as f64 / 2_f64.powi(64);
        if drawn < self.keep_fraction {
            notes.count("c4_bad_words_kept", 1);
            return Verdict::Keep;
        }
        Verdict::Drop("c4_bad_words")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    #[test]
    fn each_language_has_its_list() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("en"), "bugger\nsm\n").unwrap();
        std::fs::write(dir.path().join("zh"), "混蛋\n性\n").unwrap();
        let lists = [("en", "en"), ("zh", "zh")].map(|(l, f)| (l.to_owned(), f.to_owned()));
        let mut step = C4BadWords { lists: lists.into(), ..C4BadWords::default() };
        step.validate().unwrap();
        step.prepare(&Setting { recipe_dir: dir.path(), seed: 0 }).unwrap();
        let verdict = |step: &C4BadWords, language: Option<&str>, text: &str| {
            let mut document = Document::new("id", text, "source");
            if let Some(language) = language {
                document.fields.insert("language".to_owned(), language.into());
            }
            step.apply(&mut document, &mut Notes::default())
        };
        let dropped = Verdict::Drop("c4_bad_words");
        assert_eq!(verdict(&step, None, "Bugger! he said"), dropped);
        assert_eq!(verdict(&step, None, "buggers, sm"), Verdict::Keep);
        assert_eq!(verdict(&step, Some("zh"), "他是个混蛋啊"), dropped);
        assert_eq!(verdict(&step, Some("zh"), "可能性 bugger"), Verdict::Keep);
        assert_eq!(verdict(&step, Some("fr"), "bugger"), Verdict::Keep);
        step.keep_fraction = 1.0;
        assert_eq!(verdict(&step, None, "bugger"), Verdict::Keep);
    }
}
