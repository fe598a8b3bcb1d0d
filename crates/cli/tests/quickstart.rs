//! The shipped quickstart at a smaller size, from raw text to a served model with a real client.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What makes the recipe small enough for a test.
const SMALLER: &[&str] = &[
    "tokenizer.bpe.vocab_size=512",
    "pretrain.base.depth=2",
    "pretrain.base.seq_len=128",
    "pretrain.base.tokens=60000",
    "pretrain.base.evaluations=1",
    "tune.chat.epochs=1",
    "compress.int8.speed_tokens=8",
    "eval.report.limit=8",
    "eval.report.max_gen_tokens=8",
];

fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart/recipe.toml")
}

fn cupola(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cupola")).args(args).output().unwrap()
}

fn run(out: &Path, more: &[&str]) -> String {
    let recipe = recipe();
    let mut args = vec!["run", recipe.to_str().unwrap(), "--out", out.to_str().unwrap()];
    for setting in SMALLER {
        args.extend(["--set", setting]);
    }
    args.extend(more);
    let output = cupola(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

fn manifest(out: &Path, stage: &str) -> Value {
    serde_json::from_slice(&fs::read(out.join(stage).join("manifest.json")).unwrap()).unwrap()
}

struct Server(Child, String);

impl Server {
    fn start(model: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cupola"))
            .args(["serve", model.to_str().unwrap(), "--port", "0"])
            .stderr(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let api = lines.map_while(Result::ok).find_map(|l| l.strip_prefix("API").map(|url| url.trim().to_owned()));
        Self(child, api.expect("the server says where it is"))
    }

    fn post(&self, route: &str, body: &Value) -> String {
        let mut answer = ureq::post(format!("{}{route}", self.1)).send_json(body).unwrap();
        answer.body_mut().read_to_string().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_quickstart_goes_from_raw_text_to_a_served_model() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("run");
    let text = run(&out, &[]);
    for stage in [
        "data.corpus",
        "tokenizer.bpe",
        "pretrain.base",
        "tune.chat",
        "align.dpo",
        "compress.int8",
        "eval.report",
        "serve.api",
    ] {
        assert!(text.contains(stage), "{stage} is not in the table:\n{text}");
    }
    assert!(text.contains("cupola serve"), "{text}");

    let loss = |stage: &str, key: &str| manifest(&out, stage)["report"]["metrics"][key].as_f64().unwrap();
    assert!(loss("pretrain.base", "bits_per_byte") < 4.5, "pretraining learned nothing");
    assert!(
        loss("tune.chat", "validation_loss") < loss("tune.chat", "validation_loss_before"),
        "tuning learned nothing"
    );
    assert!(loss("compress.int8", "ratio") < 0.7, "compression did not make the model smaller");
    let scores = &manifest(&out, "eval.report")["report"]["scores"];
    assert_eq!(scores.as_array().unwrap().len(), 4, "four models are compared: {scores}");

    let clock = Instant::now();
    let again = run(&out, &[]);
    assert!(again.contains("nothing to do"), "{again}");
    assert!(clock.elapsed() < Duration::from_secs(1), "doing nothing took {:?}", clock.elapsed());

    let verified = cupola(&["verify", out.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    served(&out.join("serve.api"));
    only_dependents_rerun(&out);
    flipped_byte_is_named(&out);
}

fn served(model: &Path) {
    let server = Server::start(model);
    let body = json!({
        "messages": [{"role": "user", "content": "What is the capital of Brazil?"}],
        "max_tokens": 8, "temperature": 0.7, "seed": 3,
    });
    let answer: Value = serde_json::from_str(&server.post("/chat/completions", &body)).unwrap();
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() >= 1);
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let events = server.post("/chat/completions", &streamed);
    let text: String = events
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l.strip_prefix("data: ")?).ok())
        .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect();
    assert_eq!(text, answer["choices"][0]["message"]["content"], "streamed and whole answers differ");
    assert!(events.trim_end().ends_with("data: [DONE]"));
}

fn only_dependents_rerun(out: &Path) {
    let finished = |stage: &str| manifest(out, stage)["finished"].clone();
    let stages =
        ["data.corpus", "tokenizer.bpe", "pretrain.base", "tune.chat", "align.dpo", "compress.int8", "serve.api"];
    let before = stages.map(finished);
    std::thread::sleep(Duration::from_millis(1100));
    run(out, &["--set", "align.dpo.beta=0.3"]);
    let changed: Vec<&str> = stages
        .into_iter()
        .zip(&before)
        .filter(|(stage, was)| finished(stage) != **was)
        .map(|(stage, _)| stage)
        .collect();
    assert_eq!(changed, ["align.dpo", "compress.int8", "serve.api"]);
}

fn flipped_byte_is_named(out: &Path) {
    let weights = out.join("pretrain.base/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let verified = cupola(&["verify", out.join("serve.api").to_str().unwrap()]);
    let text = String::from_utf8_lossy(&verified.stdout).into_owned() + &String::from_utf8_lossy(&verified.stderr);
    assert_eq!(verified.status.code(), Some(1), "{text}");
    assert!(text.contains("pretrain.base") && text.contains("model.safetensors"), "{text}");
}
