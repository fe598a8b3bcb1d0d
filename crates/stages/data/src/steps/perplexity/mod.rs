//! Documents by how far they are from a sample of good text.

mod model;
mod tokens;

use cupola_artifact::{Context, Error, Result};
use cupola_records::{Document, expand, read_records};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::step::{Each, Kind, Notes, Setting, Verdict};

pub use model::{MOST_ORDER, Model};

/// Sorts documents by their perplexity under an n-gram model into head, middle and tail, as `CCNet` does (Wenzek et al. 2020,
/// section 4.2), and drops those parts that are named. The model is trained from a sample, e.g. of an encyclopedia.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Perplexity {
    /// A trained model's file; this or `train`.
    pub model: Option<String>,
    /// Files of records with `text`, of which a model is trained before the first document.
    pub train: Vec<String>,
    /// Words of the longest n-grams of a trained model, 1 to 6; 5.
    pub order: usize,
    /// Only the sample's first texts are learnt from, so many bytes; 50,000,000.
    pub most_bytes: usize,
    /// Documents with at most this perplexity are the head; none.
    pub head: Option<f64>,
    /// Documents with a higher perplexity are the tail; none.
    pub tail: Option<f64>,
    /// The parts that are dropped: `head`, `middle`, `tail`; the tail.
    pub drop: Vec<Part>,
    /// A field of the document to write its perplexity to; `perplexity`. Empty for none.
    pub field: String,
    #[serde(skip)]
    ready: Option<Model>,
}

impl Default for Perplexity {
    fn default() -> Self {
        Self {
            model: None,
            train: Vec::new(),
            order: 5,
            most_bytes: 50_000_000,
            head: None,
            tail: None,
            drop: vec![Part::Tail],
            field: "perplexity".to_owned(),
            ready: None,
        }
    }
}

/// Where a document stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Head,
    Middle,
    Tail,
}

/// The step.
pub const PERPLEXITY: Kind = Kind::each::<Perplexity>(
    "perplexity",
    "perplexity under an n-gram model of a sample: head, middle and tail (Wenzek et al. 2020)",
);

impl Each for Perplexity {
    fn validate(&self) -> Result<()> {
        if self.model.is_some() != self.train.is_empty() {
            return Err(Error::usage("`perplexity` needs either `model` or `train`")
                .with_hint("`model` names an n-gram model's file, `train` the files of a sample to make one from"));
        }
        if !(1..=MOST_ORDER).contains(&self.order) {
            return Err(Error::usage(format!("`order` of `perplexity` is {}, not 1 to {MOST_ORDER}", self.order)));
        }
        if self.head.zip(self.tail).is_some_and(|(head, tail)| head > tail) {
            return Err(Error::usage("`head` of `perplexity` is above `tail`").with_hint("low perplexity is the head"));
        }
        if self.field.is_empty() && self.tail.is_none() && self.head.is_none() {
            return Err(Error::usage("`perplexity` neither drops documents nor writes a field")
                .with_hint("set `tail`, `head` or `field`"));
        }
        Ok(())
    }

    fn references(&self) -> Vec<String> {
        self.model.iter().chain(&self.train).cloned().collect()
    }

    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        self.ready = Some(match &self.model {
            Some(file) => {
                let path = setting.recipe_dir.join(file);
                let bytes = std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
                Model::from_bytes(&bytes).map_err(|e| e.wrap(format!("cannot use {}", path.display())))?
            }
            None => Model::train(&self.sample(setting)?, self.order)?,
        });
        Ok(())
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let Some(model) = &self.ready else { return Verdict::SetAside("`perplexity` is not prepared".to_owned()) };
        let Some(perplexity) = model.perplexity(&document.text) else { return Verdict::Drop("perplexity_no_words") };
        if !self.field.is_empty() {
            document.fields.insert(self.field.clone(), ((perplexity * 10.0).round() / 10.0).into());
        }
        let (part, name, reason) = if self.head.is_some_and(|head| perplexity <= head) {
            (Part::Head, "perplexity_in_head", "perplexity_head")
        } else if self.tail.is_some_and(|tail| perplexity > tail) {
            (Part::Tail, "perplexity_in_tail", "perplexity_tail")
        } else {
            (Part::Middle, "perplexity_in_middle", "perplexity_middle")
        };
        notes.count(name, 1);
        if self.drop.contains(&part) { Verdict::Drop(reason) } else { Verdict::Keep }
    }
}

impl Perplexity {
    /// The texts to learn from.
    pub fn sample(&self, setting: &Setting<'_>) -> Result<Vec<String>> {
        let (mut texts, mut left) = (Vec::new(), self.most_bytes);
        for path in expand(&self.train, setting.recipe_dir)? {
            for record in read_records(&path)? {
                let record = record?;
                let Some(text) = record.value.get("text").and_then(Value::as_str) else {
                    return Err(Error::failed(format!("{}: record {} has no `text`", path.display(), record.line)));
                };
                let text = &text[..text.floor_char_boundary(left.min(text.len()))];
                left -= text.len();
                texts.push(text.to_owned());
                if left == 0 {
                    return Ok(texts);
                }
            }
        }
        Ok(texts)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn step(change: impl FnOnce(&mut Perplexity)) -> Perplexity {
        let dir = tempfile::tempdir().unwrap();
        let text = "The ship came into the harbour at night.\nThe ship left the harbour in the morning.\n".repeat(3);
        std::fs::write(dir.path().join("good.txt"), text).unwrap();
        let mut step = Perplexity { train: vec!["good.txt".to_owned()], ..Perplexity::default() };
        change(&mut step);
        step.validate().unwrap();
        step.prepare(&Setting { recipe_dir: dir.path(), seed: 0 }).unwrap();
        step
    }

    fn apply(step: &Perplexity, text: &str) -> (Verdict, Option<f64>) {
        let mut document = Document::new("id", text, "source");
        let verdict = step.apply(&mut document, &mut Notes::default());
        (verdict, document.fields.get("perplexity").and_then(Value::as_f64))
    }

    #[test]
    fn the_tail_is_dropped_and_perplexity_written() {
        let plain = step(|_| ());
        let (near, far) = ("The ship came into the harbour.", "Buy cheap pills now, click!");
        let (a, b) = (apply(&plain, near).1.unwrap(), apply(&plain, far).1.unwrap());
        assert!(a < b, "{a} {b}");
        let mut tail = plain;
        (tail.head, tail.tail) = (Some(a), Some((a + b) / 2.0));
        assert_eq!((apply(&tail, near).0, apply(&tail, far).0), (Verdict::Keep, Verdict::Drop("perplexity_tail")));
        tail.drop = vec![Part::Head];
        tail.head = Some((a + b) / 2.0);
        assert_eq!((apply(&tail, near).0, apply(&tail, far).0), (Verdict::Drop("perplexity_head"), Verdict::Keep));
        assert_eq!(apply(&tail, "\n").0, Verdict::Drop("perplexity_no_words"));
    }

    #[test]
    fn a_sample_is_cut_where_it_is_long_enough() {
        let short = step(|step| step.most_bytes = 10);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("good.txt"), "äöü more than ten bytes").unwrap();
        let sample = short.sample(&Setting { recipe_dir: dir.path(), seed: 0 }).unwrap();
        assert_eq!(sample, ["äöü mor"]);
    }

    #[test]
    fn settings_that_say_nothing_are_usage_errors() {
        for step in [
            Perplexity::default(),
            Perplexity { model: Some("m".into()), order: 9, ..Perplexity::default() },
            Perplexity { model: Some("m".into()), head: Some(9.0), tail: Some(1.0), ..Perplexity::default() },
            Perplexity { model: Some("m".into()), field: String::new(), ..Perplexity::default() },
        ] {
            assert!(step.validate().is_err(), "{step:?}");
        }
    }
}
