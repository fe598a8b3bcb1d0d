//! The `serve` stage: starts the real server, asks it something over HTTP, and writes down how to serve the model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Context, Error, Result, parse_config, write_atomic};
use cupola_generate::{Engine, Reader, Reads, is_encoder};
use serde_json::{Map, Value, json};

use crate::backend::Backend;
use crate::client::{self, Trial};
use crate::config::{API_KEY_VARIABLE, ServeConfig};
use crate::reading::reading_router;
use crate::resolve::{SERVE_FILE, ServeFile, find_model};
use crate::routes::router;
use crate::server::Server;

/// The kind `serve`.
pub struct ServeStage;

struct Configuration {
    model: String,
    settings: ServeConfig,
}

impl Stage for ServeStage {
    fn kind(&self) -> &'static str {
        "serve"
    }

    fn about(&self) -> &'static str {
        "tries the server out on a model and records how to serve it"
    }

    fn configure(&self, mut table: toml::Table) -> Result<Box<dyn Configured>> {
        if table.contains_key("api_key") {
            return Err(Error::usage(
                "`api_key` does not belong in a recipe: recipes and artifacts are read by others",
            )
            .with_hint(format!("set the environment variable {API_KEY_VARIABLE} where you run `cupola serve`")));
        }
        let model = match table.remove("model") {
            Some(toml::Value::String(model)) => model,
            Some(other) => {
                return Err(Error::usage(format!("`model` in [serve] must be a string, but is {}", other.type_str())));
            }
            None => {
                return Err(Error::usage("`model` is missing in [serve]")
                    .with_hint("name the stage whose model to serve: model = \"int8\""));
            }
        };
        let settings: ServeConfig = parse_config("serve", table)?;
        settings.validate()?;
        Ok(Box::new(Configuration { model, settings }))
    }
}

impl Configured for Configuration {
    fn references(&self) -> Vec<Reference> {
        vec![Reference { key: "model", value: self.model.clone() }]
    }

    fn effective_config(&self) -> Value {
        let mut config = Map::from_iter([("model".to_owned(), json!(self.model))]);
        if let Ok(Value::Object(settings)) = serde_json::to_value(&self.settings) {
            config.extend(settings);
        }
        Value::Object(config)
    }

    fn plan(&self, inputs: &PlanInputs) -> Result<Plan> {
        let facts = inputs.inputs.first().and_then(|(_, plan)| Some(plan.as_ref()?.facts.clone())).unwrap_or_default();
        let parameters = facts.get("parameters").copied().unwrap_or(0.0);
        // A trial prompt and answer of about 64 tokens, 2 FLOPs for each parameter and token.
        let flops = 2.0 * parameters * 64.0;
        Ok(Plan {
            facts,
            flops,
            memory_bytes: 4.0 * parameters,
            disk_bytes: 1024.0,
            // A single sequence is bound by memory, far from the peak; and the server has to start.
            seconds: 1.0 + 20.0 * flops / inputs.peak_flops.max(1.0),
            notes: Vec::new(),
        })
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let input = context.input("model")?;
        let model_dir = find_model(&input.path)?;
        let name = self.settings.model_name.clone().unwrap_or_else(|| input.reference.clone());
        let (said, metrics) = match is_encoder(&model_dir)? {
            true => read_trial(Reader::load(&model_dir, context.device)?, &self.settings, &name)?,
            false => {
                let engine = Engine::load(&model_dir, context.device, &self.settings.engine)?;
                written_trial(&try_out(Arc::new(engine), &self.settings, &name)?)
            }
        };
        context.progress.line(&format!("the server answered: {said}"));
        let settings = ServeConfig { model_name: Some(name.clone()), ..self.settings.clone() };
        let model = relative_model(&input.path, &model_dir, input.kind.is_some());
        let file = serde_json::to_vec_pretty(&ServeFile { model, settings }).context(|| SERVE_FILE.into())?;
        write_atomic(&context.dir.join(SERVE_FILE), &file)?;
        Ok(Report {
            went_in: format!("model {}", input.reference),
            came_out: format!("answers on /v1 as `{name}`"),
            metrics,
            scores: Vec::new(),
        })
    }
}

/// What a trial of a model that writes brought, in words and as metrics.
fn written_trial(trial: &Trial) -> (String, Map<String, Value>) {
    let speed = trial.tokens_per_second();
    let said = format!("first token after {:.0} ms, then {speed:.1} tokens/s", trial.first_token_seconds * 1e3);
    let metrics = Map::from_iter([
        ("first_token_seconds".to_owned(), json!(trial.first_token_seconds)),
        ("tokens_per_second".to_owned(), json!(speed)),
        ("prompt_tokens".to_owned(), json!(trial.prompt_tokens)),
        ("completion_tokens".to_owned(), json!(trial.completion_tokens)),
    ]);
    (said, metrics)
}

/// Serves an encoder on a free port of this machine, and asks it for a text's vector and for what it is made for.
fn read_trial(reader: Reader, settings: &ServeConfig, name: &str) -> Result<(String, Map<String, Value>)> {
    let settings = ServeConfig { host: "127.0.0.1".into(), port: 0, api_key: None, ..settings.clone() };
    let (reads, mask) = (reader.reads(), reader.mask());
    let server = Server::bind(&settings)?;
    let handle = server.spawn(reading_router(reader, &settings, name))?;
    let trial = || -> Result<_> {
        let (vector, seconds) = client::ask(handle.address(), "/v1/embeddings", &json!({"input": "Hello"}))?;
        let width = vector["data"][0]["embedding"].as_array().map_or(0, Vec::len);
        // A tokenizer without a mask has a model that fills none.
        let text = match (reads, mask) {
            (Reads::Masks, Some(mask)) => Some(mask),
            (Reads::Labels, _) => Some("Hello"),
            _ => None,
        };
        let answers = text.map(|text| client::ask(handle.address(), "/", &json!({"inputs": text}))).transpose()?;
        Ok((seconds, width, answers))
    };
    let found = trial();
    handle.stop()?;
    let (seconds, width, answers) = found?;
    let mut said = format!("a vector of {width} numbers after {:.0} ms", seconds * 1e3);
    let mut metrics =
        Map::from_iter([("vector_seconds".to_owned(), json!(seconds)), ("vector_width".to_owned(), json!(width))]);
    if let Some((_, seconds)) = answers {
        let what = if reads == Reads::Masks { "words for a mask" } else { "labels" };
        said += &format!(", {what} after {:.0} ms", seconds * 1e3);
        metrics.insert("task_seconds".to_owned(), json!(seconds));
    }
    Ok((said, metrics))
}

/// Where the model will be, seen from the finished artifact: artifacts of one run lie side by side.
fn relative_model(input: &Path, model_dir: &Path, is_artifact: bool) -> PathBuf {
    let below = model_dir.strip_prefix(input).unwrap_or(Path::new(""));
    match input.file_name() {
        Some(name) if is_artifact => Path::new("..").join(name).join(below),
        _ => std::path::absolute(model_dir).unwrap_or_else(|_| model_dir.to_path_buf()),
    }
}

/// Serves the model on a free port of this machine and sends one streamed request.
pub fn try_out(backend: Arc<dyn Backend>, settings: &ServeConfig, name: &str) -> Result<Trial> {
    let settings = ServeConfig { host: "127.0.0.1".into(), port: 0, api_key: None, ..settings.clone() };
    let chats = backend.tokenizer().chat_template().is_some();
    let max_tokens = 32.min(backend.max_seq_len() / 2).max(1);
    let server = Server::bind(&settings)?;
    let handle = server.spawn(router(backend, &settings, name))?;
    let trial = if chats {
        let messages = json!([{"role": "user", "content": "Hello"}]);
        let body = json!({"messages": messages, "max_tokens": max_tokens, "seed": 0});
        client::stream(handle.address(), "/v1/chat/completions", body)
    } else {
        let body = json!({"prompt": "Hello", "max_tokens": max_tokens, "seed": 0});
        client::stream(handle.address(), "/v1/completions", body)
    };
    handle.stop()?;
    trial
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn configure(text: &str) -> Result<Box<dyn Configured>> {
        ServeStage.configure(text.parse().unwrap())
    }

    #[test]
    fn settings_are_read_and_shown_with_their_defaults() {
        let stage = configure("model = \"int8\"\nport = 9000\nsampling.temperature = 0.7").unwrap();
        assert_eq!(stage.references(), [Reference { key: "model", value: "int8".into() }]);
        let config = stage.effective_config();
        assert_eq!((config["model"].as_str(), config["port"].as_u64()), (Some("int8"), Some(9000)));
        assert_eq!(config["host"], "127.0.0.1");
        assert!(config.get("api_key").is_none());
    }

    #[test]
    fn wrong_settings_are_usage_errors() {
        for (text, word) in [
            ("port = 1", "`model` is missing"),
            ("model = 1", "must be a string"),
            ("model = \"a\"\nprot = 1", "prot"),
            ("model = \"a\"\nport = \"x\"", "port"),
            ("model = \"a\"\napi_key = \"x\"", "does not belong in a recipe"),
            ("model = \"a\"\nsampling.temperature = 3.0", "sampling.temperature"),
        ] {
            let error = configure(text).err().unwrap();
            assert_eq!(error.class(), cupola_artifact::Class::Usage);
            assert!(error.chain().contains(word), "{}", error.chain());
        }
    }

    #[test]
    fn an_artifact_of_the_run_is_named_relative_and_a_path_absolute() {
        let input = Path::new("/runs/a/compress.int8");
        assert_eq!(relative_model(input, &input.join("model"), true), Path::new("../compress.int8/model"));
        assert_eq!(relative_model(input, input, false), input);
    }
}
