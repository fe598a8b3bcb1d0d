//! The language of a document, by paragraphs.
//!
//! Paragraphs end at blank lines, or at each line's end where a text has no blank lines.
//!
//! The script decides where a single language is written in it; else a table of trigrams and words does (naive Bayes, see
//! [`model`]). The texts it was made from are named in `examples/train_language.rs`.

mod features;
mod model;
pub mod script;

use std::collections::{BTreeMap, HashSet};

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::step::{Each, Kind, Notes, Setting, Verdict};
use model::Model;

/// The step.
pub const LANGUAGE: Kind = Kind::each::<Language>(
    "language",
    "identifies language and script by paragraph; keeps the languages that are asked for",
);

/// More characters of a paragraph tell nothing new.
const MOST_CHARACTERS: usize = 1000;

/// Fields `language` (ISO 639-1, or 639-3 where there is no shorter code; `und` where nothing tells), `language_score`,
/// `script` (ISO 15924) and, where there are several, `languages` with the share of each in the text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Language {
    /// Languages that stay; empty for all.
    pub keep: Vec<String>,
    /// Documents whose language is less sure, 0 to 1, are dropped. 0.65 is what `FineWeb` takes with another classifier.
    pub min_score: f64,
    /// Also removes the paragraphs in other languages than `keep` from the documents that stay.
    pub trim: bool,
    /// Shorter paragraphs, in letters, are no evidence by themselves, and are never removed.
    pub min_letters: usize,
    #[serde(skip)]
    model: Option<Model>,
}

impl Default for Language {
    fn default() -> Self {
        Self { keep: Vec::new(), min_score: 0.0, trim: false, min_letters: 20, model: None }
    }
}

/// What was found out about a paragraph or a document.
#[derive(Clone, Debug, PartialEq)]
struct Identified {
    language: String,
    score: f64,
    script: &'static str,
}

impl Each for Language {
    fn validate(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.min_score) {
            return Err(Error::usage(format!("`min_score` of the step `language` is {}", self.min_score))
                .with_hint("it is a share from 0 to 1"));
        }
        if self.trim && self.keep.is_empty() {
            return Err(Error::usage(
                "`trim` of the step `language` removes what `keep` does not name, but `keep` is empty",
            )
            .with_hint("name the languages to keep"));
        }
        let is_code = |code: &str| matches!(code.len(), 2 | 3) && code.bytes().all(|b| b.is_ascii_lowercase());
        match self.keep.iter().find(|code| !is_code(code)) {
            Some(wrong) => {
                Err(Error::usage(format!("`{wrong}` in `keep` of the step `language` is no code of a language"))
                    .with_hint("codes are those of ISO 639, like \"en\" or \"zh\""))
            }
            None => Ok(()),
        }
    }

    fn prepare(&mut self, _: &Setting<'_>) -> Result<()> {
        let model = Model::load()?;
        let known =
            |code: &str| model.languages().any(|known| known == code) || script::languages().any(|known| known == code);
        if let Some(unknown) = self.keep.iter().find(|code| !known(code)) {
            return Err(Error::usage(format!("the step `language` cannot tell the language `{unknown}` in `keep`"))
                .with_hint("it knows the codes of ISO 639-1 where there is one: \"en\", not \"eng\""));
        }
        self.model = Some(model);
        Ok(())
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let Some(model) = &self.model else {
            return Verdict::SetAside("the step `language` has not been prepared".to_owned());
        };
        let mut shares: BTreeMap<String, f64> = BTreeMap::new();
        let mut foreign: Vec<&str> = Vec::new();
        let (mut certain, mut scripts) = (0.0, BTreeMap::new());
        let separator = if document.text.contains("\n\n") { "\n\n" } else { "\n" };
        for paragraph in document.text.split(separator) {
            if letters(paragraph) < self.min_letters {
                continue;
            }
            let identified = identify(model, paragraph);
            let length = paragraph.len() as f64;
            if self.trim && !self.keeps(&identified.language) {
                foreign.push(paragraph);
            }
            certain += length * identified.score;
            *scripts.entry(identified.script).or_insert(0.0) += length;
            *shares.entry(identified.language).or_insert(0.0) += length;
        }
        let whole = if shares.is_empty() {
            identify(model, &document.text)
        } else {
            let total: f64 = shares.values().sum();
            shares.values_mut().for_each(|share| *share /= total);
            // Of equal shares the first in the alphabet.
            let (language, share) = largest(&shares);
            // How sure the paragraphs are, times how many of them agree.
            Identified { language, score: certain / total * share, script: largest(&scripts).0 }
        };
        if self.trim && !foreign.is_empty() && self.keeps(&whole.language) {
            notes.count("language.trimmed_paragraphs", foreign.len() as u64);
            let gone: HashSet<*const u8> = foreign.iter().map(|part| part.as_ptr()).collect();
            let kept: Vec<&str> =
                document.text.split(separator).filter(|part| !gone.contains(&part.as_ptr())).collect();
            document.text = kept.join(separator);
        }
        self.verdict(document, notes, whole, shares)
    }
}

impl Language {
    fn keeps(&self, language: &str) -> bool {
        self.keep.is_empty() || self.keep.iter().any(|kept| kept == language)
    }

    /// Writes the fields and judges.
    fn verdict(
        &self,
        document: &mut Document,
        notes: &mut Notes,
        whole: Identified,
        shares: BTreeMap<String, f64>,
    ) -> Verdict {
        notes.count(&format!("language.{}", whole.language), 1);
        let verdict = if !self.keeps(&whole.language) {
            Verdict::Drop("language_other")
        } else if whole.score < self.min_score {
            Verdict::Drop("language_unsure")
        } else {
            Verdict::Keep
        };
        let fields = &mut document.fields;
        fields.insert("language".to_owned(), Value::from(whole.language));
        fields.insert("language_score".to_owned(), rounded(whole.score));
        fields.insert("script".to_owned(), Value::from(whole.script));
        if shares.len() > 1 {
            let shares = shares.into_iter().map(|(language, share)| (language, rounded(share))).collect();
            fields.insert("languages".to_owned(), Value::Object(shares));
        }
        verdict
    }
}

/// Four decimals.
fn rounded(share: f64) -> Value {
    Value::from((share * 1e4).round() / 1e4)
}

/// The first of the largest.
fn largest<K: Clone + Default + Ord>(counts: &BTreeMap<K, f64>) -> (K, f64) {
    let best = counts.iter().rev().max_by(|a, b| a.1.total_cmp(b.1));
    best.map(|(key, count)| (key.clone(), *count)).unwrap_or_default()
}

/// Letters of the first characters.
fn letters(text: &str) -> usize {
    text.chars().take(MOST_CHARACTERS).filter(|c| features::is_part_of_word(*c)).count()
}

fn identify(model: &Model, text: &str) -> Identified {
    let unknown = |script| Identified { language: "und".to_owned(), score: 0.0, script };
    // The code for texts without letters, "Zyyy", is ISO 15924's.
    let Some(script) = script::script(text, MOST_CHARACTERS) else { return unknown("Zyyy") };
    if let Some(language) = script::language_of(script) {
        return Identified { language: language.to_owned(), score: 1.0, script };
    }
    model.guess(text, MOST_CHARACTERS).map_or_else(
        || unknown(script),
        |guess| Identified { language: guess.language.to_owned(), score: guess.score, script },
    )
}

#[cfg(test)]
mod tests;
