//! GPT-NeoX and Pythia: queries, keys and values head by head, part of each head rotated.

use cupola_artifact::Result;

use super::rows::Rows;
use super::settings::{Constant, Described, Export, count, fixed, flag, number};
use super::{Architecture, PLAIN, rope, rows, same};

/// GPT-NeoX.
pub const GPT_NEOX: Architecture = Architecture {
    model_type: "gpt_neox",
    class: "GPTNeoXForCausalLM",
    name: "gptneox",
    settings: &[&[
        count(&["max_position_embeddings"], "context_length"),
        count(&["hidden_size"], "embedding_length"),
        count(&["num_hidden_layers"], "block_count"),
        count(&["intermediate_size"], "feed_forward_length"),
        count(&["num_attention_heads"], "attention.head_count"),
        number(&["layer_norm_eps"], "attention.layer_norm_epsilon"),
        flag(&["use_parallel_residual"], "use_parallel_residual", true),
    ]],
    fixed: &[
        // llama.cpp has one for both, which differs from the exact one by less than 0.001.
        fixed("hidden_act", &[Constant::Text("gelu"), Constant::Text("gelu_new"), Constant::Text("gelu_fast")]),
        fixed("attention_bias", &[Constant::Flag(true)]),
    ],
    tensors: &[&[
        same("gpt_neox.embed_in", "token_embd"),
        same("gpt_neox.final_layer_norm", "output_norm"),
        same("embed_out", "output"),
        same("gpt_neox.layers.{}.input_layernorm", "blk.{}.attn_norm"),
        rows("gpt_neox.layers.{}.attention.query_key_value", "blk.{}.attn_qkv", Rows::Grouped),
        same("gpt_neox.layers.{}.attention.dense", "blk.{}.attn_output"),
        same("gpt_neox.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
        same("gpt_neox.layers.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"),
        same("gpt_neox.layers.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"),
    ]],
    write,
    read,
    ..PLAIN
};

fn write(export: &mut Export<'_>) -> Result<()> {
    let d_head = export.size(&["hidden_size"])? / export.size(&["num_attention_heads"])?;
    // An older name, with an older default.
    let mut config = export.config.clone();
    if let Some(part) = config.remove("rotary_pct") {
        config.entry("partial_rotary_factor").or_insert(part);
    }
    if let Some(theta) = config.remove("rotary_emb_base") {
        config.entry("rope_theta").or_insert(theta);
    }
    if rope::parameters(&config, "full_attention").get("partial_rotary_factor").is_none() {
        config.insert("partial_rotary_factor".into(), 0.25.into());
    }
    let mut named =
        Export { config: &config, arch: export.arch, metadata: export.metadata.clone(), made: Vec::new(), unused: 0 };
    rope::write(&mut named, d_head)?;
    (export.metadata, export.made) = (named.metadata, named.made);
    Ok(())
}

fn read(_: &mut Described<'_>) -> Result<()> {
    Ok(())
}
