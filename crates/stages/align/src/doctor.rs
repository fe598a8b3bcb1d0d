//! A verdict on the known ways in which alignment fails, with the numbers behind it.

use std::collections::BTreeMap;
use std::path::Path;

use cupola_artifact::stage::StageContext;
use cupola_artifact::{Context, Result, write_atomic};
use cupola_train::TrainSummary;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

mod checks;

/// What is known of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Figures of training, step by step.
    pub series: BTreeMap<String, Vec<f64>>,
    /// Figures of held-out data before.
    pub before: BTreeMap<String, f64>,
    /// And after.
    pub after: BTreeMap<String, f64>,
}

impl History {
    /// The mean of a figure over the first and over the last tenth of the steps.
    pub fn ends(&self, name: &str) -> Option<[f64; 2]> {
        let values = self.series.get(name).filter(|values| values.len() >= 2)?;
        let tenth = (values.len() / 10).max(1);
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        Some([mean(&values[..tenth]), mean(&values[values.len() - tenth..])])
    }

    /// A figure of held-out data before and after.
    pub fn held_out(&self, name: &str) -> Option<[f64; 2]> {
        Some([*self.before.get(&format!("validation_{name}"))?, *self.after.get(&format!("validation_{name}"))?])
    }

    fn read(context: &StageContext<'_>, before: &[(String, f64)], summary: &TrainSummary) -> Result<Self> {
        let figures = |all: &[(String, f64)]| all.iter().cloned().collect();
        let mut history = Self { before: figures(before), after: figures(&summary.evaluation), ..Self::default() };
        let path = context.dir.join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?;
        for line in text.lines() {
            let Ok(Value::Object(line)) = serde_json::from_str(line) else { continue };
            for (name, value) in line {
                if let Some(value) = value.as_f64() {
                    history.series.entry(name).or_default().push(value);
                }
            }
        }
        Ok(history)
    }
}

/// What a check has come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The check.
    pub check: String,
    /// Whether the failure is there.
    pub found: bool,
    /// The numbers.
    pub says: String,
    /// What helps; empty where nothing was found.
    pub advice: String,
}

/// A known failure.
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// What helps against it.
    pub advice: &'static str,
    /// Whether it is there, and the numbers; absent where they were not measured.
    look: fn(&History) -> Option<(bool, String)>,
}

/// Every check.
pub const ALL: &[Check] = &[
    checks::CHOSEN_FALLS,
    checks::OVERFITTING,
    checks::LENGTH,
    checks::DIVERGENCE,
    checks::ENTROPY,
    checks::DEAD_GROUPS,
];

/// Looks for all failures.
pub fn examine(history: &History) -> Vec<Finding> {
    let one = |check: &Check| {
        let (found, says) = (check.look)(history)?;
        let advice = if found { check.advice } else { "" };
        Some(Finding { check: check.name.into(), found, says, advice: advice.into() })
    };
    ALL.iter().filter_map(one).collect()
}

/// Examines a run that has ended: says what was found, writes `doctor.json`, and adds to the stage's figures which checks
/// found something.
///
/// # Errors
/// A file that cannot be read or written.
pub fn conclude(
    context: &StageContext<'_>,
    before: &[(String, f64)],
    summary: &TrainSummary,
    metrics: &mut Map<String, Value>,
) -> Result<()> {
    let findings = examine(&History::read(context, before, summary)?);
    for finding in findings.iter().filter(|finding| finding.found) {
        context.progress.warn(&format!("{}: {}; {}", finding.check, finding.says, finding.advice));
    }
    let found: Vec<&str> = findings.iter().filter(|f| f.found).map(|f| f.check.as_str()).collect();
    let healthy = findings.iter().filter(|f| !f.found).count();
    context.progress.line(&format!("doctor: {} of {} checks found nothing wrong", healthy, findings.len()));
    metrics.insert("doctor".into(), json!(found));
    write(context.dir, &findings)
}

fn write(dir: &Path, findings: &[Finding]) -> Result<()> {
    let text = serde_json::to_string_pretty(findings).context(|| "cannot write doctor.json".into())?;
    write_atomic(&dir.join("doctor.json"), format!("{text}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(series: &[(&str, &[f64])], held_out: &[(&str, [f64; 2])]) -> History {
        let named = |i: usize| held_out.iter().map(|(n, v)| (format!("validation_{n}"), v[i])).collect();
        History {
            series: series.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect(),
            before: named(0),
            after: named(1),
        }
    }

    fn found(history: &History) -> Vec<String> {
        examine(history).into_iter().filter(|finding| finding.found).map(|finding| finding.check).collect()
    }

    #[test]
    fn each_failure_is_found_and_its_absence_too() {
        let sick: &[(&str, History)] = &[
            ("chosen_falls", history(&[], &[("logps_chosen", [-50.0, -80.0]), ("logps_rejected", [-50.0, -160.0])])),
            ("overfitting", history(&[("reward_accuracy", &[0.5, 0.7, 0.9, 0.99])], &[("reward_margin", [0.2, -0.1])])),
            ("overfitting", history(&[("reward", &[0.1, 0.5, 0.9])], &[("reward", [0.3, 0.1])])),
            (
                "length",
                history(&[], &[("length", [40.0, 90.0]), ("reward", [0.1, 0.15]), ("reward_deviation", [0.3, 0.3])]),
            ),
            ("divergence", history(&[("kl", &[0.0, 5.0, 60.0])], &[])),
            ("entropy", history(&[("entropy", &[2.0, 1.0, 0.1, 0.05])], &[])),
            ("dead_groups", history(&[("dead_groups", &[0.1, 0.5, 0.9, 0.95])], &[])),
        ];
        for (name, history) in sick {
            assert_eq!(found(history), [*name]);
        }
        let well = history(
            &[
                ("reward_accuracy", &[0.5, 0.7, 0.8]),
                ("reward", &[0.1, 0.4, 0.7]),
                ("kl", &[0.0, 2.0, 6.0]),
                ("entropy", &[2.0, 1.8, 1.5]),
                ("dead_groups", &[0.3, 0.2, 0.2]),
            ],
            &[
                ("logps_chosen", [-50.0, -49.0]),
                ("logps_rejected", [-50.0, -60.0]),
                ("reward_margin", [0.0, 0.5]),
                ("reward", [0.1, 0.7]),
                ("reward_deviation", [0.3, 0.3]),
                ("length", [40.0, 44.0]),
            ],
        );
        let findings = examine(&well);
        assert_eq!((found(&well).len(), findings.len()), (0, ALL.len()));
        assert!(findings.iter().all(|finding| finding.says.chars().any(|c| c.is_ascii_digit())));
        assert!(examine(&History::default()).is_empty(), "what was not measured is not judged");
    }
}
