//! Stages in a folder of their own.

use std::sync::atomic::{AtomicUsize, Ordering};

use cupola_artifact::Result;
use cupola_artifact::stage::{Input, Progress, Report, Stage, StageContext};

use crate::TempDir;

/// Runs a stage with the settings of its section; its references are paths in `dir`, it writes to `out` in it and works
/// beside that.
///
/// # Errors
/// As the stage's.
pub fn run_stage(
    stage: &dyn Stage,
    dir: &TempDir,
    section: &str,
    out: &str,
    progress: &dyn Progress,
) -> Result<Report> {
    let configured = stage.configure(section.parse().unwrap())?;
    let inputs: Vec<Input> = configured
        .references()
        .into_iter()
        .map(|r| Input { key: r.key.into(), path: dir.join(&r.value), reference: r.value, kind: None })
        .collect();
    let out = dir.join(out);
    std::fs::create_dir_all(&out).unwrap();
    configured.run(&StageContext {
        name: "stage",
        dir: &out,
        work: &out.with_extension("work"),
        recipe_dir: dir.path(),
        inputs: &inputs,
        device: "cpu",
        seed: 1,
        progress,
    })
}

/// A figure that a stage reports.
pub fn metric(report: &Report, name: &str) -> f64 {
    report.metrics[name].as_f64().unwrap_or_else(|| panic!("no {name} in {:?}", report.metrics))
}

/// Ends a run like a kill: panics when the progress is updated so many times.
pub struct KillAt(AtomicUsize);

impl KillAt {
    /// Panics at the update of this number, counted from 1.
    pub fn update(number: usize) -> Self {
        Self(AtomicUsize::new(number))
    }
}

impl Progress for KillAt {
    fn begin(&self, _: &str, _: Option<u64>, _: &str) {}
    fn update(&self, _: u64, _: &str) {
        assert!(self.0.fetch_sub(1, Ordering::SeqCst) > 1, "killed");
    }
    fn end(&self) {}
    fn line(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}
