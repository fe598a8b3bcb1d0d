//! Models as files and back.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use cupola_artifact::{DType, HostTensor, StateDict, read_weights};
use cupola_gguf::models::{FromGguf, ToGguf, read_model};
use cupola_gguf::{Gguf, Metadata, Planned, format_by_name, write_gguf};
use cupola_testkit::{assert_close, fixture, fixture_or_skip};
use serde_json::{Map, Value, json};

const MODELS: [&str; 18] = [
    "llama",
    "llama-linear-rope",
    "llama-sharded-bf16",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3-moe",
    "phi3",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt-neox",
    "bloom",
    "falcon",
    "mamba",
    "jamba",
    "deepseek-v3",
];

fn config_of(dir: &Path, file: &str) -> Map<String, Value> {
    serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap()
}

fn plan(config: &Map<String, Value>, state: &StateDict, format: &str) -> cupola_artifact::Result<ToGguf> {
    let shapes: Vec<_> = state.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
    ToGguf::plan(config, &shapes, format_by_name(format)?)
}

fn there_and_back(config: &Map<String, Value>, state: &StateDict, format: &str) -> FromGguf {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    plan(config, state, format).unwrap().write(&path, |name| Ok(state[name].clone())).unwrap();
    read_model(&Gguf::open(&path).unwrap()).unwrap()
}

/// The rotary settings of full layers in one spelling.
fn rope(config: &Map<String, Value>) -> Value {
    let mut rope = config.get("rope_parameters").cloned().unwrap_or_default();
    for (key, usual) in [("partial_rotary_factor", 1.0), ("beta_fast", 32.0), ("beta_slow", 1.0)] {
        if rope.get(key).and_then(Value::as_f64) == Some(usual) {
            rope.as_object_mut().unwrap().remove(key);
        }
    }
    rope
}

#[test]
fn model_comes_back_as_it_was() {
    for name in MODELS {
        let Some(dir) = fixture_or_skip(name) else { continue };
        let (config, state) = (config_of(&dir, "config.json"), read_weights(&dir).unwrap());
        let again = there_and_back(&config, &state, "F32");
        assert_eq!(again.state.keys().collect::<Vec<_>>(), state.keys().collect::<Vec<_>>(), "{name}");
        for (key, tensor) in &state {
            let other = &again.state[key];
            assert_eq!(other.shape, tensor.shape, "{name}: {key}");
            let (got, want) = (other.to_f32().unwrap(), tensor.to_f32().unwrap());
            // Adding one to a norm's weight and taking it away again rounds, and so does taking logarithms.
            let rounds = (name.starts_with("gemma") && key.contains("norm")) || key.ends_with("A_log");
            let atol = if rounds { 3e-7 } else { 0.0 };
            assert_close(&format!("{name}: {key}"), &got, &want, atol, 0.0);
        }
        // Windows that llama.cpp leaves out end the context; special tokens are the tokenizer's.
        let windowed = ["mistral", "qwen2"].contains(&name);
        let mut checked = 0;
        for (key, value) in &again.config {
            let left_out =
                key.ends_with("_token_id") || key == "torch_dtype" || key == "n_inner" || key == "num_experts";
            let class = key == "architectures" || key == "model_type" || key == "max_position_embeddings";
            let window = key == "layer_types" || key.contains("sliding_window") || (windowed && class);
            let before = config.get(key).filter(|before| !before.is_null() && !left_out && !window);
            let Some(before) = before else { continue };
            let same = if key == "rope_parameters" { rope(&config) == rope(&again.config) } else { before == value };
            assert!(same, "{name}: `{key}` was {before} and is {value}");
            checked += 1;
        }
        assert!(checked >= 9, "{name}: {checked}");
    }
}

#[test]
fn settings_of_older_versions_mean_the_same() {
    for name in ["llama", "llama-linear-rope", "llama-sharded-bf16"] {
        let (dir, state) = (fixture(name), read_weights(&fixture(name)).unwrap());
        let file = |config: &str| plan(&config_of(&dir, config), &state, "F16").unwrap().metadata;
        assert_eq!(file("config.json"), file("config.v4.json"), "{name}");
    }
}

#[test]
fn file_of_the_reference_writer_is_a_model() {
    let model = read_model(&Gguf::open(&fixture("gguf-llama").join("model.gguf")).unwrap()).unwrap();
    assert_eq!(model.config["model_type"], "llama");
    assert_eq!(model.config["head_dim"], 16);
    assert_eq!(model.config["rms_norm_eps"], json!(1e-5));
    let rope = &model.config["rope_parameters"];
    assert_eq!(
        (&rope["rope_type"], &rope["factor"], &rope["rope_theta"]),
        (&json!("llama3"), &json!(8.0), &json!(10000.0))
    );
    assert_eq!(model.state["model.layers.1.self_attn.k_proj.weight"].shape, [32, 64]);
    assert_eq!(model.state["model.embed_tokens.weight"].dtype, DType::F16);
    assert!(!model.state.contains_key("rope_freqs.weight"));
}

/// A small llama with rows of a length, all ones.
fn small(width: usize) -> (Map<String, Value>, StateDict) {
    let config = json!({
        "model_type": "llama", "hidden_size": width, "intermediate_size": width, "num_attention_heads": 2,
        "num_hidden_layers": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "vocab_size": 8,
        "tie_word_embeddings": false,
    });
    let mut state = StateDict::new();
    let mut add = |name: &str, shape: &[usize]| {
        let ones = vec![1.0; shape.iter().product()];
        state.insert(format!("{name}.weight"), HostTensor::from_f32(shape, &ones));
    };
    add("model.embed_tokens", &[8, width]);
    add("lm_head", &[8, width]);
    add("model.norm", &[width]);
    for module in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"] {
        add(&format!("model.layers.0.{module}"), &[width, width]);
    }
    (config.as_object().unwrap().clone(), state)
}

#[test]
fn matrices_get_the_format_that_their_rows_allow() {
    let formats = |width: usize, format: &str, tied: bool| {
        let (mut config, mut state) = small(width);
        if tied {
            config.insert("tie_word_embeddings".into(), json!(true));
            state.remove("lm_head.weight");
        }
        let file = plan(&config, &state, format).unwrap();
        let of = |name: &str| file.tensors().find(|t| t.name == name).map_or("-", |t| t.format.name);
        [of("blk.0.attn_q.weight"), of("token_embd.weight"), of("output.weight"), of("output_norm.weight")]
    };
    assert_eq!(formats(256, "Q4_K", false), ["Q4_K", "Q4_K", "Q6_K", "F32"]);
    assert_eq!(formats(256, "Q4_K", true), ["Q4_K", "Q6_K", "-", "F32"]);
    assert_eq!(formats(64, "Q4_K", false), ["Q4_0", "Q4_0", "Q8_0", "F32"]);
    assert_eq!(formats(64, "Q5_K", false), ["Q5_1", "Q5_1", "Q8_0", "F32"]);
    assert_eq!(formats(48, "Q8_0", false), ["F16", "F16", "F16", "F32"]);
    assert_eq!(formats(48, "BF16", false), ["BF16", "BF16", "BF16", "F32"]);
}

#[test]
fn experts_lie_on_each_other() {
    let Some(dir) = fixture_or_skip("mixtral") else { return };
    let (config, state) = (config_of(&dir, "config.json"), read_weights(&dir).unwrap());
    let file = plan(&config, &state, "Q8_0").unwrap();
    let gate = file.tensors().find(|t| t.name == "blk.1.ffn_gate_exps.weight").unwrap();
    assert_eq!((gate.shape.as_slice(), gate.format.name), (&[4, 48, 32][..], "Q8_0"));
    let router = file.tensors().find(|t| t.name == "blk.1.ffn_gate_inp.weight").unwrap();
    assert_eq!(router.format.name, "F32");
    let mut fewer = state.clone();
    fewer.remove("model.layers.1.block_sparse_moe.experts.1.w1.weight");
    let error = plan(&config, &fewer, "F32").err().unwrap();
    assert!(error.to_string().contains("does not fit the other experts"), "{error}");
}

#[test]
fn what_llama_cpp_cannot_compute_is_refused() {
    let refused = |change: &dyn Fn(&mut Map<String, Value>, &mut StateDict)| {
        let (mut config, mut state) = small(64);
        change(&mut config, &mut state);
        plan(&config, &state, "F16").err().map(|e| format!("{}; {}", e.chain(), e.hint().unwrap_or_default())).unwrap()
    };
    let set = |key: &'static str, value: Value| {
        move |c: &mut Map<String, Value>, _: &mut StateDict| {
            c.insert(key.into(), value.clone());
        }
    };
    let one = HostTensor::from_f32([1], &[1.0]);
    let cases: Vec<(String, &str)> = vec![
        (refused(&set("model_type", json!("lama"))), "did you mean llama?"),
        (refused(&set("model_type", json!("xyz"))), "those that can: mixtral, llama"),
        (refused(&set("model_type", json!("opt"))), "llama.cpp has no OPT"),
        (refused(&set("model_type", json!("rwkv"))), "llama.cpp has RWKV 6 and 7, but not RWKV 4"),
        (refused(&set("model_type", json!("recurrent_gemma"))), "llama.cpp has no RecurrentGemma"),
        (refused(&set("hidden_act", json!("relu"))), "`hidden_act` in config.json is \"relu\""),
        (refused(&set("rope_parameters", json!({"rope_type": "dynamic"}))), "rotary scaling `dynamic`"),
        (refused(&set("num_attention_heads", json!(null))), "no `num_attention_heads`"),
        (refused(&set("hidden_size", json!("wide"))), "`hidden_size` in config.json is \"wide\""),
        (refused(&set("hidden_size", json!(1u64 << 40))), "`hidden_size` in config.json is 1099511627776"),
        (
            refused(&|_, s| drop(s.insert("model.layers.0.mlp.gated.weight".into(), one.clone()))),
            "no place for the tensor `model.layers.0.mlp.gated.weight`",
        ),
    ];
    for (message, reason) in cases {
        assert!(message.contains(reason), "{reason}: {message}");
    }
    let (config, state) = small(64);
    let error = plan(&config, &state, "IQ4_NL").err().unwrap();
    assert!(error.hint().unwrap().contains("Q8_0"), "{error:?}");
    // Heads that do not divide the rows come out when the tensor is there.
    let mut odd = config.clone();
    odd.insert("num_attention_heads".into(), json!(3));
    let dir = tempfile::tempdir().unwrap();
    let written = plan(&odd, &state, "F16").unwrap().write(&dir.path().join("x.gguf"), |name| Ok(state[name].clone()));
    assert!(written.unwrap_err().chain().contains("`model.layers.0.self_attn.k_proj.weight`: 64 rows"));
}

#[test]
fn file_that_is_no_model_here_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let (config, state) = small(64);
    let sound = plan(&config, &state, "F32").unwrap();
    let message = |change: &dyn Fn(&mut Metadata), tensors: &[&str]| {
        let mut metadata = sound.metadata.clone();
        change(&mut metadata);
        let planned =
            |name: &&str| Planned { name: (*name).into(), shape: vec![8, 4], format: format_by_name("F32").unwrap() };
        let tensors: Vec<Planned> = tensors.iter().map(planned).collect();
        write_gguf(&path, &metadata, &tensors, |_| Ok(vec![0; 128])).unwrap();
        let error = read_model(&Gguf::open(&path).unwrap()).unwrap_err();
        assert!(error.to_string().contains("x.gguf"), "{error}");
        format!("{}; {}", error.chain(), error.hint().unwrap_or_default())
    };
    for (message, reason) in [
        (message(&|m| m.set("general.architecture", "rwkv6"), &[]), "architecture is `rwkv6`"),
        (message(&|m| m.set("llama.block_count", "two"), &[]), "should be a count"),
        (message(&|_| (), &[]), "no tensor `token_embd.weight`"),
        (message(&|_| (), &["token_embd.weight", "blk.0.ssm_a"]), "no place for the tensor `blk.0.ssm_a`"),
        (
            message(&|m| m.set("llama.attention.head_count", 0u32), &["token_embd.weight", "blk.0.attn_q.weight"]),
            "8 rows",
        ),
        (message(&|m| m.set("llama.rope.scaling.type", "ntk"), &["token_embd.weight"]), "scaling `ntk`"),
        (message(&|_| (), &["token_embd.weight", "rope_freqs.weight"]), "stretched in an unknown way"),
    ] {
        assert!(message.contains(reason), "{reason}: {message}");
    }
    write_gguf(&path, &Metadata::new(), &[], |_| Ok(Vec::new())).unwrap();
    assert!(read_model(&Gguf::open(&path).unwrap()).unwrap_err().chain().contains("no `general.architecture`"));
}

#[test]
fn a_model_in_several_files_is_read_from_any_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let (config, state) = small(64);
    let one = plan(&config, &state, "F32").unwrap();
    let whole = dir.path().join("whole.gguf");
    one.write(&whole, |name| Ok(state[name].clone())).unwrap();
    let want = Gguf::open(&whole).unwrap();
    let path = |number: usize| dir.path().join(format!("part-{:05}-of-00003.gguf", number + 1));
    let write = |number: usize, said: usize, tensors: &[Planned]| {
        let mut metadata = if number == 0 { one.metadata.clone() } else { Metadata::new() };
        metadata.set("split.no", said as u16);
        metadata.set("split.count", 3u16);
        metadata.set("split.tensors.count", want.tensors().len() as i32);
        let bytes = |planned: &Planned| want.read_bytes(want.tensor(&planned.name)?);
        write_gguf(&path(number), &metadata, tensors, bytes).unwrap();
    };
    let planned: Vec<Planned> = one.tensors().cloned().collect();
    let parts = [&planned[..3], &planned[3..4], &planned[4..]];
    (0..3).for_each(|number| write(number, number, parts[number]));
    let expected = read_model(&want).unwrap();
    for number in 0..3 {
        let found = read_model(&Gguf::open(&path(number)).unwrap()).unwrap();
        assert_eq!((found.config, found.state), (expected.config.clone(), expected.state.clone()));
    }
    let refused = || Gguf::open(&path(0)).unwrap_err().to_string();
    write(1, 2, parts[1]);
    assert!(refused().contains("says that it is number 3 of 3 files"), "{}", refused());
    write(1, 1, parts[0]);
    assert!(refused().contains("hold the tensor"), "{}", refused());
    write(1, 1, &[]);
    assert!(refused().contains("and should hold"), "{}", refused());
    std::fs::remove_file(path(1)).unwrap();
    assert!(refused().contains("part-00002-of-00003.gguf is not there"), "{}", refused());
}
