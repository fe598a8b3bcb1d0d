//! GPT-2: learned positions, matrices on their side.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::settings::{Constant, Described, Export, count, fixed, number};
use super::{Architecture, PLAIN, same, transposed};

/// GPT-2.
pub const GPT2: Architecture = Architecture {
    model_type: "gpt2",
    class: "GPT2LMHeadModel",
    name: "gpt2",
    settings: &[&[
        count(&["n_positions", "n_ctx"], "context_length"),
        count(&["n_embd"], "embedding_length"),
        count(&["n_layer"], "block_count"),
        count(&["n_head"], "attention.head_count"),
        number(&["layer_norm_epsilon"], "attention.layer_norm_epsilon"),
    ]],
    fixed: &[
        fixed("activation_function", &[Constant::Text("gelu_new"), Constant::Text("gelu_pytorch_tanh")]),
        fixed("scale_attn_by_inverse_layer_idx", &[Constant::Flag(false)]),
        fixed("scale_attn_weights", &[Constant::Flag(true)]),
        fixed("reorder_and_upcast_attn", &[Constant::Flag(false)]),
        fixed("add_cross_attention", &[Constant::Flag(false)]),
    ],
    tensors: &[&[
        same("transformer.wte", "token_embd"),
        same("transformer.wpe", "position_embd"),
        same("transformer.ln_f", "output_norm"),
        same("lm_head", "output"),
        same("transformer.h.{}.ln_1", "blk.{}.attn_norm"),
        transposed("transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv"),
        transposed("transformer.h.{}.attn.c_proj", "blk.{}.attn_output"),
        same("transformer.h.{}.ln_2", "blk.{}.ffn_norm"),
        transposed("transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up"),
        transposed("transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down"),
    ]],
    write,
    read,
    ..PLAIN
};

fn write(export: &mut Export<'_>) -> Result<()> {
    let inner = match export.get(&["n_inner"]) {
        Some(_) => export.size(&["n_inner"])?,
        None => 4 * export.size(&["n_embd"])?,
    };
    let inner = u32::try_from(inner).map_err(|_| Error::failed(format!("`n_inner` in config.json is {inner}")))?;
    export.set("feed_forward_length", inner);
    Ok(())
}

fn read(file: &mut Described<'_>) -> Result<()> {
    let inner = file.size("feed_forward_length")?;
    file.set("n_inner", inner.map_or(Value::Null, |inner| json!(inner)));
    Ok(())
}
