//! A readable summary of an artifact, a model folder or a weights file.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::manifest::{MANIFEST, Manifest, is_artifact};
use crate::time::{human_bytes, human_count, human_seconds};
use crate::verify::artifacts_in;
use crate::weights::{TensorInfo, read_header, weight_files};
use crate::{Context, Error, Result};

/// The most tensors of a single file that are listed.
const MAX_LISTED: usize = 200;

/// Sums up what a path holds: an artifact, a whole run, a Hugging Face model folder, a safetensors file.
pub fn inspect(path: &Path) -> Result<String> {
    if path.is_file() {
        return inspect_file(path);
    }
    if !path.is_dir() {
        return Err(Error::usage(format!("there is no {}", path.display()))
            .with_hint("name an artifact's folder, a model folder or a .safetensors file"));
    }
    let model = path.join("config.json").is_file();
    if is_artifact(path) {
        let mut text = inspect_manifest(path, &Manifest::read(path)?);
        if model {
            text.push_str(&inspect_model(path)?);
        }
        return Ok(text);
    }
    if model {
        return Ok(format!("{}\n{}", path.display(), inspect_model(path)?));
    }
    let mut text = String::new();
    for artifact in artifacts_in(path)? {
        text.push_str(&inspect_manifest(&artifact, &Manifest::read(&artifact)?));
        text.push('\n');
    }
    if text.is_empty() {
        return Err(Error::usage(format!("{} holds neither {MANIFEST} nor config.json", path.display()))
            .with_hint("name an artifact's folder, a model folder or a .safetensors file"));
    }
    Ok(text)
}

/// Sums up an artifact by its manifest.
pub fn inspect_manifest(dir: &Path, manifest: &Manifest) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    let m = manifest;
    line("artifact", format!("{}.{} (format {}) at {}", m.kind, m.name, m.format_version, dir.display()));
    line("made", format!("{} in {} by {} {}", m.finished, human_seconds(m.seconds), m.program.name, m.program.version));
    line(
        "machine",
        format!("{}, {} cores, {} {}; {}", m.machine.cpu, m.machine.cores, m.machine.os, m.machine.arch, m.device),
    );
    line("content", m.content_hash.clone());
    for input in &m.inputs {
        let kind = input.kind.as_deref().unwrap_or("path");
        line("input", format!("{} = {} ({kind}) {}", input.key, input.reference, short(&input.hash)));
    }
    line("went in", m.report.went_in.clone());
    line("came out", m.report.came_out.clone());
    for (name, value) in &m.report.metrics {
        line("", format!("{name} = {}", plain(value)));
    }
    for (model, scores) in &m.report.scores {
        let scores: Vec<String> = scores.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect();
        line("score", format!("{model}: {}", scores.join(", ")));
    }
    line("seed", m.seed.to_string());
    flatten("", &m.config, &mut |key, value| line("setting", format!("{key} = {value}")));
    for file in &m.files {
        line("file", format!("{} ({}) {}", file.path, human_bytes(file.bytes as f64), short(&file.sha256)));
    }
    text
}

/// Sums up a model folder: its configuration, size and element types.
fn inspect_model(dir: &Path) -> Result<String> {
    let path = dir.join("config.json");
    let bytes = std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
    let config: Value = serde_json::from_slice(&bytes).context(|| format!("{} is not valid JSON", path.display()))?;
    let mut text = String::new();
    let family = config["architectures"].as_array().and_then(|names| names.first()?.as_str());
    let family = family.or_else(|| config["model_type"].as_str()).unwrap_or("unknown architecture");
    let _ = writeln!(text, "{:<12} {family}", "model");
    flatten("", &config, &mut |key, value| {
        let _ = writeln!(text, "{:<12} {key} = {value}", "");
    });
    let mut tensors = Vec::new();
    let files = weight_files(dir)?;
    for file in &files {
        tensors.extend(read_header(file)?);
    }
    let _ = writeln!(text, "{:<12} {} in {} file(s)", "weights", totals(&tensors), files.len());
    Ok(text)
}

/// Sums up a safetensors file: every tensor with type and shape.
fn inspect_file(path: &Path) -> Result<String> {
    if path.extension().is_none_or(|extension| extension != "safetensors") {
        return Err(Error::usage(format!("{} is not a .safetensors file", path.display()))
            .with_hint("name an artifact's folder, a model folder or a .safetensors file"));
    }
    let mut tensors = read_header(path)?;
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = format!("{}: {}\n", path.display(), totals(&tensors));
    for tensor in tensors.iter().take(MAX_LISTED) {
        let _ = writeln!(text, "  {} {} {:?}", tensor.name, tensor.dtype, tensor.shape);
    }
    if tensors.len() > MAX_LISTED {
        let _ = writeln!(text, "  and {} more", tensors.len() - MAX_LISTED);
    }
    Ok(text)
}

fn totals(tensors: &[TensorInfo]) -> String {
    let mut parameters: BTreeMap<&str, f64> = BTreeMap::new();
    for tensor in tensors {
        *parameters.entry(&tensor.dtype).or_default() += tensor.shape.iter().product::<usize>() as f64;
    }
    let total: f64 = parameters.values().sum();
    let bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    let types: Vec<String> =
        parameters.iter().map(|(dtype, count)| format!("{} {dtype}", human_count(*count))).collect();
    format!(
        "{} tensors, {} parameters ({}), {}",
        tensors.len(),
        human_count(total),
        types.join(", "),
        human_bytes(bytes as f64)
    )
}

/// Visits the leaves of a JSON value with their dotted keys.
fn flatten(prefix: &str, value: &Value, visit: &mut dyn FnMut(&str, &str)) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, visit);
            }
        }
        Value::String(text) => visit(prefix, text),
        other => visit(prefix, &other.to_string()),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => match number.as_f64().unwrap_or(f64::NAN) {
            tiny if tiny != 0.0 && tiny.abs() < 0.001 => format!("{tiny:.3e}"),
            usual => format!("{usual:.4}"),
        },
        other => other.to_string(),
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
