//! BLOOM: positions by slopes (ALiBi), a norm after the embedding.

use cupola_artifact::{Error, Result};
use serde_json::Value;

use super::rows::Rows;
use super::settings::{Constant, Described, Export, count, fixed, number};
use super::{Architecture, PLAIN, rows, same};

/// The longest sequence where `config.json` says none; slopes know no end.
const CONTEXT: u32 = 2048;

/// BLOOM.
pub const BLOOM: Architecture = Architecture {
    model_type: "bloom",
    class: "BloomForCausalLM",
    name: "bloom",
    settings: &[&[
        count(&["hidden_size", "n_embed"], "embedding_length"),
        count(&["n_layer", "num_hidden_layers"], "block_count"),
        count(&["n_head", "num_attention_heads"], "attention.head_count"),
        number(&["layer_norm_epsilon"], "attention.layer_norm_epsilon"),
    ]],
    fixed: &[fixed("apply_residual_connection_post_layernorm", &[Constant::Flag(false)])],
    tensors: &[&[
        same("transformer.word_embeddings", "token_embd"),
        same("transformer.word_embeddings_layernorm", "token_embd_norm"),
        same("transformer.ln_f", "output_norm"),
        same("lm_head", "output"),
        same("transformer.h.{}.input_layernorm", "blk.{}.attn_norm"),
        rows("transformer.h.{}.self_attention.query_key_value", "blk.{}.attn_qkv", Rows::Grouped),
        same("transformer.h.{}.self_attention.dense", "blk.{}.attn_output"),
        same("transformer.h.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
        same("transformer.h.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"),
        same("transformer.h.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"),
    ]],
    write,
    read,
    ..PLAIN
};

fn write(export: &mut Export<'_>) -> Result<()> {
    let (width, heads) = (export.size(&["hidden_size", "n_embed"])?, export.heads()?.queries);
    let inner =
        u32::try_from(4 * width).map_err(|_| Error::failed(format!("`hidden_size` in config.json is {width}")))?;
    let context = export.get(&["seq_length"]).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    export.set("context_length", context.unwrap_or(CONTEXT));
    export.set("feed_forward_length", inner);
    export.set("attention.head_count_kv", heads as u32);
    Ok(())
}

fn read(_: &mut Described<'_>) -> Result<()> {
    Ok(())
}
