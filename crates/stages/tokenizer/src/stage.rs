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
use crate::train::{SpecialTokens, TokenizerKind, TrainConfig, UnigramTokens, WordPieceTokens, train};

/// Bytes of text that one core trains a byte-level BPE on in a second, and the other kinds; measured on a small x86-64
/// machine.
const BPE_SPEED: f64 = 2e7;
const OTHER_SPEED: f64 = 1e6;

/// The share of all characters that an alphabet covers. Sentencepiece's 0.9995 would leave out the K of a novel.
const COVERAGE: f64 = 0.9999;
/// More tokens than any model has.
const LARGEST_VOCABULARY: usize = 4_000_000;

/// Makes a tokenizer.
pub struct TokenizerStage;

impl Stage for TokenizerStage {
    fn kind(&self) -> &'static str {
        "tokenizer"
    }

    fn about(&self) -> &'static str {
        "trains a tokenizer (BPE, WordPiece or Unigram) on a corpus, or takes over an existing one"
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
        let tokens = config.tokens()?;
        Ok(Box::new(Settings { config, tokens }))
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
    /// `bpe`, `wordpiece` or `unigram`.
    kind: Kind,
    /// Tokens to reach, special tokens included.
    vocab_size: usize,
    /// What is seen less often than this becomes no token of its own.
    min_frequency: u64,
    /// WordPiece: whether capital and small letters are the same, and accents are dropped. `None` for yes.
    lowercase: Option<bool>,
    /// WordPiece and Unigram: the share of all characters that the alphabet covers.
    character_coverage: Option<f64>,
    /// The texts of the special tokens. BPE: `document`, `turn_start`, `turn_end`, `pad`; WordPiece: `pad`, `unk`, `cls`,
    /// `sep`, `mask`; Unigram: `pad`, `eos`, `unk` and the number of `sentinels`; all: `more`.
    special: toml::Table,
    /// The chat template: Jinja source, or the path of a file that ends in `.jinja`. With `from`, replaces the one there.
    chat_template: Option<String>,
}

/// The kinds of tokenizers that can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Bpe,
    WordPiece,
    Unigram,
}

/// The settings with the special tokens of their kind.
struct Settings {
    config: Config,
    tokens: TokenizerKind,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: None,
            from: None,
            kind: Kind::Bpe,
            vocab_size: 4096,
            min_frequency: 2,
            lowercase: None,
            character_coverage: None,
            special: toml::Table::new(),
            chat_template: None,
        }
    }
}

impl Configured for Settings {
    fn references(&self) -> Vec<Reference> {
        let template = self.config.chat_template.as_ref().filter(|t| t.ends_with(".jinja"));
        [("data", self.config.data.as_ref()), ("from", self.config.from.as_ref()), ("chat_template", template)]
            .into_iter()
            .filter_map(|(key, value)| Some(Reference { key, value: value?.clone() }))
            .collect()
    }

    fn effective_config(&self) -> Value {
        let mut effective = json!(self.config);
        effective["special"] = match &self.tokens {
            TokenizerKind::Bpe(special) => json!(special),
            TokenizerKind::WordPiece { special, lowercase } => {
                effective["lowercase"] = json!(lowercase);
                json!(special)
            }
            TokenizerKind::Unigram(special) => json!(special),
        };
        if self.config.kind != Kind::Bpe {
            effective["character_coverage"] = json!(self.config.coverage());
        }
        effective
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        let mut plan = Plan::default();
        let vocab_size = match inputs.inputs.iter().find(|(input, _)| input.key == "from") {
            Some((input, _)) => Tokenizer::load(&input.path)?.vocab_size(),
            None => self.config.vocab_size,
        };
        plan.facts.insert("vocab_size".to_owned(), vocab_size as f64);
        let file_size = || {
            let (input, _) = inputs.inputs.iter().find(|(input, _)| input.key == "data")?;
            Some(std::fs::metadata(&input.path).ok().filter(|m| m.is_file())?.len() as f64)
        };
        let bytes = inputs.fact("data", "bytes").or_else(file_size).unwrap_or(0.0);
        let bpe = self.config.kind == Kind::Bpe;
        // About 60 bytes for a token and its merge in tokenizer.json. BPE keeps the text and its different words; the others
        // take 40 times the text for words and positions.
        plan.disk_bytes = 60.0 * vocab_size as f64;
        plan.memory_bytes = if bpe { 2e8 + 3.0 * bytes } else { 40.0 * bytes };
        plan.seconds = bytes / if bpe { BPE_SPEED } else { OTHER_SPEED };
        Ok(plan)
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let started = Instant::now();
        let template = self.config.template(context)?;
        let train_set = match &self.config.data {
            Some(_) => read_documents(&context.input("data")?.path, Split::Train)?,
            None => Vec::new(),
        };
        let tokenizer = match &self.config.from {
            Some(_) => Tokenizer::load(&context.input("from")?.path)?.with_chat_template(template)?,
            None => self.train(&train_set, template, context)?,
        };
        tokenizer.save(context.dir)?;
        let held_out = match &self.config.data {
            Some(_) => held_out(&context.input("data")?.path, train_set, context)?,
            None => Documents { set: Vec::new(), train_bytes: 0, train_count: 0 },
        };
        let mut metrics = self.config.measure(&tokenizer, &held_out)?;
        // The time stays out of the file, so that the same corpus gives the same artifact.
        write_json(&context.dir.join("report.json"), &report_file(&tokenizer, &metrics))?;
        metrics.insert("seconds".to_owned(), json!(started.elapsed().as_secs_f64()));
        let ratio = metrics.get("bytes_per_token").and_then(Value::as_f64);
        Ok(Report {
            went_in: match &self.config.from {
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

impl Settings {
    fn train(&self, documents: &[Document], template: Option<String>, context: &StageContext<'_>) -> Result<Tokenizer> {
        let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).filter(|t| !t.is_empty()).collect();
        if texts.is_empty() {
            let data = self.config.data.as_deref().unwrap_or_default();
            return Err(Error::failed(format!("cannot train a tokenizer: `{data}` holds no text"))
                .with_hint("check the report of the data stage: all documents may have been dropped"));
        }
        let bytes = total_bytes(documents);
        context.progress.begin("training the tokenizer", Some(bytes), "bytes");
        let config = TrainConfig {
            kind: self.tokens.clone(),
            vocab_size: self.config.vocab_size,
            min_frequency: self.config.min_frequency,
            character_coverage: self.config.coverage(),
            chat_template: template,
        };
        let trained = train(&texts, &config);
        context.progress.update(bytes, "");
        context.progress.end();
        let tokenizer = trained?;
        let reached = tokenizer.vocab_size();
        let (asked, least) = (self.config.vocab_size, self.config.min_frequency);
        if reached < asked {
            let cause = match self.config.kind {
                Kind::Bpe | Kind::WordPiece => format!("no other pair occurs {least} times"),
                Kind::Unigram => format!("no other part of a word is worth a token, or occurs {} times", least.max(2)),
            };
            context.progress.warn(&format!(
                "the vocabulary has {reached} tokens instead of {asked}: {cause} in {bytes} bytes of text"
            ));
        }
        Ok(tokenizer)
    }
}

impl Config {
    /// The kind with its special tokens; refuses settings that the kind does not have.
    fn tokens(&self) -> Result<TokenizerKind> {
        let name = match self.kind {
            Kind::Bpe => "bpe",
            Kind::WordPiece => "wordpiece",
            Kind::Unigram => "unigram",
        };
        let foreign = |key: &str, of: &str| {
            Error::usage(format!("`{key}` has no meaning for kind = \"{name}\"")).with_hint(format!("it is for {of}"))
        };
        if self.lowercase.is_some() && self.kind != Kind::WordPiece {
            return Err(foreign("lowercase", "kind = \"wordpiece\""));
        }
        match self.character_coverage {
            Some(_) if self.kind == Kind::Bpe => {
                return Err(foreign("character_coverage", "wordpiece and unigram: bytes cover all characters"));
            }
            Some(share) if !(share > 0.0 && share <= 1.0) => {
                return Err(Error::usage(format!("character_coverage = {share} is no share"))
                    .with_hint("it must be above 0 and at most 1, such as 0.9995"));
            }
            _ => {}
        }
        if self.vocab_size > LARGEST_VOCABULARY {
            return Err(Error::usage(format!("vocab_size = {} is too large", self.vocab_size))
                .with_hint(format!("at most {LARGEST_VOCABULARY} tokens can be trained")));
        }
        let section = "tokenizer special";
        Ok(match self.kind {
            Kind::Bpe => {
                let special: SpecialTokens = parse_config(section, self.special.clone())?;
                special.check()?;
                TokenizerKind::Bpe(special)
            }
            Kind::WordPiece => {
                let special: WordPieceTokens = parse_config(section, self.special.clone())?;
                special.check()?;
                TokenizerKind::WordPiece { special, lowercase: self.lowercase.unwrap_or(true) }
            }
            Kind::Unigram => {
                let special: UnigramTokens = parse_config(section, self.special.clone())?;
                special.check()?;
                TokenizerKind::Unigram(special)
            }
        })
    }

    fn coverage(&self) -> f64 {
        self.character_coverage.unwrap_or(COVERAGE)
    }

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
    for (role, id) in [("cls", tokenizer.cls()), ("sep", tokenizer.sep()), ("mask", tokenizer.mask())] {
        if id.is_some() {
            report.insert(role.to_owned(), json!(token(id)));
        }
    }
    if !tokenizer.sentinels().is_empty() {
        report.insert("sentinels".to_owned(), json!(tokenizer.sentinels().len()));
    }
    let stop: Vec<_> = tokenizer.stop_ids().iter().map(|&id| token(Some(id))).collect();
    report.insert("stop".to_owned(), json!(stop));
    Value::Object(report)
}
