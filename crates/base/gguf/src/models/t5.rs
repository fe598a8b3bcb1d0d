//! T5, its version 1.1, FLAN-T5 and mT5.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::change::Change;
use super::settings::{Constant, Described, Export, count, fixed, number};
use super::{Architecture, PLAIN, changed, same};

/// The context where `config.json` says none; relative positions know no end.
const CONTEXT: usize = 512;
/// The tensors by which gated feed-forward layers are known.
const GATE: &str = "enc.blk.0.ffn_gate.weight";

/// T5.
pub const T5: Architecture = Architecture {
    model_type: "t5",
    class: "T5ForConditionalGeneration",
    name: "t5",
    settings: &[&[
        count(&["d_model"], "embedding_length"),
        count(&["num_layers"], "block_count"),
        count(&["d_ff"], "feed_forward_length"),
        count(&["num_heads"], "attention.head_count"),
        count(&["d_kv"], "attention.key_length"),
        number(&["layer_norm_epsilon"], "attention.layer_norm_rms_epsilon"),
    ]],
    fixed: &[
        fixed("relative_attention_max_distance", &[Constant::Count(128)]),
        fixed("is_encoder_decoder", &[Constant::Flag(true)]),
        fixed("is_decoder", &[Constant::Flag(false)]),
    ],
    tensors: &[&[
        same("shared", "token_embd"),
        same("lm_head", "output"),
        changed("shared", "output", Change::Scaled),
        same("encoder.final_layer_norm", "enc.output_norm"),
        same("decoder.final_layer_norm", "dec.output_norm"),
        same("encoder.block.{}.layer.0.layer_norm", "enc.blk.{}.attn_norm"),
        same("encoder.block.{}.layer.0.SelfAttention.q", "enc.blk.{}.attn_q"),
        same("encoder.block.{}.layer.0.SelfAttention.k", "enc.blk.{}.attn_k"),
        same("encoder.block.{}.layer.0.SelfAttention.v", "enc.blk.{}.attn_v"),
        same("encoder.block.{}.layer.0.SelfAttention.o", "enc.blk.{}.attn_o"),
        same("encoder.block.{}.layer.0.SelfAttention.relative_attention_bias", "enc.blk.{}.attn_rel_b"),
        same("encoder.block.{}.layer.1.layer_norm", "enc.blk.{}.ffn_norm"),
        same("encoder.block.{}.layer.1.DenseReluDense.wi_0", "enc.blk.{}.ffn_gate"),
        same("encoder.block.{}.layer.1.DenseReluDense.wi_1", "enc.blk.{}.ffn_up").with(GATE),
        same("encoder.block.{}.layer.1.DenseReluDense.wi", "enc.blk.{}.ffn_up").without(GATE),
        same("encoder.block.{}.layer.1.DenseReluDense.wo", "enc.blk.{}.ffn_down"),
        same("decoder.block.{}.layer.0.layer_norm", "dec.blk.{}.attn_norm"),
        same("decoder.block.{}.layer.0.SelfAttention.q", "dec.blk.{}.attn_q"),
        same("decoder.block.{}.layer.0.SelfAttention.k", "dec.blk.{}.attn_k"),
        same("decoder.block.{}.layer.0.SelfAttention.v", "dec.blk.{}.attn_v"),
        same("decoder.block.{}.layer.0.SelfAttention.o", "dec.blk.{}.attn_o"),
        same("decoder.block.{}.layer.0.SelfAttention.relative_attention_bias", "dec.blk.{}.attn_rel_b"),
        same("decoder.block.{}.layer.1.layer_norm", "dec.blk.{}.cross_attn_norm"),
        same("decoder.block.{}.layer.1.EncDecAttention.q", "dec.blk.{}.cross_attn_q"),
        same("decoder.block.{}.layer.1.EncDecAttention.k", "dec.blk.{}.cross_attn_k"),
        same("decoder.block.{}.layer.1.EncDecAttention.v", "dec.blk.{}.cross_attn_v"),
        same("decoder.block.{}.layer.1.EncDecAttention.o", "dec.blk.{}.cross_attn_o"),
        same("decoder.block.{}.layer.1.EncDecAttention.relative_attention_bias", "dec.blk.{}.cross_attn_rel_b"),
        same("decoder.block.{}.layer.2.layer_norm", "dec.blk.{}.ffn_norm"),
        same("decoder.block.{}.layer.2.DenseReluDense.wi_0", "dec.blk.{}.ffn_gate"),
        same("decoder.block.{}.layer.2.DenseReluDense.wi_1", "dec.blk.{}.ffn_up").with(GATE),
        same("decoder.block.{}.layer.2.DenseReluDense.wi", "dec.blk.{}.ffn_up").without(GATE),
        same("decoder.block.{}.layer.2.DenseReluDense.wo", "dec.blk.{}.ffn_down"),
    ]],
    write,
    read,
    // In old files, the embedding twice more.
    left_out: &["encoder.embed_tokens.", "decoder.embed_tokens."],
    ..PLAIN
};

/// mT5, whose outputs are never scaled.
pub const MT5: Architecture = Architecture { model_type: "mt5", class: "MT5ForConditionalGeneration", ..T5 };

fn write(export: &mut Export<'_>) -> Result<()> {
    let said = export.get(&["feed_forward_proj"]).and_then(Value::as_str);
    let proj =
        said.unwrap_or(if export.get(&["model_type"]).is_some_and(|t| t == "mt5") { "gated-gelu" } else { "relu" });
    if !["relu", "gated-gelu"].contains(&proj) {
        return Err(Error::failed(format!("`feed_forward_proj` in config.json is {proj}"))
            .with_hint("llama.cpp has relu and gated-gelu here"));
    }
    let layers = export.size(&["num_layers"])?;
    let below = export.size_or(&["num_decoder_layers"], layers)?;
    let buckets = export.size_or(&["relative_attention_num_buckets"], 32)?;
    let context = export.size_or(&["n_positions"], CONTEXT)?;
    let values = export.size(&["d_kv"])?;
    let start = export.get(&["decoder_start_token_id", "pad_token_id"]).and_then(Value::as_u64).unwrap_or(0);
    for (key, size) in [
        ("context_length", context),
        ("decoder_block_count", below),
        ("attention.relative_buckets_count", buckets),
        ("attention.value_length", values),
        ("decoder_start_token_id", start as usize),
    ] {
        export.set_size(key, size)?;
    }
    Ok(())
}

fn read(file: &mut Described<'_>) -> Result<()> {
    let gated = (file.has)(GATE);
    let layers = file.size("block_count")?.unwrap_or(0);
    let (below, buckets) = (file.size("decoder_block_count")?, file.size("attention.relative_buckets_count")?);
    let start = file.metadata.token(&file.key("decoder_start_token_id"))?.unwrap_or(0);
    let context = file.size("context_length")?.unwrap_or(CONTEXT);
    for (name, value) in [
        ("num_decoder_layers", json!(below.unwrap_or(layers))),
        ("relative_attention_num_buckets", json!(buckets.unwrap_or(32))),
        ("decoder_start_token_id", json!(start)),
        ("n_positions", json!(context)),
        ("feed_forward_proj", json!(if gated { "gated-gelu" } else { "relu" })),
        ("is_gated_act", json!(gated)),
        ("dense_act_fn", json!(if gated { "gelu_new" } else { "relu" })),
        // The output layer has the scale in it.
        ("scale_decoder_outputs", json!(false)),
    ] {
        file.set(name, value);
    }
    Ok(())
}
