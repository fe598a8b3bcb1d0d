//! ModernBERT: rotary positions with two bases, most layers with a window, gated feed-forward layers.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::settings::{Constant, Described, Export, count, fixed, number, plain};
use super::{Architecture, PLAIN, bert, same};

/// ModernBERT.
pub const MODERN_BERT: Architecture = Architecture {
    model_type: "modernbert",
    class: "ModernBertModel",
    name: "modern-bert",
    settings: &[&[
        count(&["max_position_embeddings"], "context_length"),
        count(&["hidden_size"], "embedding_length"),
        count(&["num_hidden_layers"], "block_count"),
        count(&["intermediate_size"], "feed_forward_length"),
        count(&["num_attention_heads"], "attention.head_count"),
        number(&["norm_eps"], "attention.layer_norm_epsilon"),
        count(&["local_attention"], "attention.sliding_window"),
    ]],
    fixed: &[
        fixed("hidden_activation", &[Constant::Text("gelu")]),
        fixed("attention_bias", &[Constant::Flag(false)]),
        fixed("mlp_bias", &[Constant::Flag(false)]),
        fixed("norm_bias", &[Constant::Flag(false)]),
    ],
    tensors: &[&[
        same("embeddings.tok_embeddings", "token_embd"),
        same("embeddings.norm", "token_embd_norm"),
        same("final_norm", "output_norm"),
        same("layers.{}.attn_norm", "blk.{}.attn_norm"),
        same("layers.{}.attn.Wqkv", "blk.{}.attn_qkv"),
        same("layers.{}.attn.Wo", "blk.{}.attn_output"),
        same("layers.{}.mlp_norm", "blk.{}.ffn_norm"),
        same("layers.{}.mlp.Wi", "blk.{}.ffn_up"),
        same("layers.{}.mlp.Wo", "blk.{}.ffn_down"),
    ]],
    write,
    read,
    left_out: &["head.", "decoder.", "classifier."],
    prefix: "model.",
    ..PLAIN
};

/// The base of one kind of layers.
fn theta(export: &Export<'_>, kind: &str, older: &str, default: f64) -> f64 {
    let section = export.get(&["rope_parameters"]).and_then(|all| all.get(kind));
    let said = section.and_then(|section| section.get("rope_theta")).or_else(|| export.get(&[older]));
    said.and_then(Value::as_f64).unwrap_or(default)
}

/// Every how many layers one sees all; the first does.
fn period(export: &Export<'_>) -> Result<usize> {
    let Some(types) = export.get(&["layer_types"]).and_then(Value::as_array) else {
        return export.size_or(&["global_attn_every_n_layers"], 3);
    };
    let full: Vec<bool> = types.iter().map(|t| t == "full_attention").collect();
    let period = full.iter().skip(1).position(|full| *full).map_or(full.len(), |next| next + 1).max(1);
    let regular = full.iter().enumerate().all(|(i, full)| *full == i.is_multiple_of(period));
    if regular {
        Ok(period)
    } else {
        Err(Error::failed("`layer_types` in config.json have no period from the first on"))
    }
}

fn write(export: &mut Export<'_>) -> Result<()> {
    let stretched = export
        .get(&["rope_parameters"])
        .and_then(Value::as_object)
        .is_some_and(|all| all.values().any(|section| section.get("rope_type").is_some_and(|kind| kind != "default")));
    if stretched {
        return Err(Error::failed("config.json asks for a rotary scaling, which llama.cpp lacks here"));
    }
    let period = period(export)?;
    export.set_size("attention.sliding_window_pattern", period)?;
    let (all, near) = (
        theta(export, "full_attention", "global_rope_theta", 160_000.0),
        theta(export, "sliding_attention", "local_rope_theta", 10_000.0),
    );
    export.set("rope.freq_base", all as f32);
    export.set("rope.freq_base_swa", near as f32);
    bert::write_encoder(export);
    Ok(())
}

fn read(file: &mut Described<'_>) -> Result<()> {
    let period = file.size("attention.sliding_window_pattern")?.unwrap_or(3).max(1);
    let layers = file.size("block_count")?.unwrap_or(0).min(1 << 16);
    let kind = |i: usize| if i.is_multiple_of(period) { "full_attention" } else { "sliding_attention" };
    file.set("layer_types", json!((0..layers).map(kind).collect::<Vec<_>>()));
    file.set("global_attn_every_n_layers", json!(period));
    // Both bases stand in `rope_parameters` in the end.
    let near = file.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
    file.set("rope_local_base_freq", plain(near));
    Ok(())
}
