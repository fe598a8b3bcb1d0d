//! Runs the stage in a folder of its own.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::path::Path;

use cupola_artifact::Result;
use cupola_artifact::stage::{Progress, Report, Silent, Stage, StageContext};
use cupola_data::DataStage;

/// Runs a data stage with these settings into `out`; its work folder is `out` with `.work`, and stays.
pub fn run_stage(recipe_dir: &Path, out: &str, threads: usize, config: &str) -> Result<Report> {
    run_told(recipe_dir, (out, threads), config, &Silent)
}

/// The same, with what is told on the way.
#[allow(dead_code, reason = "not every test listens")]
pub fn run_told(
    recipe_dir: &Path,
    (out, threads): (&str, usize),
    config: &str,
    progress: &dyn Progress,
) -> Result<Report> {
    let (dir, work) = (recipe_dir.join(out), recipe_dir.join(format!("{out}.work")));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::create_dir_all(&work).unwrap();
    let configured = DataStage.configure(config.parse().unwrap())?;
    let context = StageContext {
        name: "corpus",
        dir: &dir,
        work: &work,
        recipe_dir,
        inputs: &[],
        device: "cpu",
        seed: 1,
        progress,
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| configured.run(&context))
}
