//! Learning-rate schedules, equal to transformers' `get_scheduler`.

use cupola_artifact::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the learning rate moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Which one.
    pub name: String,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// The share of the peak at which the decay ends.
    pub min_ratio: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { name: "cosine".into(), warmup_steps: 0, min_ratio: 0.1 }
    }
}

/// A shape after warm-up: the share of the peak at `progress` from 0 to 1.
pub struct Shape {
    /// Its name in recipes.
    pub name: &'static str,
    /// The share of the peak.
    pub ratio: fn(progress: f64, min_ratio: f64) -> f64,
}

/// Every schedule.
pub const ALL: &[Shape] = &[
    Shape { name: "cosine", ratio: |p, min| min + (1.0 - min) * 0.5 * (1.0 + (std::f64::consts::PI * p).cos()) },
    Shape { name: "linear", ratio: |p, min| min + (1.0 - min) * (1.0 - p) },
    Shape { name: "constant", ratio: |_, _| 1.0 },
];

impl ScheduleConfig {
    fn shape(&self) -> Result<&'static Shape> {
        ALL.iter().find(|s| s.name == self.name).ok_or_else(|| {
            let known: Vec<_> = ALL.iter().map(|s| s.name).collect();
            Error::usage(format!("unknown schedule `{}`", self.name))
                .with_hint(format!("there are: {}", known.join(", ")))
        })
    }

    /// The share of the peak that step `step` (from 0) of `steps` uses.
    ///
    /// # Errors
    /// An unknown name.
    pub fn ratio(&self, step: u64, steps: u64) -> Result<f64> {
        let shape = self.shape()?;
        if step < self.warmup_steps {
            return Ok(step as f64 / self.warmup_steps as f64);
        }
        let progress = (step - self.warmup_steps) as f64 / steps.saturating_sub(self.warmup_steps).max(1) as f64;
        Ok((shape.ratio)(progress.min(1.0), self.min_ratio))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use cupola_testkit::Golden;

    use super::*;

    #[test]
    fn schedules_equal_transformers() {
        let golden = Golden::load("schedules");
        for (theirs, ours, min_ratio) in [
            ("cosine", "cosine", 0.0),
            ("cosine_with_min_lr", "cosine", 0.1),
            ("linear", "linear", 0.0),
            ("constant_with_warmup", "constant", 0.0),
        ] {
            let config = ScheduleConfig { name: ours.into(), warmup_steps: 5, min_ratio };
            let (_, rates) = golden.f64(theirs);
            for (step, want) in rates.iter().take(40).enumerate() {
                let got = 0.01 * config.ratio(step as u64, 40).unwrap();
                assert!((got - want).abs() < 1e-12, "{theirs}, step {step}: got {got}, want {want}");
            }
        }
    }
}
