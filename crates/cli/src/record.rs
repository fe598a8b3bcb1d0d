//! The record of a run: what every stage has made, for tables and for programs.

use std::path::{Path, PathBuf};

use cupola_artifact::stage::Report;
use cupola_artifact::{Context, Machine, Manifest, Result, write_atomic};
use serde::Serialize;
use serde_json::{Map, Value};

/// The kinds whose artifacts are models, and `serve`, which points to one; later ones are nearer to the user.
const SERVABLE: [&str; 6] = ["pretrain", "tune", "align", "compress", "memory", "serve"];

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct RunRecord {
    /// The recipe's name.
    pub name: String,
    /// The folder of the artifacts.
    pub out: PathBuf,
    /// The recipe's folder.
    pub recipe_dir: PathBuf,
    /// Where the randomness started.
    pub seed: u64,
    /// The device.
    pub device: String,
    /// When the run began.
    pub started: String,
    /// When it ended.
    pub finished: String,
    /// How long it took.
    pub seconds: f64,
    /// Where it ran.
    pub machine: Machine,
    /// Every stage of the recipe.
    pub stages: Vec<StageRecord>,
    /// The models side by side.
    pub scores: Vec<ScoreRow>,
    /// The command that serves the result.
    pub serve: Option<String>,
}

/// What became of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It ran.
    Made,
    /// Neither its settings nor its inputs have changed.
    Unchanged,
    /// It was not asked for.
    LeftAlone,
    /// It was not asked for, and there is no artifact.
    Missing,
}

/// A stage's part of the record.
#[derive(Clone, Debug, Serialize)]
pub struct StageRecord {
    /// The stage kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What became of it.
    pub status: Status,
    /// The artifact.
    pub path: PathBuf,
    /// The artifact's size.
    pub bytes: u64,
    /// How long it took when it ran.
    pub seconds: f64,
    /// What it told.
    pub report: Report,
}

/// A model's scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreRow {
    /// The model.
    pub model: String,
    /// Its scores by measure.
    pub scores: Map<String, Value>,
}

impl StageRecord {
    /// A stage with a finished artifact.
    pub fn new(path: &Path, manifest: &Manifest, status: Status) -> Self {
        Self {
            kind: manifest.kind.clone(),
            name: manifest.name.clone(),
            status,
            path: path.to_path_buf(),
            bytes: manifest.bytes(),
            seconds: manifest.seconds,
            report: manifest.report.clone(),
        }
    }

    /// A stage without one.
    pub fn missing(kind: &str, name: &str) -> Self {
        Self {
            kind: kind.into(),
            name: name.into(),
            status: Status::Missing,
            path: PathBuf::new(),
            bytes: 0,
            seconds: 0.0,
            report: Report::default(),
        }
    }
}

impl RunRecord {
    /// Whether no stage ran.
    pub fn nothing_done(&self) -> bool {
        self.stages.iter().all(|stage| stage.status != Status::Made)
    }

    /// Writes `run.json` beside the artifacts.
    pub fn save(&self) -> Result<()> {
        write_atomic(&self.out.join("run.json"), self.to_json()?.as_bytes())
    }

    /// The record as JSON.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context(|| "cannot write the record of the run as JSON".into())
    }

    /// The scores that all stages give, one row for each model.
    pub fn merge_scores(stages: &[StageRecord]) -> Vec<ScoreRow> {
        let mut rows: Vec<ScoreRow> = Vec::new();
        for (model, scores) in stages.iter().flat_map(|stage| &stage.report.scores) {
            let scores = scores.clone();
            match rows.iter_mut().find(|row| row.model == *model) {
                Some(row) => row.scores.extend(scores),
                None => rows.push(ScoreRow { model: model.clone(), scores }),
            }
        }
        rows
    }

    /// The command that serves the last thing that can be served.
    pub fn serve_command(stages: &[StageRecord]) -> Option<String> {
        let rank = |stage: &StageRecord| SERVABLE.iter().position(|kind| *kind == stage.kind);
        let made = stages.iter().filter(|stage| stage.status != Status::Missing);
        let best = made.filter_map(|stage| Some((rank(stage)?, stage))).max_by_key(|(rank, _)| *rank)?.1;
        Some(format!("cupola serve {}", quoted(&best.path)))
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains([' ', '\'', '"', '$', '&', '(', ')']) {
        format!("'{}'", text.replace('\'', "'\\''"))
    } else {
        text
    }
}
