//! The memory that `cupola plan` predicts is what pretraining takes.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The quickstart's model, with a few steps.
const SHORT: &[&str] = &["tokenizer.bpe.vocab_size=512", "pretrain.base.tokens=12288", "pretrain.base.evaluations=1"];

fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart/recipe.toml")
}

fn cupola(command: &[&str], out: &Path, more: &[&str]) -> Vec<u8> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_cupola"));
    program.arg(command[0]).arg(recipe()).args(&command[1..]).arg("--out").arg(out);
    for setting in SHORT.iter().chain(more) {
        program.args(["--set", setting]);
    }
    let output = program.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn pretraining_takes_the_memory_that_was_planned() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path();
    cupola(&["run", "--only", "data.corpus"], out, &[]);
    cupola(&["run", "--only", "tokenizer.bpe"], out, &[]);
    for checkpointing in [false, true] {
        let setting = format!("pretrain.base.activation_checkpointing={checkpointing}");
        let plan: Value = serde_json::from_slice(&cupola(&["plan", "--json"], out, &[&setting])).unwrap();
        let stages = plan["stages"].as_array().unwrap();
        let planned = stages.iter().find(|s| s["stage"] == "pretrain.base").unwrap()["memory_bytes"].as_f64().unwrap();
        cupola(&["run", "--only", "pretrain.base"], out, &[&setting]);
        let manifest = std::fs::read(out.join("pretrain.base/manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let held = manifest["report"]["metrics"]["peak_memory_bytes"].as_f64().unwrap();
        let ratio = held / planned;
        assert!((0.85..1.15).contains(&ratio), "{setting}: {held} bytes held, {planned} planned");
    }
}
