//! Llama, and Mistral and Mixtral, which llama.cpp takes for Llamas.

use cupola_artifact::Result;
use serde_json::json;

use super::rows::Rows;
use super::settings::{Described, Export, SILU, Setting, count, number};
use super::{Architecture, PLAIN, Tensor, rope, rows, same, stacked};

/// The settings of Llama and most that came after.
pub const SETTINGS: &[Setting] = &[
    count(&["max_position_embeddings"], "context_length"),
    count(&["hidden_size"], "embedding_length"),
    count(&["num_hidden_layers"], "block_count"),
    count(&["intermediate_size"], "feed_forward_length"),
    count(&["num_attention_heads"], "attention.head_count"),
    number(&["rms_norm_eps"], "attention.layer_norm_rms_epsilon"),
];

/// The numbers of experts.
const EXPERTS: &[Setting] =
    &[count(&["num_local_experts"], "expert_count"), count(&["num_experts_per_tok"], "expert_used_count")];

/// The tensors around the layers.
pub const OUTER: &[Tensor] =
    &[same("model.embed_tokens", "token_embd"), same("model.norm", "output_norm"), same("lm_head", "output")];

/// Norms, values and what attention gives.
pub const INNER: &[Tensor] = &[
    same("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    same("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    same("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    same("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
];

/// The gated feed-forward layers.
pub const GATED: &[Tensor] = &[
    same("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    same("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    same("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

/// Queries and keys, whose pairs are neighbours here.
const PAIRED: &[Tensor] = &[
    rows("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q", Rows::PairedQueries),
    rows("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k", Rows::PairedKeys),
];

/// Mixtral's experts.
const MIXTURE: &[Tensor] = &[
    same("model.layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp"),
    stacked("model.layers.{}.block_sparse_moe.experts.{}.w1", "blk.{}.ffn_gate_exps"),
    stacked("model.layers.{}.block_sparse_moe.experts.{}.w3", "blk.{}.ffn_up_exps"),
    stacked("model.layers.{}.block_sparse_moe.experts.{}.w2", "blk.{}.ffn_down_exps"),
];

/// Llama 1 to 3.
pub const LLAMA: Architecture = Architecture {
    model_type: "llama",
    class: "LlamaForCausalLM",
    name: "llama",
    settings: &[SETTINGS],
    fixed: &[SILU],
    tensors: &[OUTER, PAIRED, INNER, GATED],
    write,
    read,
    ..PLAIN
};

/// Mistral: a window, which llama.cpp leaves out here, so that contexts end where it would begin to matter.
pub const MISTRAL: Architecture =
    Architecture { model_type: "mistral", class: "MistralForCausalLM", write: write_windowed, ..LLAMA };

/// Mixtral: experts instead of feed-forward layers.
pub const MIXTRAL: Architecture = Architecture {
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    settings: &[SETTINGS, EXPERTS],
    tensors: &[OUTER, PAIRED, INNER, MIXTURE],
    write: write_windowed,
    ..LLAMA
};

/// Heads, their width, and rotary positions, as all that resemble Llama have them.
pub fn write(export: &mut Export<'_>) -> Result<()> {
    let heads = export.size(&["num_attention_heads"])?;
    let keys =
        if export.get(&["num_key_value_heads"]).is_some() { export.size(&["num_key_value_heads"])? } else { heads };
    let d_head = match export.get(&["head_dim"]) {
        Some(_) => export.size(&["head_dim"])?,
        None => export.size(&["hidden_size"])? / heads,
    };
    export.set("attention.head_count_kv", keys as u32);
    export.set("attention.key_length", d_head as u32);
    export.set("attention.value_length", d_head as u32);
    rope::write(export, d_head)
}

/// As [`write`], with contexts no longer than the window.
pub fn write_windowed(export: &mut Export<'_>) -> Result<()> {
    write(export)?;
    let window = export.get(&["sliding_window"]).and_then(|w| w.as_u64()).map(|w| w as usize);
    export.limit_context(window)
}

fn read(file: &mut Described<'_>) -> Result<()> {
    read_heads(file)?;
    file.set("attention_bias", json!((file.has)("blk.0.attn_q.bias")));
    file.set("mlp_bias", json!((file.has)("blk.0.ffn_up.bias")));
    Ok(())
}

/// Heads and their width; rotary positions are read for all architectures alike.
pub fn read_heads(file: &mut Described<'_>) -> Result<()> {
    let heads = super::settings::heads(file.metadata, file.arch)?;
    file.set("num_key_value_heads", json!(heads.keys));
    let width = file.size("embedding_length")?.unwrap_or(0) / heads.queries.max(1);
    let d_head = file.size("attention.key_length")?.or(file.size("rope.dimension_count")?).unwrap_or(width);
    file.set("head_dim", json!(d_head));
    Ok(())
}
