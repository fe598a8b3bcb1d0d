//! Documents judged by a classifier that learnt from labelled samples.

mod features;
mod model;
mod samples;
mod train;

use std::path::Path;

use cupola_artifact::{Context, Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};

pub use features::Features;
pub use model::Model;
pub use samples::Samples;
pub use train::{Learning, train};

use crate::step::{Each, Kind, Notes, Setting, Verdict};

/// Judges documents by a linear classifier on hashed words and pieces of words: quality, toxicity, subject, whatever the samples
/// were labelled by. It drops what probably has the label, or what probably does not, or writes the probability to a field.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Classifier {
    /// A trained classifier's file; this or `train`.
    pub model: Option<String>,
    /// Samples to train one from before the first document, in seconds.
    pub train: Option<Training>,
    /// The label that is meant; the last in alphabetical order (`1` of 0 and 1, `positive`).
    pub label: Option<String>,
    /// What is dropped: documents whose probability of the label is below the threshold, or at least the threshold; `below`.
    pub drop: Side,
    /// The threshold; 0.5.
    pub threshold: Threshold,
    /// A field of the document to write the probability to; none.
    pub field: Option<String>,
    #[serde(skip)]
    ready: Option<(Model, usize)>,
}

/// Samples, and how to learn from them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// Where the samples are.
    pub samples: Samples,
    /// What is counted of a text.
    pub features: Features,
    /// Passes, rate, penalty.
    pub learning: Learning,
}

/// What is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What has less of the label than the threshold.
    #[default]
    Below,
    /// What has as much or more.
    Above,
    /// Nothing: only the field is written.
    Nothing,
}

/// A probability; 0.5.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold(pub f32);

impl Default for Threshold {
    fn default() -> Self {
        Self(0.5)
    }
}

/// The step.
pub const CLASSIFIER: Kind = Kind::each::<Classifier>(
    "classifier",
    "a linear classifier that is trained from labelled samples: quality, toxicity, subject",
);

impl Training {
    /// Reads the samples and trains.
    pub fn run(&self, setting: &Setting<'_>) -> Result<Model> {
        let samples = self.samples.read(setting.recipe_dir)?;
        train(&samples, self.features, &self.learning, setting.seed)
    }
}

impl Each for Classifier {
    fn validate(&self) -> Result<()> {
        if self.model.is_some() == self.train.is_some() {
            return Err(Error::usage("`classifier` needs either `model` or `train`")
                .with_hint("`model` names a classifier's file, `train` has samples to make one from"));
        }
        if self.drop == Side::Nothing && self.field.is_none() {
            return Err(Error::usage("`classifier` neither drops documents nor writes a field")
                .with_hint("set `field`, or `drop` to `below` or `above`"));
        }
        if !(0.0..=1.0).contains(&self.threshold.0) {
            return Err(Error::usage(format!("`threshold` of `classifier` is {}, not 0 to 1", self.threshold.0)));
        }
        self.train.as_ref().map_or(Ok(()), |training| training.samples.validate())
    }

    fn references(&self) -> Vec<String> {
        let samples = self.train.iter().flat_map(|training| training.samples.references());
        self.model.iter().chain(samples).cloned().collect()
    }

    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        let model = match (&self.model, &self.train) {
            (Some(file), _) => read_model(&setting.recipe_dir.join(file))?,
            (None, Some(training)) => training.run(setting)?,
            (None, None) => return Err(Error::usage("`classifier` needs either `model` or `train`")),
        };
        let place = match &self.label {
            None => model.labels.len() - 1,
            Some(label) => model.labels.iter().position(|known| known == label).ok_or_else(|| {
                Error::usage(format!("the classifier knows no label `{label}`"))
                    .with_hint(format!("its labels are {}", model.labels.join(", ")))
            })?,
        };
        self.ready = Some((model, place));
        Ok(())
    }

    fn apply(&self, document: &mut Document, _: &mut Notes) -> Verdict {
        let Some((model, place)) = &self.ready else {
            return Verdict::SetAside("`classifier` is not prepared".to_owned());
        };
        let probability = model.probabilities(&document.text)[*place];
        if let Some(field) = &self.field {
            // Three digits: the rest is noise that only makes files longer.
            document.fields.insert(field.clone(), ((f64::from(probability) * 1000.0).round() / 1000.0).into());
        }
        let below = probability < self.threshold.0;
        match self.drop {
            Side::Below if below => Verdict::Drop("classifier"),
            Side::Above if !below => Verdict::Drop("classifier"),
            _ => Verdict::Keep,
        }
    }
}

fn read_model(path: &Path) -> Result<Model> {
    let bytes = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
    Model::from_bytes(&bytes).map_err(|e| e.wrap(format!("cannot use {}", path.display())))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    const GOOD: [&str; 4] =
        ["clear and helpful prose", "a careful account", "well written and clear", "helpful, careful words"];
    const BAD: [&str; 4] = ["buy cheap pills now", "click here now", "cheap cheap offers, click", "pills offers here"];

    fn recipe() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("good.txt"), GOOD.join("\n").clone()).unwrap();
        std::fs::write(dir.path().join("bad.txt"), BAD.join("\n")).unwrap();
        dir
    }

    fn training() -> Training {
        let samples =
            Samples { positive: vec!["good.txt".into()], negative: vec!["bad.txt".into()], ..Samples::default() };
        Training { samples, features: Features { bits: 12, ..Features::default() }, ..Training::default() }
    }

    fn apply(step: &Classifier, text: &str) -> (Verdict, Document) {
        let mut document = Document::new("id", text, "source");
        (step.apply(&mut document, &mut Notes::default()), document)
    }

    #[test]
    fn a_classifier_is_trained_before_the_first_document() {
        let dir = recipe();
        let mut step = Classifier { train: Some(training()), field: Some("quality".into()), ..Classifier::default() };
        step.validate().unwrap();
        step.prepare(&Setting { recipe_dir: dir.path(), seed: 3 }).unwrap();
        let (verdict, document) = apply(&step, "a clear and careful text");
        assert_eq!(verdict, Verdict::Keep);
        assert!(document.fields["quality"].as_f64().is_some_and(|p| p > 0.5));
        assert_eq!(apply(&step, "cheap pills, click now").0, Verdict::Drop("classifier"));
        step.drop = Side::Above;
        assert_eq!(apply(&step, "a clear and careful text").0, Verdict::Drop("classifier"));
        assert_eq!(step.references(), ["good.txt", "bad.txt"]);
    }

    #[test]
    fn a_written_classifier_judges_like_the_one_it_was_made_from() {
        let dir = recipe();
        let setting = Setting { recipe_dir: dir.path(), seed: 3 };
        let model = training().run(&setting).unwrap();
        std::fs::write(dir.path().join("quality.model"), model.to_bytes().unwrap()).unwrap();
        let mut step =
            Classifier { model: Some("quality.model".into()), label: Some("negative".into()), ..Classifier::default() };
        step.prepare(&setting).unwrap();
        assert_eq!(apply(&step, "a clear and careful text").0, Verdict::Drop("classifier"));
        assert_eq!(apply(&step, "cheap pills, click now").0, Verdict::Keep);
        step.label = Some("neutral".into());
        assert!(step.prepare(&setting).is_err_and(|e| e.hint().unwrap_or_default().contains("negative, positive")));
    }

    #[test]
    fn settings_that_say_nothing_are_usage_errors() {
        for step in [
            Classifier::default(),
            Classifier { model: Some("m".into()), train: Some(training()), ..Classifier::default() },
            Classifier { model: Some("m".into()), drop: Side::Nothing, ..Classifier::default() },
            Classifier { model: Some("m".into()), threshold: Threshold(1.5), ..Classifier::default() },
        ] {
            assert!(step.validate().is_err(), "{step:?}");
        }
    }

    #[test]
    fn three_quarters_of_held_out_reviews_are_judged_rightly() {
        let Some(data) = std::env::var_os("CUPOLA_DATA") else {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "skipped: CUPOLA_DATA names no folder of test material");
            return;
        };
        let samples = Samples { files: vec!["classify/sentence_polarity.tsv".into()], ..Samples::default() };
        let all = samples.read(Path::new(&data)).unwrap();
        let (held_out, rest): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(i, _)| i % 5 == 0);
        let of = |part: Vec<(usize, (String, String))>| part.into_iter().map(|(_, sample)| sample).collect::<Vec<_>>();
        let (held_out, rest) = (of(held_out), of(rest));
        let model = train(&rest, Features::default(), &Learning::default(), 0).unwrap();
        let right = held_out.iter().filter(|(text, label)| {
            let positive = model.probabilities(text)[1] >= 0.5;
            positive == (label == "1")
        });
        let accuracy = right.count() as f64 / held_out.len() as f64;
        assert!(accuracy > 0.74, "{accuracy}");
    }
}
