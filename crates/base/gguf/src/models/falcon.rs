//! Falcon with rotary positions; attention and feed-forward side by side, behind one norm or one each.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::rows::Rows;
use super::settings::{Constant, Described, Export, count, fixed, number};
use super::{Architecture, PLAIN, rope, rows, same};

/// The tensor by which blocks with two norms are known.
const SECOND_NORM: &str = "blk.0.attn_norm_2.weight";

/// Falcon.
pub const FALCON: Architecture = Architecture {
    model_type: "falcon",
    class: "FalconForCausalLM",
    name: "falcon",
    settings: &[&[
        count(&["hidden_size"], "embedding_length"),
        count(&["num_hidden_layers", "n_layer"], "block_count"),
        count(&["num_attention_heads", "n_head"], "attention.head_count"),
        number(&["layer_norm_epsilon"], "attention.layer_norm_epsilon"),
    ]],
    fixed: &[
        fixed("alibi", &[Constant::Flag(false)]),
        fixed("bias", &[Constant::Flag(false)]),
        fixed("activation", &[Constant::Text("gelu")]),
    ],
    tensors: &[&[
        same("transformer.word_embeddings", "token_embd"),
        same("transformer.ln_f", "output_norm"),
        same("lm_head", "output"),
        same("transformer.h.{}.input_layernorm", "blk.{}.attn_norm").without(SECOND_NORM),
        same("transformer.h.{}.ln_mlp", "blk.{}.attn_norm").with(SECOND_NORM),
        same("transformer.h.{}.ln_attn", "blk.{}.attn_norm_2"),
        rows("transformer.h.{}.self_attention.query_key_value", "blk.{}.attn_qkv", Rows::Grouped),
        same("transformer.h.{}.self_attention.dense", "blk.{}.attn_output"),
        same("transformer.h.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"),
        same("transformer.h.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"),
    ]],
    write,
    read,
    ..PLAIN
};

fn write(export: &mut Export<'_>) -> Result<()> {
    let is = |name: &str| export.get(&[name]) == Some(&Value::Bool(true));
    let new = is("new_decoder_architecture");
    if !new && export.get(&["parallel_attn"]) == Some(&Value::Bool(false)) {
        return Err(Error::failed("`parallel_attn` in config.json is false")
            .with_hint("llama.cpp has attention and feed-forward layer side by side here"));
    }
    let heads = export.heads()?.queries;
    let width = export.size(&["hidden_size"])?;
    let inner = match export.get(&["ffn_hidden_size"]) {
        Some(_) => export.size(&["ffn_hidden_size"])?,
        None => 4 * width,
    };
    let context = export.get(&["max_position_embeddings"]).and_then(Value::as_u64).unwrap_or(2048);
    let small = |n: u64| u32::try_from(n).map_err(|_| Error::failed(format!("config.json has the size {n}")));
    let (context, inner) = (small(context)?, small(inner as u64)?);
    export.set("context_length", context);
    export.set("feed_forward_length", inner);
    let keys = match new {
        true => export.size_or(&["num_kv_heads"], heads)?,
        // Absent means one head of keys.
        false if export.get(&["multi_query"]) == Some(&Value::Bool(false)) => heads,
        false => 1,
    };
    export.set_size("attention.head_count_kv", keys)?;
    export.set("tensor_data_layout", "jploski");
    rope::write(export, width / heads)
}

fn read(file: &mut Described<'_>) -> Result<()> {
    let heads = super::settings::heads(file.metadata, file.arch)?;
    let two = (file.has)(SECOND_NORM);
    let new = two || (heads.keys != 1 && heads.keys != heads.queries);
    let context = file.size("context_length")?.unwrap_or(2048);
    let inner = file.size("feed_forward_length")?;
    for (name, value) in [
        ("multi_query", json!(heads.keys == 1)),
        ("num_kv_heads", json!(if new { heads.keys } else { heads.queries })),
        ("parallel_attn", json!(true)),
        ("new_decoder_architecture", json!(new)),
        ("num_ln_in_parallel_attn", if new { json!(if two { 2 } else { 1 }) } else { Value::Null }),
        ("max_position_embeddings", json!(context)),
    ] {
        file.set(name, value);
    }
    inner.into_iter().for_each(|inner| file.set("ffn_hidden_size", json!(inner)));
    Ok(())
}
