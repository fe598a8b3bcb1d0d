//! What a task is.

use std::collections::BTreeSet;
use std::path::Path;

use cupola_artifact::Result;
use cupola_artifact::stage::Progress;
use serde_json::Value;

use crate::items::Pick;
use crate::subject::Subject;

/// One kind of task (`multiple_choice`, …).
pub trait TaskKind: Send + Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;

    /// One line of help.
    fn about(&self) -> &'static str;

    /// Raised when the same data would give other numbers than before.
    fn version(&self) -> u32 {
        1
    }

    /// Whether the stage's `text` will do when the task names no data of its own.
    fn uses_text(&self) -> bool {
        false
    }

    /// Reads the settings that only this kind has; an empty table gives the defaults.
    fn configure(&self, section: &str, table: toml::Table) -> Result<Box<dyn Task>>;
}

/// A task with its settings.
pub trait Task: Send + Sync {
    /// The settings with their defaults filled in.
    fn settings(&self) -> Value;

    /// Scores a model.
    fn run(&self, subject: &Subject, input: &TaskInput<'_>) -> Result<Outcome>;
}

/// What a task is given besides the model.
pub struct TaskInput<'a> {
    /// The task's data.
    pub data: &'a Path,
    /// Which of the data's items.
    pub pick: Pick,
    /// The most tokens to generate for one answer.
    pub max_gen_tokens: usize,
    /// Where progress is shown; the task has begun there, counting items.
    pub progress: &'a dyn Progress,
}

/// A score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// The score.
    pub value: f64,
    /// Its standard error, if one can be given.
    pub stderr: Option<f64>,
}

impl Measure {
    /// A score without a standard error.
    pub fn exact(value: f64) -> Self {
        Self { value, stderr: None }
    }

    /// The mean of the items' scores and its standard error: their standard deviation, with n - 1 in its denominator,
    /// over the root of n, as lm-evaluation-harness reports it.
    pub fn mean(scores: &[f64]) -> Self {
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let squares: f64 = scores.iter().map(|s| (s - mean).powi(2)).sum();
        Self { value: mean, stderr: (scores.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()) }
    }
}

/// What a task found out about a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Scores by name, the most important first.
    pub measures: Vec<(&'static str, Measure)>,
    /// The items scored.
    pub n: usize,
    /// A few items with what the model made of them.
    pub samples: Vec<Value>,
    /// Where the measures are means over items: the items' numbers in their file, and their scores for each measure.
    pub items: Option<ItemScores>,
    /// The same over those items that were not found in the training data, and how many they are.
    pub clean: Option<(usize, Vec<(&'static str, Measure)>)>,
}

/// The scores of single items.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemScores {
    /// Numbers in the file, from 0.
    pub numbers: Vec<u64>,
    /// By measure, in the order of the items.
    pub scores: Vec<(&'static str, Vec<f64>)>,
}

impl Outcome {
    /// An outcome whose measures are means over items.
    pub fn of_items(numbers: Vec<u64>, scores: Vec<(&'static str, Vec<f64>)>, samples: Vec<Value>) -> Self {
        let measures = scores.iter().map(|(name, scores)| (*name, Measure::mean(scores))).collect();
        let n = numbers.len();
        Self { measures, n, samples, items: Some(ItemScores { numbers, scores }), clean: None }
    }

    /// Adds the measures over the items that are not among `found`; nothing where the items have no scores of their own.
    pub fn leave_out(&mut self, found: &BTreeSet<u64>) {
        let Some(items) = &self.items else { return };
        let clean: Vec<usize> = (0..items.numbers.len()).filter(|i| !found.contains(&items.numbers[*i])).collect();
        let mean = |scores: &[f64]| Measure::mean(&clean.iter().map(|i| scores[*i]).collect::<Vec<f64>>());
        let measures = match clean.is_empty() {
            true => Vec::new(),
            false => items.scores.iter().map(|(name, scores)| (*name, mean(scores))).collect(),
        };
        self.clean = Some((clean.len(), measures));
    }
}

/// How many samples a task keeps of each model.
pub(crate) const SAMPLES: usize = 5;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_that_of_a_sample_mean() {
        let Measure { value, stderr } = Measure::mean(&[1.0, 0.0, 1.0, 1.0]);
        assert_eq!((value, stderr), (0.75, Some(0.25)));
        assert_eq!(Measure::mean(&[1.0]), Measure::exact(1.0));
    }

    #[test]
    fn items_found_in_the_training_data_are_left_out_of_the_clean_score() {
        let mut outcome = Outcome::of_items(vec![3, 5, 8, 9], vec![("acc", vec![1.0, 0.0, 1.0, 0.0])], vec![]);
        assert_eq!(outcome.measures[0].1.value, 0.5);
        outcome.leave_out(&BTreeSet::from([0, 3, 8]));
        let (n, measures) = outcome.clean.clone().unwrap();
        assert_eq!((n, measures[0].0, measures[0].1.value), (2, "acc", 0.0));
        outcome.leave_out(&BTreeSet::from([3, 5, 8, 9]));
        assert_eq!(outcome.clean, Some((0, vec![])));
    }
}
