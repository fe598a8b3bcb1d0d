//! DeepSeek-V3: keys and values of latents, experts in groups, shared ones beside them.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::change::Change;
use super::settings::{Constant, Described, Export, SILU, Setting, count, fixed, number};
use super::{Architecture, PLAIN, changed, llama, qwen, rope, same, whole};

const SETTINGS: &[Setting] = &[
    count(&["kv_lora_rank"], "attention.kv_lora_rank"),
    count(&["qk_rope_head_dim"], "rope.dimension_count"),
    count(&["v_head_dim"], "attention.value_length_mla"),
    count(&["n_routed_experts"], "expert_count"),
    count(&["num_experts_per_tok"], "expert_used_count"),
    count(&["moe_intermediate_size"], "expert_feed_forward_length"),
    number(&["routed_scaling_factor"], "expert_weights_scale"),
];

/// What llama.cpp calls scores by the sigmoid.
const SIGMOID: u32 = 2;

/// DeepSeek-V3.
pub const DEEPSEEK_V3: Architecture = Architecture {
    model_type: "deepseek_v3",
    class: "DeepseekV3ForCausalLM",
    name: "deepseek2",
    settings: &[llama::SETTINGS, SETTINGS],
    fixed: &[
        SILU,
        fixed("attention_bias", &[Constant::Flag(false)]),
        fixed("rope_interleave", &[Constant::Flag(true)]),
        fixed("scoring_func", &[Constant::Text("sigmoid")]),
        fixed("topk_method", &[Constant::Text("noaux_tc")]),
        fixed("moe_layer_freq", &[Constant::Count(1)]),
    ],
    tensors: &[
        llama::OUTER,
        llama::GATED,
        qwen::MIXTURE,
        &[
            same("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
            same("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
            same("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
            same("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
            same("model.layers.{}.self_attn.q_a_proj", "blk.{}.attn_q_a"),
            same("model.layers.{}.self_attn.q_a_layernorm", "blk.{}.attn_q_a_norm"),
            same("model.layers.{}.self_attn.q_b_proj", "blk.{}.attn_q_b"),
            same("model.layers.{}.self_attn.kv_a_proj_with_mqa", "blk.{}.attn_kv_a_mqa"),
            same("model.layers.{}.self_attn.kv_a_layernorm", "blk.{}.attn_kv_a_norm"),
            changed("model.layers.{}.self_attn.kv_b_proj", "blk.{}.attn_k_b", Change::LatentKeys),
            changed("model.layers.{}.self_attn.kv_b_proj", "blk.{}.attn_v_b", Change::LatentValues),
            same("model.layers.{}.mlp.shared_experts.gate_proj", "blk.{}.ffn_gate_shexp"),
            same("model.layers.{}.mlp.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
            same("model.layers.{}.mlp.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
            whole("model.layers.{}.mlp.gate.e_score_correction_bias", "blk.{}.exp_probs_b.bias", Change::Same),
        ],
    ],
    write,
    read,
    marks: &["blk.0.attn_k_b.weight"],
    ..PLAIN
};

fn write(export: &mut Export<'_>) -> Result<()> {
    let norm = export.get(&["rms_norm_eps"]).and_then(Value::as_f64);
    if norm != Some(1e-6) {
        return Err(Error::failed("`rms_norm_eps` in config.json is not 1e-6")
            .with_hint("the norms of the latents have that one, and llama.cpp one for all"));
    }
    let rotated = export.size(&["qk_rope_head_dim"])?;
    let rank = export.size(&["kv_lora_rank"])?;
    let plain = export.size(&["qk_nope_head_dim"])?;
    // Keys and values are latents, which all heads share.
    export.set("attention.head_count_kv", 1u32);
    export.set_size("attention.key_length", rank + rotated)?;
    export.set_size("attention.value_length", rank)?;
    export.set_size("attention.key_length_mla", plain + rotated)?;
    if export.get(&["q_lora_rank"]).is_some() {
        let rank = export.size(&["q_lora_rank"])?;
        export.set_size("attention.q_lora_rank", rank)?;
    }
    let number = |name: &str, default: u64| export.get(&[name]).and_then(Value::as_u64).unwrap_or(default) as usize;
    let (shared, dense) = (number("n_shared_experts", 1), number("first_k_dense_replace", 3));
    let groups = [number("n_group", 8), number("topk_group", 4)];
    export.set_size("expert_shared_count", shared)?;
    export.set_size("leading_dense_block_count", dense)?;
    export.set_size("expert_group_count", groups[0])?;
    export.set_size("expert_group_used_count", groups[1])?;
    let normalizes = export.get(&["norm_topk_prob"]) != Some(&Value::Bool(false));
    export.set("expert_weights_norm", normalizes);
    export.set("expert_gating_func", SIGMOID);
    if shared == 0 {
        return Err(Error::failed("`n_shared_experts` in config.json is 0; llama.cpp wants shared experts here"));
    }
    rope::write(export, rotated)
}

fn read(file: &mut Described<'_>) -> Result<()> {
    if file.size("expert_gating_func")? != Some(SIGMOID as usize) {
        return Err(Error::failed("the file is a DeepSeek-V2, which this build does not know")
            .with_hint("known is DeepSeek-V3, whose experts are scored by the sigmoid"));
    }
    let required = |key: &str| file.metadata.required(&file.key(key), file.size(key)?);
    let rotated = required("rope.dimension_count")?;
    let key = required("attention.key_length_mla")?;
    let heads = required("attention.head_count")?;
    let ranks = file.size("attention.q_lora_rank")?;
    let sizes = [
        ("qk_nope_head_dim", key.saturating_sub(rotated)),
        ("qk_head_dim", key),
        ("num_key_value_heads", heads),
        ("n_shared_experts", file.size("expert_shared_count")?.unwrap_or(1)),
        ("first_k_dense_replace", file.size("leading_dense_block_count")?.unwrap_or(0)),
        ("n_group", file.size("expert_group_count")?.unwrap_or(1)),
        ("topk_group", file.size("expert_group_used_count")?.unwrap_or(1)),
    ];
    let normalizes = file.metadata.flag(&file.key("expert_weights_norm"))?.unwrap_or(true);
    sizes.into_iter().for_each(|(name, size)| file.set(name, json!(size)));
    file.set("q_lora_rank", json!(ranks));
    file.set("norm_topk_prob", json!(normalizes));
    file.rotated = Some(rotated);
    Ok(())
}
