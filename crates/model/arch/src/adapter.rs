//! Adapters in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use cupola_artifact::{Context, Error, Result, StateDict, read_safetensors, write_safetensors};
use cupola_nn::{LoraConfig, Module};
use serde_json::{Map, Value, json};

use crate::Model;
use crate::model::{read_json, write_json};

/// What PEFT puts before each name.
const PREFIX: &str = "base_model.model.";

/// Settings of PEFT's that change the mathematics and are not built; any other value than these is an error.
const NEUTRAL: &[(&str, &[&str])] = &[
    ("use_dora", &["false"]),
    ("use_rslora", &["false"]),
    ("use_qalora", &["false"]),
    ("use_bdlora", &["null"]),
    ("bias", &["\"none\""]),
    ("lora_bias", &["false"]),
    ("fan_in_fan_out", &["false"]),
    ("rank_pattern", &["{}"]),
    ("alpha_pattern", &["{}"]),
    ("modules_to_save", &["null", "[]"]),
    ("layers_to_transform", &["null"]),
    ("layer_replication", &["null"]),
    ("exclude_modules", &["null"]),
    ("target_parameters", &["null"]),
    ("trainable_token_indices", &["null"]),
];

/// Loads an adapter onto its base, which `base_model_name_or_path` names relative to the adapter's directory.
pub(crate) fn load(dir: &Path, device: &Device) -> Result<Model> {
    let config = read_json(&dir.join("adapter_config.json"))?;
    let base = base_path(dir, &config)?;
    let mut model = Model::load(&base, device)?;
    apply(&mut model, dir)?;
    Ok(model)
}

fn base_path(dir: &Path, config: &Map<String, Value>) -> Result<PathBuf> {
    let base = config.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default();
    let path = dir.join(base);
    if base.is_empty() || !path.join("config.json").exists() {
        return Err(Error::failed(format!(
            "the adapter in {} belongs to the base model `{base}`, which is not there",
            dir.display()
        ))
        .with_hint("set base_model_name_or_path in adapter_config.json to the base model's directory"));
    }
    Ok(path)
}

/// Puts the adapter of a directory onto a model that is its base.
///
/// # Errors
/// A broken file, a kind of adapter that is not LoRA, a weight that does not fit.
pub fn apply(model: &mut Model, dir: &Path) -> Result<()> {
    let config = read_json(&dir.join("adapter_config.json"))?;
    let settings = read_config(&config).map_err(|e| e.wrap(format!("cannot use the adapter in {}", dir.display())))?;
    model.adapt(&settings, 0)?;
    let path = dir.join("adapter_model.safetensors");
    let mut state = read_safetensors(&path)?;
    for mut param in model.params_mut().into_iter().filter(|p| p.name().contains(".lora_")) {
        let name = format!("{PREFIX}{}", param.name());
        let tensor = state.remove(&name).ok_or_else(|| Error::failed(format!("{} has no `{name}`", path.display())))?;
        if tensor.shape != param.shape() {
            return Err(Error::failed(format!(
                "{name} is {:?}, but the model implies {:?}",
                tensor.shape,
                param.shape()
            )));
        }
        let data = tensor.to_f32()?;
        param.update(|numbers| numbers.copy_from_slice(&data));
    }
    match state.keys().next() {
        None => Ok(()),
        Some(left) => {
            Err(Error::failed(format!("{} has weights that the model has no place for, e.g. `{left}`", path.display()))
                .with_hint("the adapter belongs to another base model"))
        }
    }
}

fn read_config(config: &Map<String, Value>) -> Result<LoraConfig> {
    if config.get("peft_type") != Some(&json!("LORA")) {
        return Err(Error::failed(format!(
            "the adapter's peft_type is {}",
            config.get("peft_type").unwrap_or(&Value::Null)
        ))
        .with_hint("this build reads LORA adapters"));
    }
    for (key, neutral) in NEUTRAL {
        if let Some(value) = config.get(*key)
            && !neutral.contains(&value.to_string().as_str())
        {
            return Err(Error::failed(format!("`{key}` = {value} in adapter_config.json is not supported")));
        }
    }
    let number = |key: &str| {
        config
            .get(key)
            .and_then(Value::as_f64)
            .ok_or_else(|| Error::failed(format!("adapter_config.json has no number `{key}`")))
    };
    let modules = config
        .get("target_modules")
        .and_then(Value::as_array)
        .ok_or_else(|| Error::failed("`target_modules` in adapter_config.json is not a list of layer names"))?;
    Ok(LoraConfig {
        r: number("r")? as usize,
        alpha: number("lora_alpha")? as f32,
        target_modules: modules.iter().filter_map(Value::as_str).map(String::from).collect(),
    })
}

/// Writes a model's adapter; `base` is its base model's directory, absolute or relative to `dir`.
///
/// # Errors
/// When a file cannot be written.
pub fn save_adapter(model: &Model, config: &LoraConfig, base: &str, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).context(|| format!("cannot create {}", dir.display()))?;
    let settings = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "target_modules": config.target_modules,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
        "use_dora": false,
        "use_rslora": false,
    });
    write_json(&dir.join("adapter_config.json"), &settings)?;
    let state: StateDict = model.lora_state().into_iter().map(|(k, v)| (format!("{PREFIX}{k}"), v)).collect();
    write_safetensors(&dir.join("adapter_model.safetensors"), &state, &[("format", "pt")])
}
