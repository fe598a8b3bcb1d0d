//! Adapters that do not fit, and files that are broken: each is an error that says why.

use std::path::Path;

use cupola_arch::{Adapter, Model};
use cupola_artifact::Error;
use cupola_nn::adapters::{AdapterConfig, kind};
use cupola_testkit::fixture;
use serde_json::{Value, json};

use crate::load;

/// A copy of a fixture's adapter whose configuration is changed.
fn changed(name: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = fixture(name);
    std::fs::copy(from.join("adapter_model.safetensors"), dir.path().join("adapter_model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    dir
}

/// What putting a folder's adapter on a model comes to.
fn error(base: &str, dir: &Path) -> Error {
    let put = |adapter: Adapter| load(&fixture(base)).put_on(&adapter);
    Adapter::read(dir).and_then(put).unwrap_err()
}

#[track_caller]
fn says(error: &Error, message: &str, hint: &str) {
    assert!(error.chain().contains(message), "{}", error.chain());
    let found = error.hint().unwrap_or_default();
    assert!(found.contains(hint), "{found}");
}

#[test]
fn an_adapter_of_another_base_is_named() {
    says(&error("gpt2", &fixture("peft-lora")), "no layers called", "it has c_attn");
    says(&error("llama-linear-rope", &fixture("peft-lora-gpt2")), "no layers called c_attn, c_fc", "it has q_proj");
    let rank = changed("peft-lora", |config| config["r"] = json!(3));
    says(&error("llama", rank.path()), "but the model implies [3, 32]", "another rank");
    let fewer = changed("peft-lora", |config| config["target_modules"] = json!(["q_proj"]));
    says(&error("llama", fewer.path()), "no place for", "other modules");
    let more = changed("peft-rslora", |config| config["target_modules"] = json!(["q_proj", "v_proj"]));
    says(&error("llama", more.path()), "has no `model.layers.1.self_attn", "nearest name");
}

#[test]
fn unknown_kinds_and_settings_are_named() {
    let unknown = changed("peft-lora", |config| config["peft_type"] = json!("LORAX"));
    says(&error("llama", unknown.path()), "peft_type is \"LORAX\"", "`LORA`");
    let missing = changed("peft-lora", |config| config["peft_type"] = Value::Null);
    says(&error("llama", missing.path()), "peft_type is null", "ADALORA");
    for (key, value) in [
        ("bias", json!("all")),
        ("init_lora_weights", json!("pissa")),
        ("layer_replication", json!([[0, 1]])),
        ("target_parameters", json!(["x"])),
        ("some_new_setting", json!(3)),
    ] {
        let dir = changed("peft-lora", |config| config[key] = value.clone());
        says(
            &error("llama", dir.path()),
            &format!("`{key}` = {value} in adapter_config.json is not supported"),
            "docs",
        );
    }
    let coft = changed("peft-oft", |config| config["coft"] = json!(true));
    says(&error("llama", coft.path()), "`coft` = true", "docs");
    // What is new and off says nothing.
    let quiet = changed("peft-lora", |config| config["some_new_setting"] = Value::Null);
    load(&fixture("llama")).put_on(&Adapter::read(quiet.path()).unwrap()).unwrap();
}

#[test]
fn broken_folders_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let read = |dir: &Path| Adapter::read(dir).map(|_| ()).unwrap_err();
    says(&read(dir.path()), "adapter_config.json", "");
    let config = fixture("peft-lora").join("adapter_config.json");
    std::fs::copy(&config, dir.path().join("adapter_config.json")).unwrap();
    says(&read(dir.path()), "adapter_model.safetensors", "adapter_config.json and adapter_model.safetensors");
    std::fs::write(dir.path().join("adapter_model.safetensors"), b"nonsense").unwrap();
    assert!(read(dir.path()).chain().contains("adapter_model.safetensors"));
    let alone = changed("peft-lora", |config| config["base_model_name_or_path"] = json!("../nowhere"));
    let loaded = Model::load(alone.path(), &burn::tensor::Device::flex()).unwrap_err();
    says(&loaded, "`../nowhere`, which is not there", "base_model_name_or_path");
}

fn adapt(base: &str, name: &str, settings: Value) -> Error {
    let config = AdapterConfig::new(kind(name).unwrap(), settings.as_object().unwrap().clone());
    config.and_then(|config| load(&fixture(base)).adapt(&config, 1)).unwrap_err()
}

#[test]
fn wrong_settings_are_named() {
    for (name, settings, message, hint) in [
        ("lora", json!({"alfa": 3}), "the adapter `lora` has no setting `alfa`", "`alpha`"),
        ("lora", json!({"r": 0}), "`r` must be at least 1", ""),
        ("lora", json!({"r": "x"}), "invalid type", ""),
        ("lora", json!({"target_modules": ["q_prj"]}), "no layers called q_prj", "it has q_proj"),
        ("lora", json!({"target_modules": "q_proj("}), "no regular expression", "a list of names"),
        ("lora", json!({"modules_to_save": ["nrm"]}), "no modules called nrm", ""),
        ("dora", json!({"target_modules": ["embed_tokens"]}), "embed_tokens is an embedding", ""),
        ("adalora", json!({"r": 4, "target_r": 5}), "ranks only fall", ""),
        ("adalora", json!({"target_modules": ["embed_tokens"]}), "cannot stand on the embedding", "linear layers"),
        ("oft", json!({"blocks": 4}), "one of `block_size` and `blocks`", ""),
        ("layer_norm", json!({"target_modules": ["q_proj"]}), "no layers called q_proj", "input_layernorm"),
        ("llama_adapter", json!({"last_layers": 9}), "`last_layers` = 9, but the model has 2", ""),
        ("prompt_tuning", json!({"tokens": 63}), "leave no room in a context of 64", "fewer"),
        ("houlsby", json!({"width": 0}), "`width` must be at least 1", ""),
    ] {
        says(&adapt("llama", name, settings), message, hint);
    }
}

#[test]
fn kinds_that_have_no_place_in_a_model_are_named() {
    for (base, name) in [
        ("mamba", "prefix_tuning"),
        ("mamba", "llama_adapter"),
        ("t5", "prompt_tuning"),
        ("t5", "prefix_tuning"),
        ("mamba", "ia3"),
        ("albert-mlm", "prefix_tuning"),
    ] {
        says(&adapt(base, name, json!({"tokens": 2}).clone()), name, "");
    }
    assert!(kind("lorra").err().unwrap().hint().unwrap().contains("`lora`"));
}

#[test]
fn a_second_adapter_is_refused() {
    let mut model = load(&fixture("peft-lora"));
    let error = model.put_on(&Adapter::read(&fixture("peft-dora")).unwrap()).unwrap_err();
    says(&error, "has an adapter already", "merge it first");
}
