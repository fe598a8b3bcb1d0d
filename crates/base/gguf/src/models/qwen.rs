//! Qwen 2 and 3, dense and with experts.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::settings::{Constant, Described, Export, SILU, count, fixed};
use super::{Architecture, PLAIN, Tensor, llama, same, stacked};

/// Queries and keys in the order that transformers has them.
const UNPAIRED: &[Tensor] = &[
    same("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    same("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
];

const NORMS: &[Tensor] = &[
    same("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    same("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
];

/// A router and its experts.
pub const MIXTURE: &[Tensor] = &[
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
    settings: &[llama::SETTINGS],
    fixed: &[SILU],
    tensors: &[llama::OUTER, UNPAIRED, llama::INNER, llama::GATED],
    write,
    read,
    ..PLAIN
};

/// Qwen 3.
pub const QWEN3: Architecture = Architecture {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    name: "qwen3",
    fixed: &[SILU, fixed("attention_bias", &[Constant::Flag(false)])],
    tensors: &[llama::OUTER, UNPAIRED, NORMS, llama::INNER, llama::GATED],
    ..QWEN2
};

/// Qwen 3 with experts in every layer.
pub const QWEN3_MOE: Architecture = Architecture {
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    name: "qwen3moe",
    settings: &[
        llama::SETTINGS,
        &[
            count(&["num_experts", "num_local_experts"], "expert_count"),
            count(&["num_experts_per_tok"], "expert_used_count"),
            count(&["moe_intermediate_size"], "expert_feed_forward_length"),
        ],
    ],
    fixed: &[SILU, fixed("attention_bias", &[Constant::Flag(false)]), fixed("norm_topk_prob", &[Constant::Flag(true)])],
    tensors: &[llama::OUTER, UNPAIRED, NORMS, llama::INNER, MIXTURE],
    write: write_experts,
    read: read_experts,
    ..PLAIN
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
