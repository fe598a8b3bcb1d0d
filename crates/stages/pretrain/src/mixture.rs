//! Rows from several sources in shares that change in the course of the training.

use std::collections::BTreeMap;

use cupola_artifact::{Error, Result, unknown_name};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::rows::{Drawn, Rows, position_of};

/// A part of the training: `{ until = 0.3, weights = { web = 0.8, code = 0.2 } }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Where it ends, as a share of the training, 1 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<f64>,
    /// Where it ends, in optimizer steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_step: Option<u64>,
    /// How often each of `data` is drawn from, in proportion; one that is not named is left out.
    pub weights: BTreeMap<String, f64>,
}

/// Phases in numbers: the step before which each ends, and the share of each source.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule(Vec<(u64, Vec<f64>)>);

impl Schedule {
    /// One phase.
    pub fn constant(steps: u64, weights: &[f64]) -> Self {
        let sum: f64 = weights.iter().sum();
        Self(vec![(steps, weights.iter().map(|weight| weight / sum).collect())])
    }

    /// The phases of a recipe, for sources of these names.
    ///
    /// # Errors
    /// Phases that are out of order or do not reach the end; weights of no source, or that are no weights.
    pub fn new(phases: &[Phase], steps: u64, names: &[&str]) -> Result<Self> {
        let mut out: Vec<(u64, Vec<f64>)> = Vec::new();
        for (number, phase) in phases.iter().enumerate() {
            let last = number + 1 == phases.len();
            let wrong = |what: &str| {
                Err(Error::usage(format!("phase {} of `curriculum` in [pretrain] {what}", number + 1))
                    .with_hint("write `{ until = 0.3, weights = { … } }`; the last phase needs no `until`"))
            };
            let end = match (phase.until, phase.until_step) {
                (Some(_), Some(_)) => return wrong("has `until` and `until_step`"),
                (Some(share), None) if (0.0..=1.0).contains(&share) => (share * steps as f64).round() as u64,
                (Some(_), None) => return wrong("has an `until` that is not between 0 and 1"),
                (None, Some(step)) => step.min(steps),
                (None, None) if last => steps,
                (None, None) => return wrong("does not say until when"),
            };
            let began = out.last().map_or(0, |phase| phase.0);
            if end < began {
                return wrong("ends before the one before it");
            }
            if last && end < steps {
                return wrong("is the last and does not reach the end of the training");
            }
            out.push((end, shares(phase, names)?));
        }
        Ok(Self(out))
    }

    /// How many rows of each source there should be among the first `rows`, with `sequences` in a step.
    fn wanted(&self, rows: u64, sequences: u64) -> Vec<f64> {
        let mut wanted = vec![0.0; self.0.first().map_or(0, |phase| phase.1.len())];
        let mut began = 0;
        for (number, (end, shares)) in self.0.iter().enumerate() {
            // What comes behind the last phase goes on like it.
            let end = if number + 1 == self.0.len() { u64::MAX } else { end.saturating_mul(sequences) };
            let within = rows.min(end).saturating_sub(began) as f64;
            wanted.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share * within);
            began = end;
        }
        wanted
    }

    /// The shares at a row.
    fn shares(&self, row: u64, sequences: u64) -> &[f64] {
        let last = self.0.len() - 1;
        let phase = self.0[..last].iter().position(|phase| row < phase.0.saturating_mul(sequences)).unwrap_or(last);
        &self.0[phase].1
    }

    /// How many rows each source gives in a training of so many steps, to the nearest.
    pub fn rows(&self, steps: u64, sequences: usize) -> Vec<u64> {
        self.wanted(steps * sequences as u64, sequences as u64).into_iter().map(|rows| rows.round() as u64).collect()
    }
}

fn shares(phase: &Phase, names: &[&str]) -> Result<Vec<f64>> {
    if let Some(name) = phase.weights.keys().find(|name| !names.contains(&name.as_str())) {
        let message = format!("`curriculum` in [pretrain] has a weight of `{name}`, which is not in `data`");
        return Err(unknown_name(&message, name, "input", names));
    }
    let weights: Vec<f64> = names.iter().map(|name| phase.weights.get(*name).copied().unwrap_or(0.0)).collect();
    let sum: f64 = weights.iter().sum();
    if weights.iter().any(|weight| !(0.0..=1e9).contains(weight)) || sum <= 0.0 {
        return Err(Error::usage(
            "`weights` in `curriculum` in [pretrain] must be numbers from 0 on, one of them larger",
        ));
    }
    Ok(weights.into_iter().map(|weight| weight / sum).collect())
}

/// Rows of several sources: each next row is from the one that is furthest behind its share. No chance is in it, so that
/// every part of the training has its shares to a row.
pub struct Mixed {
    sources: Vec<Box<dyn Rows>>,
    schedule: Schedule,
    /// Rows of a step.
    sequences: u64,
    /// Rows that each source gave.
    drawn: Vec<u64>,
}

impl Mixed {
    /// A mixture; there are as many sources as the schedule has shares.
    pub fn new(sources: Vec<Box<dyn Rows>>, schedule: Schedule, sequences: usize) -> Self {
        let drawn = vec![0; sources.len()];
        Self { sources, schedule, sequences: sequences as u64, drawn }
    }

    /// The source of the next row.
    fn next(&self) -> usize {
        let row = self.drawn.iter().sum::<u64>();
        let wanted = self.schedule.wanted(row + 1, self.sequences);
        let shares = self.schedule.shares(row, self.sequences);
        let behind = |i: usize| wanted[i] - self.drawn[i] as f64;
        let most = (0..wanted.len()).filter(|i| shares[*i] > 0.0);
        // The first of equal ones.
        most.reduce(|best, i| if behind(i) > behind(best) { i } else { best }).unwrap_or(0)
    }
}

impl Rows for Mixed {
    fn draw(&mut self, count: usize) -> Result<Drawn> {
        let mut drawn = Drawn::default();
        for _ in 0..count {
            let source = self.next();
            drawn.append(self.sources[source].draw(1)?);
            self.drawn[source] += 1;
        }
        Ok(drawn)
    }

    fn position(&self) -> Value {
        let sources: Vec<Value> = self.sources.iter().map(|source| source.position()).collect();
        json!({"drawn": self.drawn, "sources": sources})
    }

    fn restore(&mut self, position: &Value) -> Result<()> {
        let (drawn, sources): (Vec<u64>, Vec<Value>) =
            (position_of(&position["drawn"])?, position_of(&position["sources"])?);
        if drawn.len() != self.sources.len() || sources.len() != self.sources.len() {
            return Err(Error::failed(format!(
                "the checkpoint is of {} sources, not {}",
                drawn.len(),
                self.sources.len()
            )));
        }
        self.drawn = drawn;
        self.sources.iter_mut().zip(&sources).try_for_each(|(source, position)| source.restore(position))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Rows of one token each, which tell their source and number.
    struct Numbered(u32, u32);

    impl Rows for Numbered {
        fn draw(&mut self, count: usize) -> Result<Drawn> {
            let ids: Vec<u32> = (0..count as u32).map(|i| 1000 * self.0 + self.1 + i).collect();
            self.1 += count as u32;
            Ok(Drawn { targets: vec![0; count], segments: vec![0; count], ids })
        }

        fn position(&self) -> Value {
            json!(self.1)
        }

        fn restore(&mut self, position: &Value) -> Result<()> {
            self.1 = position_of(position)?;
            Ok(())
        }
    }

    fn phases(text: &str) -> Vec<Phase> {
        #[derive(Deserialize)]
        struct All {
            curriculum: Vec<Phase>,
        }
        toml::from_str::<All>(text).unwrap().curriculum
    }

    const THREE: &str = "curriculum = [{ until = 0.3, weights = { a = 3, b = 1 } }, \
                         { until_step = 50, weights = { b = 1.0 } }, { weights = { a = 1, c = 1 } }]";

    fn mixed() -> Mixed {
        let schedule = Schedule::new(&phases(THREE), 100, &["a", "b", "c"]).unwrap();
        Mixed::new((0..3).map(|i| Box::new(Numbered(i, 0)) as Box<dyn Rows>).collect(), schedule, 8)
    }

    #[test]
    fn every_phase_has_its_shares_to_a_row_and_a_source_is_read_in_its_order() {
        let mut mixed = mixed();
        let mut seen = [0; 3];
        for (steps, shares) in [(30, [0.75, 0.25, 0.0]), (20, [0.0, 1.0, 0.0]), (50, [0.5, 0.0, 0.5])] {
            let rows: Vec<u32> = (0..steps).flat_map(|_| mixed.draw(8).unwrap().ids).collect();
            for source in 0..3_u32 {
                let own: Vec<u32> = rows.iter().copied().filter(|id| id / 1000 == source).collect();
                let want = shares[source as usize] * f64::from(steps * 8);
                assert!((own.len() as f64 - want).abs() <= 1.0, "{source}: {} of {want}", own.len());
                for id in own {
                    assert_eq!(id, 1000 * source + seen[source as usize]);
                    seen[source as usize] += 1;
                }
            }
        }
        let planned = Schedule::new(&phases(THREE), 100, &["a", "b", "c"]).unwrap().rows(100, 8);
        assert_eq!(planned, [180 + 200, 60 + 160, 200]);
        assert!(planned.iter().zip(seen).all(|(plan, seen)| plan.abs_diff(u64::from(seen)) <= 1), "{seen:?}");
    }

    #[test]
    fn a_mixture_goes_on_from_its_position() {
        let mut whole = mixed();
        let all: Vec<Drawn> = (0..100).map(|_| whole.draw(8).unwrap()).collect();
        for at in [1, 29, 31, 50, 99] {
            let mut first = mixed();
            (0..at).for_each(|_| drop(first.draw(8).unwrap()));
            let mut resumed = mixed();
            resumed.restore(&first.position()).unwrap();
            assert_eq!((at..100).map(|_| resumed.draw(8).unwrap()).collect::<Vec<_>>(), all[at..]);
        }
        assert!(mixed().restore(&json!({"drawn": [1], "sources": [0]})).is_err());
    }

    #[test]
    fn a_wrong_curriculum_is_refused() {
        let error = |text: &str| {
            let error = Schedule::new(&phases(text), 100, &["web", "code"]).unwrap_err();
            format!("{} {}", error, error.hint().unwrap_or_default())
        };
        assert!(error("curriculum = [{ weights = { wed = 1 } }]").contains("did you mean `web`"));
        for (text, what) in [
            ("[{ until = 0.5, weights = { web = 1 } }]", "does not reach the end"),
            (
                "[{ weights = { web = 1 } }, { weights = { web = 1 } }]",
                "phase 1 of `curriculum` in [pretrain] does not say",
            ),
            ("[{ until = 0.5, weights = { web = 1 } }, { until = 0.2, weights = { web = 1 } }]", "ends before"),
            ("[{ until = 1.5, weights = { web = 1 } }]", "not between 0 and 1"),
            ("[{ until = 1, until_step = 3, weights = { web = 1 } }]", "`until` and `until_step`"),
            ("[{ weights = { web = -1 } }]", "numbers from 0 on"),
            ("[{ weights = { web = 0 } }]", "numbers from 0 on"),
        ] {
            let message = error(&format!("curriculum = {text}"));
            assert!(message.contains(what), "{text}: {message}");
        }
    }
}
