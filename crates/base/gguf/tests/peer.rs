//! llama.cpp itself reads what is written here, and computes what the reference does. Needs llama-cpp-python: `CUPOLA_LLAMA_PYTHON` names a Python that has it.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::Path;
use std::process::Command;

use cupola_artifact::read_weights;
use cupola_gguf::models::ToGguf;
use cupola_gguf::{Metadata, SpecialIds, format_by_name, set_tokenizer, write_gguf};
use cupola_testkit::{Golden, fixture, fixture_or_skip};
use serde_json::{Value, json};

/// Runs `bench/peer_gguf.py` on cases; `None` where llama-cpp-python is not there.
fn peer(dir: &Path, cases: &[Value]) -> Option<(bool, String)> {
    let Some(python) = std::env::var_os("CUPOLA_LLAMA_PYTHON").filter(|path| !path.is_empty()) else {
        eprintln!("skipped: CUPOLA_LLAMA_PYTHON names no Python with llama-cpp-python");
        return None;
    };
    let path = dir.join("cases.json");
    std::fs::write(&path, serde_json::to_vec(cases).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../bench/peer_gguf.py");
    let output = Command::new(python).arg(script).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code() == Some(3) {
        eprintln!("skipped: {text}");
        return None;
    }
    Some((output.status.success(), format!("{text}{}", String::from_utf8_lossy(&output.stderr))))
}

/// Texts that llama.cpp reads otherwise than the reference, whatever the file says: it does not compose characters first,
/// and takes Hangul apart no further than its syllables when it strips accents.
fn reads_otherwise(kind: &str, text: &str) -> bool {
    match kind {
        "qwen" => text.contains(|c: char| ('\u{300}'..'\u{370}').contains(&c)),
        "bert" => text.contains(|c: char| ('\u{ac00}'..'\u{d7a4}').contains(&c)),
        _ => false,
    }
}

#[test]
fn llama_cpp_tokenizes_as_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for kind in ["gpt2", "llama3", "qwen", "roberta", "llama2", "t5", "bert"] {
        let read = |file: &str| -> Value {
            serde_json::from_slice(&std::fs::read(fixture("tokenizers").join(kind).join(file)).unwrap()).unwrap()
        };
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", "llama");
        set_tokenizer(&mut metadata, &read("tokenizer.json"), &SpecialIds::default(), None, 600).unwrap();
        let path = dir.path().join(format!("{kind}.gguf"));
        write_gguf(&path, &metadata, &[], |_| Ok(Vec::new())).unwrap();
        let golden = read("golden.json");
        let texts = golden["encode"].as_array().unwrap().iter();
        let texts = texts.filter(|c| !reads_otherwise(kind, c["text"].as_str().unwrap()));
        let tokens: Vec<Value> = texts
            .flat_map(|c| {
                [("ids", true), ("ids_without_special", false)]
                    .map(|(key, add)| json!({"text": c["text"], "add": add, "ids": c[key]}))
            })
            .collect();
        cases.push(json!({"file": path, "tokens": tokens}));
    }
    if let Some((equal, report)) = peer(dir.path(), &cases) {
        assert!(equal, "{report}");
    }
}

/// The model fixtures, and how far llama.cpp's logits may be off: its GELU is a table of float16 numbers.
const MODELS: [(&str, f64); 18] = [
    ("llama", 2e-4),
    ("llama-linear-rope", 2e-4),
    ("llama-sharded-bf16", 2e-4),
    ("mistral", 2e-4),
    ("mixtral", 2e-4),
    ("qwen2", 2e-4),
    ("qwen3", 2e-4),
    ("qwen3-moe", 2e-4),
    ("phi3", 2e-4),
    ("gemma2", 2e-3),
    ("gemma3", 2e-3),
    ("gpt2", 2e-3),
    ("gpt-neox", 5e-3),
    ("bloom", 2e-3),
    ("falcon", 5e-3),
    ("mamba", 5e-4),
    ("jamba", 5e-4),
    ("deepseek-v3", 5e-4),
];

#[test]
fn llama_cpp_computes_the_golden_logits_and_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for (name, atol) in MODELS {
        let Some(from) = fixture_or_skip(name) else { continue };
        let golden = Golden::load_dir(&from);
        let config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        let state = read_weights(&from).unwrap();
        let shapes: Vec<_> = state.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
        let mut file = ToGguf::plan(config.as_object().unwrap(), &shapes, format_by_name("F32").unwrap()).unwrap();
        file.metadata.set("tokenizer.ggml.model", "none");
        let path = dir.path().join(format!("{name}.gguf"));
        file.write(&path, |name| Ok(state[name].clone())).unwrap();

        // The first row has no padding. Where windows end the context, its beginning is compared.
        let arch = file.metadata.text("general.architecture").unwrap().unwrap();
        let longest = file.metadata.size(&format!("{arch}.context_length")).unwrap().unwrap();
        let (shape, ids) = golden.i64("in.input_ids");
        let count = shape[1].min(longest);
        let (_, logits) = golden.f32("out.logits");
        let width = logits.len() / (shape[0] * shape[1]);
        let mut case = json!({"file": path, "logits": [{
            "prompt": ids[..count], "values": logits[(count - 1) * width..count * width], "atol": atol,
        }]});
        let (prompt, (all, sequences)) = (golden.i64("gen.in.input_ids").0[1], golden.i64("gen.sequences"));
        if all[1] <= longest {
            case["greedy"] = json!([{"prompt": sequences[..prompt], "ids": sequences[prompt..all[1]]}]);
        }
        cases.push(case);
    }
    if let Some((equal, report)) = peer(dir.path(), &cases) {
        eprintln!("{report}");
        assert!(equal, "{report}");
    }
}

/// Weights like a trained layer's: a normal distribution whose deviation varies by row, and a few outliers.
fn weights(rows: usize, row: usize) -> Vec<f32> {
    let mut state = 9u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut normal = || (-2.0 * draw().max(1e-7).ln()).sqrt() * (std::f32::consts::TAU * draw()).cos();
    (0..rows * row)
        .map(|at| {
            let outlier = if at % 997 == 0 { 6.0 } else { 1.0 };
            normal() * outlier * 0.02 * (1.0 + (at / row % 7) as f32)
        })
        .collect()
}

#[test]
fn k_encoders_err_no_more_than_llama_cpps() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, row) = (64, 1024);
    let values = weights(rows, row);
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let path = dir.path().join("values");
    std::fs::write(&path, raw).unwrap();
    let names = ["Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0"];
    let out = |name: &str| dir.path().join(name);
    let case = |name: &&str| {
        let id = format_by_name(name).unwrap().id;
        json!({"quantize": {"values": path, "type": id, "row": row, "out": out(name)}})
    };
    let cases: Vec<Value> = names.iter().map(case).collect();
    let Some((done, report)) = peer(dir.path(), &cases) else { return };
    assert!(done, "{report}");
    for name in names {
        let format = format_by_name(name).unwrap();
        let error = |blocks: &[u8]| {
            let back = format.decode(blocks).unwrap();
            (values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
        };
        let ours = format.encode(&values).unwrap();
        let theirs = std::fs::read(out(name)).unwrap();
        eprintln!("{name}: root mean square error {:.3e}, llama.cpp's {:.3e}", error(&ours), error(&theirs));
        assert!(error(&ours) <= error(&theirs) * 1.02, "{name}");
        if !name.ends_with('K') {
            assert!(ours == theirs, "{name}: other bytes");
        }
    }
}
