//! `adapter_config.json` as PEFT reads and writes it.

use cupola_artifact::{Error, Result, unknown_name};
use cupola_nn::adapters::{ALL, AdapterConfig, AdapterKind, MODULES_TO_SAVE, Stands};
use cupola_nn::{LayerSpec, Task};
use serde_json::{Map, Value, json};

use crate::family::Family;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// What tells nothing of the mathematics: where a file comes from, how it was begun, and what is dropped in training only.
const ASIDE: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "encoder_dropout",
    "encoder_num_layers",
    "encoder_reparameterization_type",
    "ensure_weight_tying",
    "eps",
    "fan_in_fan_out",
    "inference_mode",
    "init_ia3_weights",
    "init_weights",
    "lora_dropout",
    "megatron_core",
    "module_dropout",
    "num_attention_heads",
    "num_layers",
    "peft_type",
    "peft_version",
    "prefix_projection",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "qalora_group_size",
    "rank_dropout",
    "rank_dropout_scale",
    "revision",
    "runtime_config",
    "task_type",
    "token_dim",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
];

/// Ways to begin that leave the base as it is; others change it, and a file tells nothing of that.
const BEGINNINGS: &[&str] = &["gaussian", "orthogonal", "eva"];

/// The kind of adapter and its settings in a file.
///
/// # Errors
/// A kind that is unknown; a setting that asks for what is not built.
pub(crate) fn read(file: &Map<String, Value>) -> Result<AdapterConfig> {
    let peft_type = file.get("peft_type").and_then(Value::as_str).unwrap_or_default();
    let Some(kind) = ALL.iter().copied().find(|kind| kind.peft_type() == peft_type) else {
        let mut known: Vec<&str> = ALL.iter().map(|kind| kind.peft_type()).collect();
        known.dedup();
        let found = file.get("peft_type").unwrap_or(&Value::Null);
        return Err(unknown_name(&format!("the adapter's peft_type is {found}"), peft_type, "adapter", &known));
    };
    let mut settings = kind.of_files();
    for (key, value) in file {
        let field = kind.fields().iter().chain([&MODULES_TO_SAVE]).find(|field| field.peft == key);
        match field {
            // What PEFT has as null is its default, and ours.
            Some(_) if value.is_null() || *value == json!([]) => {}
            Some(field) => {
                let single = field.name == "layers" && value.is_number();
                settings.insert(field.name.into(), if single { json!([value]) } else { value.clone() });
            }
            None => check_other(kind, key, value)?,
        }
    }
    AdapterConfig::new(kind, settings)
}

/// An error for what is set and not built.
fn check_other(kind: &'static dyn AdapterKind, key: &str, value: &Value) -> Result<()> {
    let neutral = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty() || text == "none",
        _ => false,
    };
    let fits = match key {
        "init_lora_weights" => value.is_boolean() || value.as_str().is_some_and(|how| BEGINNINGS.contains(&how)),
        "num_transformer_submodules" => value == 1,
        // AdaLoRA's rank is called otherwise.
        "r" => kind.peft_type() == "ADALORA",
        _ => ASIDE.contains(&key),
    };
    match neutral || fits {
        true => Ok(()),
        false => Err(Error::failed(format!("`{key}` = {value} in adapter_config.json is not supported"))
            .with_hint("this build reads the settings of docs/tune.md, and what else a file has where it is off")),
    }
}

/// What a file says of an adapter on a model.
pub(crate) fn write(config: &AdapterConfig, family: &dyn Family, spec: &Spec) -> Map<String, Value> {
    let mut file = Map::new();
    let mut put = |key: &str, value: Value| file.insert(key.to_string(), value);
    put("peft_type", json!(config.kind.peft_type()));
    put("task_type", json!(task_type(spec)));
    put("inference_mode", json!(true));
    put("base_model_name_or_path", Value::Null);
    let settings = config.adapter.settings();
    for field in config.kind.fields().iter().filter(|field| !field.peft.is_empty()) {
        put(field.peft, settings.get(field.name).map_or(Value::Null, whole));
    }
    if !config.modules_to_save.is_empty() {
        put(MODULES_TO_SAVE.peft, json!(config.modules_to_save));
    }
    let stack = spec.stack();
    let attention = stack.blocks.iter().flat_map(|block| &block.layers).find_map(|(_, layer)| match layer {
        LayerSpec::Attention(attention) => Some(attention),
        _ => None,
    });
    match config.adapter.stands() {
        Stands::Linears(_) => {
            let on_side = |r: &Rearrangement| matches!(r, Rearrangement::Fused(fused) if fused.transposed);
            put("fan_in_fan_out", json!(family.rearrangements(spec).iter().any(on_side)));
            put("bias", json!("none"));
        }
        Stands::Prompt(_) => {
            put("token_dim", json!(stack.embedding.width));
            put("num_attention_heads", json!(attention.map(|a| a.n_heads)));
        }
        Stands::Prefix(_) => {
            put("token_dim", json!(attention.map(|a| a.n_kv_heads * a.d_head)));
            put("num_attention_heads", json!(attention.map(|a| a.n_kv_heads)));
        }
        Stands::Norms(_) | Stands::Blocks(_) | Stands::Attention(_) => {}
    }
    if matches!(config.adapter.stands(), Stands::Prompt(_) | Stands::Prefix(_)) {
        put("num_layers", json!(stack.blocks.len()));
        put("num_transformer_submodules", json!(1));
    }
    if let Some(ranks) = config.adapter.ranks() {
        // PEFT wants a schedule that begins and ends.
        let (warmup, settle) = (ranks.warmup.unwrap_or(0), ranks.settle.unwrap_or(0));
        put("tinit", json!(warmup));
        put("tfinal", json!(settle));
        put("total_step", json!(ranks.total_step.unwrap_or(0).max(warmup + settle + 1)));
    }
    file
}

/// A number without a fraction as a whole one, which PEFT expects of scales.
fn whole(value: &Value) -> Value {
    match value.as_f64() {
        Some(x) if value.is_f64() && x.fract() == 0.0 && x.abs() < 1e15 => json!(x as i64),
        // What is a 32-bit number here is not to look like a 64-bit one.
        Some(x) if value.is_f64() => json!((x as f32).to_string().parse::<f64>().unwrap_or(x)),
        _ => value.clone(),
    }
}

/// What PEFT calls what a model does.
fn task_type(spec: &Spec) -> &'static str {
    match spec {
        Spec::Decoder(_) => "CAUSAL_LM",
        Spec::EncoderDecoder(_) => "SEQ_2_SEQ_LM",
        Spec::Encoder(spec) => match spec.head.map(|head| head.task) {
            Some(Task::Label | Task::Labels | Task::Numbers) => "SEQ_CLS",
            Some(Task::Tokens) => "TOKEN_CLS",
            Some(Task::Span) => "QUESTION_ANS",
            _ => "FEATURE_EXTRACTION",
        },
    }
}
