//! Qwen 2 and 3, dense and with experts.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::settings::{Constant, Described, Export, SILU, Setting, count, fixed, number};
use super::{Architecture, Tensor, llama, same, stacked};

const SETTINGS: &[Setting] = &[
    count(&["max_position_embeddings"], "context_length"),
    count(&["hidden_size"], "embedding_length"),
    count(&["num_hidden_layers"], "block_count"),
    count(&["intermediate_size"], "feed_forward_length"),
    count(&["num_attention_heads"], "attention.head_count"),
    number(&["rms_norm_eps"], "attention.layer_norm_rms_epsilon"),
];

const TENSORS: &[Tensor] = &[
    same("model.embed_tokens", "token_embd"),
    same("model.norm", "output_norm"),
    same("lm_head", "output"),
    same("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    same("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    same("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    same("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    same("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    same("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    same("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
    same("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    same("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    same("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    same("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    same("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
    stacked("model.layers.{}.mlp.experts.{}.gate_proj", "blk.{}.ffn_gate_exps"),
    stacked("model.layers.{}.mlp.experts.{}.up_proj", "blk.{}.ffn_up_exps"),
    stacked("model.layers.{}.mlp.experts.{}.down_proj", "blk.{}.ffn_down_exps"),
];

/// Qwen 2 and 2.5.
pub const QWEN2: Architecture = Architecture {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    name: "qwen2",
    settings: SETTINGS,
    fixed: &[SILU],
    tensors: TENSORS,
    write,
    read,
};

/// Qwen 3.
pub const QWEN3: Architecture = Architecture {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    name: "qwen3",
    fixed: &[SILU, fixed("attention_bias", &[Constant::Flag(false)])],
    ..QWEN2
};

/// Qwen 3 with experts in every layer.
pub const QWEN3_MOE: Architecture = Architecture {
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    name: "qwen3moe",
    settings: &[
        count(&["max_position_embeddings"], "context_length"),
        count(&["hidden_size"], "embedding_length"),
        count(&["num_hidden_layers"], "block_count"),
        count(&["intermediate_size"], "feed_forward_length"),
        count(&["num_attention_heads"], "attention.head_count"),
        number(&["rms_norm_eps"], "attention.layer_norm_rms_epsilon"),
        count(&["num_experts", "num_local_experts"], "expert_count"),
        count(&["num_experts_per_tok"], "expert_used_count"),
        count(&["moe_intermediate_size"], "expert_feed_forward_length"),
    ],
    fixed: &[SILU, fixed("attention_bias", &[Constant::Flag(false)]), fixed("norm_topk_prob", &[Constant::Flag(true)])],
    tensors: TENSORS,
    write: write_experts,
    read: read_experts,
};

fn write(export: &mut Export<'_>) -> Result<()> {
    llama::write(export)?;
    let windowed = export.get(&["use_sliding_window"]) == Some(&Value::Bool(true));
    let window = export.get(&["sliding_window"]).and_then(Value::as_u64).filter(|_| windowed).map(|w| w as usize);
    export.limit_context(window)
}

fn write_experts(export: &mut Export<'_>) -> Result<()> {
    let dense = export.get(&["mlp_only_layers"]).and_then(Value::as_array).is_some_and(|layers| !layers.is_empty());
    let step = export.get(&["decoder_sparse_step"]).and_then(Value::as_u64).unwrap_or(1);
    if dense || step != 1 {
        return Err(Error::failed("config.json has layers without experts among those with them")
            .with_hint("llama.cpp wants experts in every layer of this architecture"));
    }
    write(export)
}

fn read(file: &mut Described<'_>) -> Result<()> {
    llama::read_heads(file)?;
    file.set("use_sliding_window", json!(false));
    file.set("sliding_window", Value::Null);
    Ok(())
}

fn read_experts(file: &mut Described<'_>) -> Result<()> {
    read(file)?;
    file.set("decoder_sparse_step", json!(1));
    file.set("mlp_only_layers", json!([]));
    // The name that transformers 5 writes.
    let experts = file.config["num_experts"].clone();
    file.set("num_local_experts", experts);
    Ok(())
}
