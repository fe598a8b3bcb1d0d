//! The stage `pack`: from documents to token shards, rows to train on and other programs' files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Error, Result, human_bytes, human_count, parse_config};
use cupola_records::{Document, Record, Split, expand, read_records};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Arrange, Boundary, Fim, PackConfig, Shards, ShardsInfo, Width, arrange, export_llm_c, export_nanogpt, write_shards,
};
use crate::tokenizer::Tokenizer;

/// Bytes of text that one core packs in a second, with byte-level BPE of a known pattern; measured on a small x86-64 machine.
const SPEED: f64 = 4.5e7;
/// Memory for the batches under way, bytes.
const MEMORY: f64 = 1.5e8;
/// The file of rows beside shards, where there are any.
pub const ROWS_FILE: &str = "rows.bin";

/// Makes shards.
pub struct PackStage;

/// The settings of `[pack.NAME]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The documents: a data stage, or files and folders that records are read from.
    data: String,
    /// The tokenizer.
    tokenizer: String,
    /// The field of a record that holds its text, where `data` is no data stage.
    #[serde(default = "text")]
    text_field: String,
    /// Which tokens stand around a document: `begin`, `end`, `both` or `none`.
    #[serde(default = "begin")]
    boundary: Boundary,
    /// Tokens in a shard, about.
    #[serde(default = "shard_tokens")]
    shard_tokens: u64,
    /// Filling in the middle.
    #[serde(default)]
    fim: Fim,
    /// How documents share rows; none given: no rows are made.
    rows: Option<Arrange>,
    /// Copies for other programs: `nanogpt`, `llm_c`. Megatron-LM reads the shards themselves.
    #[serde(default)]
    export: Vec<Export>,
}

/// Other programs' files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Export {
    /// `train.bin` and `validation.bin`.
    Nanogpt,
    /// `llm_c/train_000000.bin`, ….
    LlmC,
}

fn text() -> String {
    "text".to_owned()
}

fn begin() -> Boundary {
    PackConfig::default().boundary
}

fn shard_tokens() -> u64 {
    PackConfig::default().shard_tokens
}

impl Stage for PackStage {
    fn kind(&self) -> &'static str {
        "pack"
    }

    fn about(&self) -> &'static str {
        "tokenizes documents into memory-mapped shards and packs them into rows"
    }

    fn uses_device(&self) -> bool {
        false
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let config: Config = parse_config(self.kind(), table)?;
        Ok(Box::new(config))
    }
}

impl Configured for Config {
    fn references(&self) -> Vec<Reference> {
        let reference = |key, value: &String| Reference { key, value: value.clone() };
        vec![reference("data", &self.data), reference("tokenizer", &self.tokenizer)]
    }

    fn effective_config(&self) -> Value {
        json!(self)
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        let bytes = inputs.fact("data", "bytes").unwrap_or(0.0);
        let vocab = inputs.fact("tokenizer", "vocab_size").unwrap_or(4096.0);
        let tokens = bytes / inputs.fact("tokenizer", "bytes_per_token").unwrap_or(4.0);
        let copies = 1.0 + self.export.len() as f64;
        let mut plan = Plan {
            memory_bytes: MEMORY,
            disk_bytes: copies * tokens * Width::of(vocab as usize).bytes() as f64,
            seconds: bytes / SPEED,
            ..Plan::default()
        };
        plan.facts.insert("tokens".to_owned(), tokens);
        plan.facts.insert("vocab_size".to_owned(), vocab);
        let train = inputs.fact("data", "train_bytes").map_or(1.0, |train| train / bytes.max(1.0));
        for (fact, all) in [("bytes", bytes), ("tokens", tokens)] {
            plan.facts.insert(format!("train_{fact}"), train * all);
        }
        plan.facts.insert("documents".to_owned(), train * inputs.fact("data", "documents").unwrap_or(0.0));
        if let Some(rows) = &self.rows {
            plan.facts.insert("row_length".to_owned(), f64::from(rows.longest()));
        }
        Ok(plan)
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let started = Instant::now();
        let tokenizer = Tokenizer::load(&context.input("tokenizer")?.path)?;
        let data = &context.input("data")?.path;
        let mut metrics = Map::new();
        let mut all = ShardsInfo::default();
        for (name, files) in sides(data)? {
            context.progress.begin(&format!("packing {name}"), None, "documents");
            let dir = context.dir.join(name);
            let documents = files.into_iter().flat_map(|file| records(&file, &self.text_field));
            let mut count = 0;
            let counted = documents.inspect(|_| {
                count += 1;
                if count % 1000 == 0 {
                    context.progress.update(count, "");
                }
            });
            let config = PackConfig { boundary: self.boundary, shard_tokens: self.shard_tokens, fim: self.fim.clone() };
            let written = write_shards(counted, &tokenizer, &config, context.seed, &dir);
            context.progress.end();
            let info = written?;
            if let Some(how) = &self.rows {
                let shards = Arc::new(Shards::open(&dir)?);
                let rows = arrange(&shards, how, &dir.join(ROWS_FILE))?;
                metrics.insert(format!("{name}_rows"), json!(rows));
            }
            self.export(&dir, name, context.dir)?;
            metrics.insert(format!("{name}_tokens"), json!(info.tokens));
            metrics.insert(format!("{name}_documents"), json!(info.documents));
            (all.tokens, all.documents) = (all.tokens + info.tokens, all.documents + info.documents);
            all.text_bytes += info.text_bytes;
            all.shards.extend(info.shards);
        }
        tokenizer.save(context.dir)?;
        metrics.insert("tokens".to_owned(), json!(all.tokens));
        metrics.insert("bytes".to_owned(), json!(all.text_bytes));
        metrics.insert("seconds".to_owned(), json!(started.elapsed().as_secs_f64()));
        let (count, bytes) = (human_count(all.tokens as f64), human_bytes(all.text_bytes as f64));
        Ok(Report {
            went_in: format!("{} documents, {bytes}", all.documents),
            came_out: format!("{count} tokens in {} shards", all.shards.len()),
            metrics,
            scores: Vec::new(),
        })
    }
}

impl Config {
    fn export(&self, dir: &Path, name: &str, to: &Path) -> Result<()> {
        if self.export.is_empty() {
            return Ok(());
        }
        let shards = Shards::open(dir)?;
        for export in &self.export {
            match export {
                Export::Nanogpt => export_nanogpt(&shards, &to.join(format!("{name}.bin")))?,
                Export::LlmC => drop(export_llm_c(&shards, &to.join("llm_c"), name)?),
            }
        }
        Ok(())
    }
}

/// The files of each side: those of a data artifact, or everything as training text.
fn sides(data: &Path) -> Result<Vec<(&'static str, Vec<PathBuf>)>> {
    let [train, validation] = [Split::Train, Split::Validation].map(|split| data.join(split.file()));
    if train.is_file() {
        let sides = [("train", train), ("validation", validation)];
        return Ok(sides
            .into_iter()
            .filter(|(_, file)| file.is_file())
            .map(|(name, file)| (name, vec![file]))
            .collect());
    }
    let pattern = data.to_string_lossy().into_owned();
    Ok(vec![("train", expand(&[pattern], Path::new("."))?)])
}

/// The documents of a file, one after another.
fn records(file: &Path, text_field: &str) -> Box<dyn Iterator<Item = Result<Document>> + Send> {
    let text_field = text_field.to_owned();
    match read_records(file) {
        Ok(records) => Box::new(records.map(move |record| document(record?, &text_field))),
        Err(error) => Box::new(std::iter::once(Err(error))),
    }
}

fn document(record: Record, text_field: &str) -> Result<Document> {
    let place = format!("{}: line {}", record.source.display(), record.line);
    let Value::Object(mut fields) = record.value else {
        return Err(Error::failed(format!("{place} is no object")));
    };
    let text = match fields.remove(text_field) {
        Some(Value::String(text)) => text,
        _ => {
            return Err(Error::failed(format!("{place} has no text in `{text_field}`"))
                .with_hint("set `text_field` to the field that holds it, or clean the data with a data stage"));
        }
    };
    let mut named = |key: &str| fields.remove(key).and_then(|value| value.as_str().map(str::to_owned));
    let id = named("id").unwrap_or_else(|| place.clone());
    let source = named("source").unwrap_or_else(|| record.source.to_string_lossy().into_owned());
    Ok(Document::new(id, text, source))
}
