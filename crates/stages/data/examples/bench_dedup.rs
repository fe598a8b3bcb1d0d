//! Removes near duplicates from a file of documents, from reading to writing: what `bench/data` measures.
//!
//!     cargo run --release -p cupola-data --example bench_dedup -- documents.jsonl FOLDER ["preset = 'edited'"]
//!
//! The folder, which is made anew, gets the stage's artifact.

use std::path::Path;

use cupola_artifact::stage::{Silent, Stage, StageContext};
use cupola_artifact::{Context, Error, Result};
use cupola_data::DataStage;
use toml::{Table, Value};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [documents, folder, rest @ ..] = arguments.as_slice() else {
        return Err(Error::usage("two arguments are needed: the documents and the folder to write into"));
    };
    let settings = rest.first().map_or("", String::as_str);
    let mut step: Table = settings.parse().context(|| format!("`{settings}` is no TOML"))?;
    step.insert("step".into(), "near_duplicates".into());
    let config = Table::from_iter([
        ("sources".to_owned(), Value::Array(vec![documents.as_str().into()])),
        ("steps".to_owned(), Value::Array(vec![step.into()])),
        ("keep_dropped".to_owned(), "none".into()),
        ("validation_fraction".to_owned(), 0.0.into()),
    ]);
    let (dir, work) = (Path::new(folder), Path::new(folder).join("work"));
    if dir.exists() {
        std::fs::remove_dir_all(dir).context(|| format!("cannot remove {folder}"))?;
    }
    std::fs::create_dir_all(&work).context(|| format!("cannot create {}", work.display()))?;
    DataStage.configure(config)?.run(&StageContext {
        name: "near duplicates",
        dir,
        work: &work,
        recipe_dir: Path::new("."),
        inputs: &[],
        device: "cpu",
        seed: 1,
        progress: &Silent,
    })?;
    std::fs::remove_dir_all(&work).context(|| format!("cannot remove {}", work.display()))
}
