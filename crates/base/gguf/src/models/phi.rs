//! Phi-3: queries, keys and values in one matrix, gate and up in another, both in llama.cpp's order already.

use cupola_artifact::Result;
use serde_json::{Value, json};

use super::settings::{Described, Export, SILU, count};
use super::{Architecture, PLAIN, llama, same};

/// Phi-3.
pub const PHI3: Architecture = Architecture {
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    name: "phi3",
    settings: &[
        llama::SETTINGS,
        &[count(
            &["original_max_position_embeddings", "max_position_embeddings"],
            "rope.scaling.original_context_length",
        )],
    ],
    fixed: &[SILU],
    tensors: &[&[
        same("model.embed_tokens", "token_embd"),
        same("model.norm", "output_norm"),
        same("lm_head", "output"),
        same("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
        same("model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv"),
        same("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
        same("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
        same("model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"),
        same("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    ]],
    write,
    read,
    ..PLAIN
};

fn write(export: &mut Export<'_>) -> Result<()> {
    llama::write_windowed(export)?;
    // 0 says that there is no window, and that this is meant.
    export.set("attention.sliding_window", 0u32);
    Ok(())
}

fn read(file: &mut Described<'_>) -> Result<()> {
    llama::read_heads(file)?;
    let window = file.size("attention.sliding_window")?.filter(|window| *window > 0);
    file.set("sliding_window", window.map_or(Value::Null, |window| json!(window)));
    Ok(())
}
