//! Gemma 2 and 3: norms around each layer, whose weights count from 0; layers with a window among layers without.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::settings::{Constant, Described, Export, Fixed, count, fixed, plain};
use super::{Architecture, PLAIN, Tensor, llama, one_more, rope, same};

const FIXED: &[Fixed] = &[
    fixed("hidden_activation", &[Constant::Text("gelu_pytorch_tanh")]),
    fixed("attention_bias", &[Constant::Flag(false)]),
    fixed("use_bidirectional_attention", &[Constant::Flag(false)]),
];

const TENSORS: &[Tensor] = &[
    same("model.embed_tokens", "token_embd"),
    one_more("model.norm", "output_norm"),
    one_more("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    same("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    same("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    same("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    same("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    one_more("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    one_more("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
    one_more("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
    one_more("model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm"),
    same("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    same("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    same("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    one_more("model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"),
];

/// Gemma 2: every other layer has a window, scores and logits are capped.
pub const GEMMA2: Architecture = Architecture {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    name: "gemma2",
    settings: &[llama::SETTINGS, &[count(&["sliding_window"], "attention.sliding_window")]],
    fixed: FIXED,
    tensors: &[TENSORS],
    write: write2,
    read: read2,
    ..PLAIN
};

/// Gemma 3: one layer of several reaches everything, with its own rotary base.
pub const GEMMA3: Architecture = Architecture {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    name: "gemma3",
    write: write3,
    read: read3,
    ..GEMMA2
};

/// The window layers' rotary base where a file says none.
const LOCAL_THETA: f64 = 10_000.0;
/// The numbers of layers of the models of 27 billion, for which llama.cpp scales scores otherwise.
const LARGE: [usize; 2] = [46, 62];

/// Heads, rotary positions, and a check of how scores are scaled, which files do not say.
fn write_common(export: &mut Export<'_>) -> Result<()> {
    llama::write(export)?;
    let (heads, layers) = (export.size(&["num_attention_heads"])?, export.size(&["num_hidden_layers"])?);
    let d_head = export.size(&["head_dim"])?;
    let divisor = if LARGE.contains(&layers) { export.size(&["hidden_size"])? / heads } else { d_head };
    let scalar = export.get(&["query_pre_attn_scalar"]).and_then(Value::as_f64).unwrap_or(256.0);
    if scalar != divisor as f64 {
        let message = format!("`query_pre_attn_scalar` in config.json is {scalar}; llama.cpp takes it to be {divisor}");
        return Err(Error::failed(message).with_hint("the exported model would attend otherwise"));
    }
    Ok(())
}

fn write2(export: &mut Export<'_>) -> Result<()> {
    write_common(export)?;
    if period(export)? != 2 {
        return Err(Error::failed("`layer_types` in config.json do not alternate")
            .with_hint("llama.cpp takes every other layer of this architecture to have a window"));
    }
    for (name, key) in
        [("attn_logit_softcapping", "attn_logit_softcapping"), ("final_logit_softcapping", "final_logit_softcapping")]
    {
        // Huge caps change nothing; llama.cpp always caps.
        let cap = export.get(&[name]).and_then(Value::as_f64).unwrap_or(1e6);
        export.set(key, cap as f32);
    }
    Ok(())
}

fn write3(export: &mut Export<'_>) -> Result<()> {
    write_common(export)?;
    let period = period(export)?;
    export.set("attention.sliding_window_pattern", period as u32);
    let local = rope::parameters(export.config, "sliding_attention");
    let theta = export.get(&["rope_local_base_freq"]).or_else(|| local.get("rope_theta")).and_then(Value::as_f64);
    export.set("rope.freq_base_swa", theta.unwrap_or(LOCAL_THETA) as f32);
    for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(value) = export.get(&[cap]) {
            return Err(Error::failed(format!("`{cap}` in config.json is {value}; llama.cpp has none here")));
        }
    }
    Ok(())
}

/// Every how many layers one reaches everything.
fn period(export: &Export<'_>) -> Result<usize> {
    let Some(types) = export.get(&["layer_types"]).and_then(Value::as_array) else {
        let named = export.get(&["sliding_window_pattern", "_sliding_window_pattern"]).and_then(Value::as_u64);
        return Ok(named.map_or(if export.arch == "gemma2" { 2 } else { 6 }, |n| n as usize));
    };
    let full: Vec<bool> = types.iter().map(|t| t == "full_attention").collect();
    let period = full.iter().position(|full| *full).map_or(full.len() + 1, |first| first + 1);
    let regular = full.iter().enumerate().all(|(i, full)| *full == ((i + 1) % period == 0));
    if regular { Ok(period) } else { Err(Error::failed("`layer_types` in config.json have no period")) }
}

fn read_common(file: &mut Described<'_>, period: usize) -> Result<()> {
    llama::read_heads(file)?;
    let layers = file.size("block_count")?.unwrap_or(0).min(1 << 16);
    let kind = |i: usize| if (i + 1).is_multiple_of(period.max(1)) { "full_attention" } else { "sliding_attention" };
    file.set("layer_types", json!((0..layers).map(kind).collect::<Vec<_>>()));
    let heads = super::settings::heads(file.metadata, file.arch)?.queries;
    let width = file.size("embedding_length")?.unwrap_or(0) / heads.max(1);
    let scalar = if LARGE.contains(&layers) { json!(width) } else { file.config["head_dim"].clone() };
    file.set("query_pre_attn_scalar", scalar);
    Ok(())
}

fn read2(file: &mut Described<'_>) -> Result<()> {
    read_common(file, 2)?;
    for (name, default) in [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)] {
        let cap = file.number(name)?.unwrap_or(default);
        file.set(name, if cap >= 1e6 { Value::Null } else { plain(cap) });
    }
    Ok(())
}

fn read3(file: &mut Described<'_>) -> Result<()> {
    let period = file.size("attention.sliding_window_pattern")?.unwrap_or(6);
    read_common(file, period)?;
    file.set("attn_logit_softcapping", Value::Null);
    file.set("final_logit_softcapping", Value::Null);
    let theta = file.number("rope.freq_base_swa")?.unwrap_or(LOCAL_THETA);
    file.set("rope_local_base_freq", plain(theta));
    Ok(())
}
