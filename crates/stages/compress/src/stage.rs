//! The stage `compress`.

use std::path::Path;

use cupola_arch::Model;
use cupola_artifact::stage::{Configured, Input, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Context, Error, Result, human_bytes, parse_config, unknown_name, write_atomic};
use cupola_generate::{TextScore, load_model, load_to_change, score_texts};
use cupola_records::{Split, read_documents};
use cupola_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::measure::{decode_speeds, weight_bytes, weight_error};
use crate::method::Method;

/// The files that make a tokenizer and go along unchanged.
const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"];

/// Makes a model smaller.
pub struct CompressStage;

/// The settings that every method shares.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The model: a stage or a model directory.
    model: String,
    /// How to compress it.
    #[serde(default = "default_method")]
    method: String,
    /// Held-out text to measure perplexity on before and after: a data stage, of which the validation split is taken,
    /// or a file, of which the last tenth is.
    #[serde(default)]
    text: Option<String>,
    /// Tokens to generate for measuring the speed.
    #[serde(default = "default_speed_tokens")]
    speed_tokens: usize,
}

fn default_method() -> String {
    "int8".into()
}

fn default_speed_tokens() -> usize {
    64
}

const SHARED: [&str; 4] = ["model", "method", "text", "speed_tokens"];

struct Compression {
    settings: Settings,
    method: Box<dyn Method>,
}

impl Stage for CompressStage {
    fn kind(&self) -> &'static str {
        "compress"
    }

    fn about(&self) -> &'static str {
        "makes a model smaller and measures what that costs and gains"
    }

    fn configure(&self, mut table: toml::Table) -> Result<Box<dyn Configured>> {
        let mut shared = toml::Table::new();
        for key in SHARED {
            shared.extend(table.remove(key).map(|value| (key.to_owned(), value)));
        }
        // A misspelt `model` should be named before the missing one.
        let chosen = shared.get("method").and_then(toml::Value::as_str).unwrap_or("int8").to_owned();
        let known: Vec<&str> = crate::ALL.iter().map(|kind| kind.name()).collect();
        let kind = crate::ALL.iter().find(|kind| kind.name() == chosen).ok_or_else(|| {
            unknown_name(&format!("`method` in [compress] cannot be `{chosen}`"), &chosen, "method", &known)
        })?;
        let defaults = kind.configure(self.kind(), toml::Table::new())?.settings();
        let own = defaults.as_object().into_iter().flat_map(|settings| settings.keys().map(String::as_str));
        let keys: Vec<&str> = SHARED.into_iter().chain(own).collect();
        if let Some(key) = table.keys().find(|key| !keys.contains(&key.as_str())) {
            return Err(unknown_name(&format!("unknown key `{key}` in [compress]"), key, "key", &keys));
        }
        let settings: Settings = parse_config(self.kind(), shared)?;
        if settings.speed_tokens < 2 {
            return Err(Error::usage("`speed_tokens` in [compress] must be at least 2"));
        }
        Ok(Box::new(Compression { settings, method: kind.configure(self.kind(), table)? }))
    }
}

impl Configured for Compression {
    fn references(&self) -> Vec<Reference> {
        let model = Reference { key: "model", value: self.settings.model.clone() };
        let text = self.settings.text.iter().map(|text| Reference { key: "text", value: text.clone() });
        std::iter::once(model).chain(text).collect()
    }

    fn effective_config(&self) -> Value {
        let mut config = json!(self.settings);
        if let (Some(config), Value::Object(own)) = (config.as_object_mut(), self.method.settings()) {
            config.extend(own);
        }
        config
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        let model = inputs.inputs.iter().find(|(input, _)| input.key == "model").and_then(|(_, plan)| *plan);
        let facts = model.map(|plan| plan.facts.clone()).unwrap_or_default();
        let parameters = facts.get("parameters").copied().unwrap_or(0.0);
        let text_tokens = match &self.settings.text {
            // About four bytes to a token, and a tenth of the text is held out.
            Some(_) => inputs.fact("text", "bytes").unwrap_or(1e6) * 0.1 / 4.0,
            None => 0.0,
        };
        let flops = 2.0 * 2.0 * parameters * text_tokens;
        let generated = 6.0 * self.settings.speed_tokens as f64;
        Ok(Plan {
            facts,
            flops,
            // Both models, and a copy of each one's weights for the comparison.
            memory_bytes: 2.0 * parameters * (4.0 + self.method.bytes_per_parameter()),
            disk_bytes: parameters * self.method.bytes_per_parameter(),
            // Scoring reaches about 0.4 of the peak; generation is bound by memory, here taken as 10 GB/s.
            seconds: flops / (0.4 * inputs.peak_flops.max(1.0)) + generated * parameters * 4.0 / 1e10 + 1.0,
            notes: vec![self.method.describe()],
        })
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let input = context.input("model")?;
        let device = cupola_ops::open(context.device)?;
        let (mut original, tokenizer) = load_to_change(&input.path, &device)?;
        original.merge_adapter()?;
        let mut compressed = original.clone();
        self.method.apply(&mut compressed)?;
        compressed.save(context.dir)?;
        copy_tokenizer(&input.path, &tokenizer, context.dir)?;
        drop(compressed);
        // What is measured is what was written.
        let (compressed, _) = load_model(context.dir, &device)?;
        let measured = self.measure(context, input, [&original, &compressed], &tokenizer)?;
        let json = serde_json::to_string_pretty(&measured).context(|| "cannot write report.json".into())?;
        write_atomic(&context.dir.join("report.json"), format!("{json}\n").as_bytes())?;
        let number = |key: &str| measured.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let (size, ratio) = (human_bytes(number("size_bytes")), 100.0 * number("ratio"));
        Ok(Report {
            went_in: format!("model {}, {}", input.reference, human_bytes(number("original_size_bytes"))),
            came_out: format!("{}, {size} ({ratio:.0}%)", self.method.describe()),
            metrics: measured.into_iter().filter(|(_, value)| value.is_number()).collect(),
            scores: Vec::new(),
        })
    }
}

impl Compression {
    /// Size, perplexity, speed and the largest error, the compressed model's beside the original's.
    fn measure(
        &self,
        context: &StageContext<'_>,
        input: &Input,
        models: [&Model; 2],
        tokenizer: &Tokenizer,
    ) -> Result<Map<String, Value>> {
        let [original, compressed] = models;
        let (before, after) = (weight_bytes(&input.path)?, weight_bytes(context.dir)?);
        let error = weight_error(original, compressed, &*self.method)?;
        let mut out = Map::from_iter([
            ("method".to_owned(), json!(self.method.describe())),
            ("size_bytes".to_owned(), json!(after)),
            ("original_size_bytes".to_owned(), json!(before)),
            ("ratio".to_owned(), json!(after as f64 / before.max(1) as f64)),
            ("largest_weight_error".to_owned(), json!(error.largest)),
            ("largest_weight_error_relative".to_owned(), json!(error.relative)),
            ("largest_weight_error_in".to_owned(), json!(error.tensor)),
        ]);
        if self.settings.text.is_some() {
            let documents = read_documents(&context.input("text")?.path, Split::Validation)?;
            let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
            for (prefix, model) in [("", compressed), ("original_", original)] {
                let score = perplexity(context, model, tokenizer, &texts)?;
                out.insert(format!("{prefix}bits_per_byte"), json!(score.bits_per_byte()));
                out.insert(format!("{prefix}perplexity"), json!(score.perplexity()));
            }
        }
        context.progress.line("measuring the speed of both models");
        let [slow, fast] = decode_speeds([original, compressed], tokenizer, self.settings.speed_tokens)?;
        out.insert("tokens_per_second".to_owned(), json!(fast));
        out.insert("original_tokens_per_second".to_owned(), json!(slow));
        Ok(out)
    }
}

fn perplexity(context: &StageContext<'_>, model: &Model, tokenizer: &Tokenizer, texts: &[&str]) -> Result<TextScore> {
    context.progress.begin("perplexity", None, "tokens");
    let mut progress = |done: u64, total: u64| context.progress.update(done, &format!("of {total}"));
    let score = score_texts(model.decoder()?, tokenizer, texts, &mut progress);
    context.progress.end();
    score
}

/// Copies the tokenizer's files byte for byte; one that has no `tokenizer.json` is written anew.
fn copy_tokenizer(from: &Path, tokenizer: &Tokenizer, to: &Path) -> Result<()> {
    if !from.join("tokenizer.json").is_file() {
        return tokenizer.save(to);
    }
    for name in TOKENIZER_FILES {
        let file = from.join(name);
        if file.is_file() {
            std::fs::copy(&file, to.join(name)).context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
