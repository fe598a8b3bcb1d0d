//! The stage `tokenizer`: trains a tokenizer on a corpus, or takes over somebody else's.

use std::path::Path;
use std::time::Instant;

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Context, Error, Result, human_bytes, parse_config};
use cupola_records::{Document, Split, read_documents, total_bytes};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::files::write_json;
use crate::tokenizer::Tokenizer;
use crate::train::{SpecialTokens, TrainConfig, train};

/// Bytes of text that one core trains on in a second; measured on a small x86-64 machine.
const TRAINING_SPEED: f64 = 2e6;

/// Makes a tokenizer.
pub struct TokenizerStage;

impl Stage for TokenizerStage {
    fn kind(&self) -> &'static str {
        "tokenizer"
    }

    fn about(&self) -> &'static str {
        "trains a byte-level BPE tokenizer on a corpus, or takes over an existing one"
    }

    fn uses_device(&self) -> bool {
        false
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let config: Config = parse_config(self.kind(), table)?;
        if config.data.is_none() && config.from.is_none() {
            return Err(Error::usage("a tokenizer needs `data` to be trained on, or `from`")
                .with_hint("add `data = \"corpus\"` with the name of a data stage or the path of a text file"));
        }
        config.special.check()?;
        Ok(Box::new(config))
    }
}

/// The settings of `[tokenizer.NAME]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The text to train on: a data stage, or a text file. With `from`, only what the report measures on.
    data: Option<String>,
    /// An existing tokenizer to take over instead: a folder with tokenizer.json, or that file.
    from: Option<String>,
    /// Tokens to reach, the 256 bytes and the special tokens included.
    vocab_size: usize,
    /// A pair of tokens seen less often than this is not merged.
    min_frequency: u64,
    /// The texts of the special tokens: `document`, `turn_start`, `turn_end`, `pad`, `more`.
    special: SpecialTokens,
    /// The chat template: Jinja source, or the path of a file that ends in `.jinja`. With `from`, replaces the one there.
    chat_template: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: None,
            from: None,
            vocab_size: 4096,
            min_frequency: 2,
            special: SpecialTokens::default(),
            chat_template: None,
        }
    }
}

impl Configured for Config {
    fn references(&self) -> Vec<Reference> {
        let template = self.chat_template.as_ref().filter(|t| t.ends_with(".jinja"));
        [("data", self.data.as_ref()), ("from", self.from.as_ref()), ("chat_template", template)]
            .into_iter()
            .filter_map(|(key, value)| Some(Reference { key, value: value?.clone() }))
            .collect()
    }

    fn effective_config(&self) -> Value {
        json!(self)
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        let mut plan = Plan::default();
        let vocab_size = match inputs.inputs.iter().find(|(input, _)| input.key == "from") {
            Some((input, _)) => Tokenizer::load(&input.path)?.vocab_size(),
            None => self.vocab_size,
        };
        plan.facts.insert("vocab_size".to_owned(), vocab_size as f64);
        let file_size = || {
            let (input, _) = inputs.inputs.iter().find(|(input, _)| input.key == "data")?;
            Some(std::fs::metadata(&input.path).ok().filter(|m| m.is_file())?.len() as f64)
        };
        let bytes = inputs.fact("data", "bytes").or_else(file_size).unwrap_or(0.0);
        // About 60 bytes for a token and its merge in tokenizer.json; 40 times the text for its words and positions.
        plan.disk_bytes = 60.0 * vocab_size as f64;
        plan.memory_bytes = 40.0 * bytes;
        plan.seconds = bytes / TRAINING_SPEED;
        Ok(plan)
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let started = Instant::now();
        let template = self.template(context)?;
        let train_set = match &self.data {
            Some(_) => read_documents(&context.input("data")?.path, Split::Train)?,
            None => Vec::new(),
        };
        let tokenizer = match &self.from {
            Some(_) => Tokenizer::load(&context.input("from")?.path)?.with_chat_template(template)?,
            None => self.train(&train_set, template, context)?,
        };
        tokenizer.save(context.dir)?;
        let held_out = match &self.data {
            Some(_) => held_out(&context.input("data")?.path, train_set, context)?,
            None => Documents { set: Vec::new(), train_bytes: 0, train_count: 0 },
        };
        let mut metrics = self.measure(&tokenizer, &held_out)?;
        // The time stays out of the file, so that the same corpus gives the same artifact.
        write_json(&context.dir.join("report.json"), &report_file(&tokenizer, &metrics))?;
        metrics.insert("seconds".to_owned(), json!(started.elapsed().as_secs_f64()));
        let ratio = metrics.get("bytes_per_token").and_then(Value::as_f64);
        Ok(Report {
            went_in: match &self.from {
                Some(from) => from.clone(),
                None => format!(
                    "{} document{}, {}",
                    held_out.train_count,
                    if held_out.train_count == 1 { "" } else { "s" },
                    human_bytes(held_out.train_bytes as f64)
                ),
            },
            came_out: match ratio {
                Some(ratio) => format!("{} tokens, {ratio:.2} bytes per token", tokenizer.vocab_size()),
                None => format!("{} tokens", tokenizer.vocab_size()),
            },
            metrics,
            scores: Vec::new(),
        })
    }
}

/// The part to measure on, and the size of the part that was trained on.
struct Documents {
    set: Vec<Document>,
    train_bytes: u64,
    train_count: usize,
}

/// The validation part; where there is none, the training part and a warning.
fn held_out(path: &Path, train_set: Vec<Document>, context: &StageContext<'_>) -> Result<Documents> {
    let (train_bytes, train_count) = (total_bytes(&train_set), train_set.len());
    let validation = read_documents(path, Split::Validation)?;
    let set = if total_bytes(&validation) == 0 {
        context.progress.warn("there is no validation text: bytes per token is measured on the training text");
        train_set
    } else {
        validation
    };
    Ok(Documents { set, train_bytes, train_count })
}

impl Config {
    /// The chat template's source, if the recipe gives one.
    fn template(&self, context: &StageContext<'_>) -> Result<Option<String>> {
        match &self.chat_template {
            Some(file) if file.ends_with(".jinja") => {
                let path = &context.input("chat_template")?.path;
                Ok(Some(std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?))
            }
            source => Ok(source.clone()),
        }
    }

    fn train(&self, documents: &[Document], template: Option<String>, context: &StageContext<'_>) -> Result<Tokenizer> {
        let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).filter(|t| !t.is_empty()).collect();
        if texts.is_empty() {
            let data = self.data.as_deref().unwrap_or_default();
            return Err(Error::failed(format!("cannot train a tokenizer: `{data}` holds no text"))
                .with_hint("check the report of the data stage: all documents may have been dropped"));
        }
        let bytes = total_bytes(documents);
        context.progress.begin("training the tokenizer", Some(bytes), "bytes");
        let config = TrainConfig {
            vocab_size: self.vocab_size,
            min_frequency: self.min_frequency,
            special: self.special.clone(),
            chat_template: template,
        };
        let trained = train(&texts, &config);
        context.progress.update(bytes, "");
        context.progress.end();
        let tokenizer = trained?;
        let reached = tokenizer.vocab_size();
        if reached < self.vocab_size {
            context.progress.warn(&format!(
                "the vocabulary has {reached} tokens instead of {}: no other pair occurs {} times in {bytes} bytes of text",
                self.vocab_size, self.min_frequency
            ));
        }
        Ok(tokenizer)
    }

    fn measure(&self, tokenizer: &Tokenizer, documents: &Documents) -> Result<Map<String, Value>> {
        let mut metrics = Map::new();
        metrics.insert("vocab_size".to_owned(), json!(tokenizer.vocab_size()));
        if self.from.is_none() {
            metrics.insert("vocab_size_asked".to_owned(), json!(self.vocab_size));
        }
        let texts: Vec<&str> = documents.set.iter().map(|d| d.text.as_str()).collect();
        if texts.iter().any(|t| !t.is_empty()) {
            metrics.insert("bytes_per_token".to_owned(), json!(tokenizer.bytes_per_token(&texts)?));
            metrics.insert("bytes".to_owned(), json!(documents.train_bytes));
            metrics.insert("documents".to_owned(), json!(documents.train_count));
            metrics.insert("measured_bytes".to_owned(), json!(total_bytes(&documents.set)));
        }
        Ok(metrics)
    }
}

/// The content of `report.json`: the measures and the special tokens.
fn report_file(tokenizer: &Tokenizer, metrics: &Map<String, Value>) -> Value {
    let mut report = metrics.clone();
    let token = |id: Option<u32>| id.map(|id| json!({ "id": id, "token": tokenizer.id_to_token(id) }));
    report.insert("bos".to_owned(), json!(token(tokenizer.bos())));
    report.insert("eos".to_owned(), json!(token(tokenizer.eos())));
    report.insert("pad".to_owned(), json!(token(tokenizer.pad())));
    let stop: Vec<_> = tokenizer.stop_ids().iter().map(|&id| token(Some(id))).collect();
    report.insert("stop".to_owned(), json!(stop));
    Value::Object(report)
}
