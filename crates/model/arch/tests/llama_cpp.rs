//! What is written for llama.cpp holds the model, and llama.cpp computes what we do. The second needs llama-cpp-python:
//! `CUPOLA_LLAMA_PYTHON` names a Python that has it.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::Path;
use std::process::Command;

use burn::tensor::Device;
use cupola_arch::{ExpertSizes, Model, Network, Parts, Sizes, family};
use cupola_artifact::{HostTensor, StateDict};
use cupola_gguf::format_by_name;
use cupola_gguf::models::{ToGguf, architecture};
use cupola_nn::{Batch, Pairs};
use cupola_ops::to_vec;
use cupola_testkit::{assert_close, fixture};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A model and what is done with it.
struct Case {
    /// What messages call it.
    name: &'static str,
    dir: TempDir,
    /// How far llama.cpp may be off: its GELU is a table of float16 numbers.
    atol: f64,
    /// What it begins with, and an encoder-decoder's encoder reads.
    prompt: Vec<u32>,
    /// The context that llama.cpp is started with.
    context: usize,
}

/// A fixture's model with other settings.
fn altered(name: &str, change: Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture(name).join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&text).unwrap();
    config.extend(change.as_object().unwrap().clone());
    std::fs::write(dir.path().join("config.json"), Value::Object(config).to_string()).unwrap();
    std::fs::copy(fixture(name).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    dir
}

/// A fresh model whose matrices are large enough that its logits differ.
fn fresh(name: &str) -> TempDir {
    let sizes = Sizes {
        vocab_size: 99,
        d_model: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_head: 16,
        d_ff: 96,
        experts: ExpertSizes::default(),
        max_seq_len: 64,
        tie_embeddings: false,
        bos: Some(1),
        eos: vec![2],
        pad: Some(0),
        settings: Map::new(),
    };
    let model = Model::fresh(family(name).unwrap(), &sizes, 5, &Device::flex()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    let state = cupola_artifact::read_safetensors(&path).unwrap();
    let wider = |(name, tensor): (String, HostTensor)| {
        let values: Vec<f32> = tensor.to_f32().unwrap().iter().map(|v| v * 6.0).collect();
        let matrix = tensor.shape.len() == 2 && !name.ends_with("A_log");
        (name, if matrix { HostTensor::from_f32(tensor.shape, &values) } else { tensor })
    };
    let state: StateDict = state.into_iter().map(wider).collect();
    cupola_artifact::write_safetensors(&path, &state, &[]).unwrap();
    dir
}

fn cases() -> Vec<Case> {
    let yarn = |more: Value| {
        let mut rope =
            json!({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16});
        rope.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"rope_parameters": rope, "max_position_embeddings": 64})
    };
    let long = |original: usize, longest: usize| {
        let factors = |first: f64| (0..4).map(|i| json!(first + 0.5 * f64::from(i))).collect::<Vec<_>>();
        json!({
            "original_max_position_embeddings": original, "max_position_embeddings": longest,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors(1.0), "long_factor": factors(2.5),
                "original_max_position_embeddings": original,
            },
        })
    };
    let far = || json!({"relative_attention_max_distance": 128});
    let prompt: Vec<u32> = vec![5, 17, 32, 8, 37, 23, 14];
    let case = |name, dir, atol| Case { name, dir, atol, prompt: prompt.clone(), context: 512 };
    let longer: Vec<u32> = (0..20).map(|i| 5 + i * 37 % 90).collect();
    vec![
        case("llama, yarn", altered("llama", yarn(json!({}))), 2e-4),
        case("llama, yarn of its own", altered("llama", yarn(json!({"attention_factor": 1.3, "beta_fast": 8}))), 2e-4),
        case("phi3, short longrope", altered("phi3", long(1024, 4096)), 2e-4),
        Case { prompt: longer, ..case("phi3, long longrope", altered("phi3", long(16, 64)), 2e-4) },
        case("falcon, newer", fresh("falcon"), 2e-2),
        case("mamba", altered("mamba", json!({})), 2e-4),
        case("mamba2", fresh("mamba2"), 2e-3),
        case("jamba", altered("jamba", json!({})), 2e-4),
        case("mixtral", altered("mixtral", json!({})), 2e-4),
        case("qwen3-moe", altered("qwen3-moe", json!({})), 2e-4),
        case("deepseek-v3", altered("deepseek-v3", json!({})), 2e-4),
        case("t5", altered("t5", far()), 2e-3),
        case("t5-v1.1", altered("t5-v1.1", far()), 2e-2),
        case("mt5", altered("mt5", far()), 2e-2),
        case("bert-mlm", altered("bert-mlm", json!({})), 5e-3),
        case("bert-bare", altered("bert-bare", json!({})), 5e-3),
        case("roberta-mlm", altered("roberta-mlm", json!({})), 5e-3),
        case(
            "xlm-roberta",
            altered("roberta-mlm", json!({"model_type": "xlm-roberta", "architectures": ["XLMRobertaForMaskedLM"]})),
            5e-3,
        ),
        case("distilbert-mlm", altered("distilbert-mlm", json!({})), 5e-3),
        case("modernbert-mlm", altered("modernbert-mlm", json!({})), 5e-3),
    ]
}

fn write(dir: &Path, path: &Path) -> ToGguf {
    let parts = Parts::read(dir, &Device::flex()).unwrap();
    let shapes: Vec<_> = parts.state.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
    let mut file = ToGguf::plan(&parts.config, &shapes, format_by_name("F32").unwrap()).unwrap();
    file.metadata.set("tokenizer.ggml.model", "none");
    file.write(path, |name| Ok(parts.state[name].clone())).unwrap();
    file
}

/// The logits after `ids`, of an encoder-decoder's decoder that has read `source`; an encoder's vectors.
fn outputs(model: &Model, source: &[u32], ids: &[u32]) -> Vec<f32> {
    let last = |logits: Vec<f32>, rows: usize| logits[logits.len() / rows * (rows - 1)..].to_vec();
    match &model.network {
        Network::Decoder(decoder) => {
            let batch = Batch::causal(ids.to_vec(), 1);
            last(to_vec(&decoder.logits(decoder.hidden(&batch))), ids.len())
        }
        Network::Encoder(encoder) => {
            to_vec(&encoder.hidden(&encoder.spec().batch(ids.to_vec(), std::slice::from_ref(&(0..ids.len())))))
        }
        Network::EncoderDecoder(network) => {
            let whole = 0..source.len();
            let whole = std::slice::from_ref(&whole);
            let source = Batch::padded(source.to_vec(), whole, true);
            let pairs = Pairs::new(source, whole, Batch::causal(ids.to_vec(), 1));
            let states = network.hidden_states(&pairs);
            last(to_vec(&network.logits(states.decoder.last().unwrap().clone())), ids.len())
        }
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

#[test]
fn files_hold_the_model_and_llama_cpp_computes_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut wanted = Vec::new();
    for (number, case) in cases().into_iter().enumerate() {
        let path = dir.path().join(format!("{number}-{}.gguf", case.name.replace([',', ' '], "-")));
        let file = write(case.dir.path(), &path);
        let load =
            |path: &Path| Model::load(path, &Device::flex()).unwrap_or_else(|e| panic!("{}: {}", case.name, e.chain()));
        let (folder, again) = (load(case.dir.path()), load(&path));
        let decodes = folder.encoder_decoder().is_ok();
        let first = if decodes { vec![0] } else { case.prompt.clone() };
        let want = outputs(&folder, &case.prompt, &first);
        assert_close(case.name, &outputs(&again, &case.prompt, &first), &want, 2e-5, 1e-5);
        if folder.encoder().is_ok() {
            let heads = matches!(case.name, "bert-bare") || !file.left_out.is_empty();
            assert!(heads, "{}: {:?}", case.name, file.left_out);
            wanted.push(json!({"file": path, "vectors": [{"prompt": case.prompt, "values": want, "atol": case.atol}]}));
            continue;
        }
        let mut all = first.clone();
        for _ in 0..12 {
            all.push(likeliest(&outputs(&folder, &case.prompt, &all)));
        }
        let mut logits = json!({"prompt": first, "values": want, "atol": case.atol});
        let mut greedy = json!({"prompt": first, "ids": all[first.len()..]});
        if decodes {
            logits["encode"] = json!(case.prompt);
            greedy["encode"] = json!(case.prompt);
        }
        wanted.push(json!({"file": path, "context": case.context, "logits": [logits], "greedy": [greedy]}));
    }
    let Some(python) = std::env::var_os("CUPOLA_LLAMA_PYTHON").filter(|path| !path.is_empty()) else {
        eprintln!("skipped: CUPOLA_LLAMA_PYTHON names no Python with llama-cpp-python");
        return;
    };
    let list = dir.path().join("cases.json");
    std::fs::write(&list, serde_json::to_vec(&wanted).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../bench/peer_gguf.py");
    let output = Command::new(python).arg(script).arg(list).output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    eprintln!("{report}");
    let skipped = output.status.code() == Some(3);
    assert!(skipped || output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
}

/// Each family is described, or refused with the reason.
#[test]
fn every_family_can_be_written_or_says_why_not() {
    let (mut written, mut refused) = (0, 0);
    for family in cupola_arch::ALL {
        match architecture(family.model_type()) {
            Ok(found) => written += usize::from(found.model_type == family.model_type()),
            Err(error) => {
                assert!(error.to_string().contains("llama.cpp"), "{}: {error}", family.model_type());
                refused += 1;
            }
        }
    }
    assert_eq!(written + refused, cupola_arch::ALL.len());
    assert!(written >= 24, "{written}");
}
