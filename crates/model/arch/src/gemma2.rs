//! Gemma 2 (Riviere et al. 2024): norms before and after each layer that multiply by one more than their weight, scaled
//! embeddings, soft caps, every second layer with a sliding window.

use cupola_artifact::Result;
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::likeness::{LlamaLike, sliding_layers};
use crate::names::NameTable;
use crate::network::Spec;

/// Gemma 2.
pub struct Gemma2;

/// What Gemma 2 and 3 have in common.
pub(crate) fn read(config: &ConfigJson<'_>) -> Result<LlamaLike> {
    let mut like = LlamaLike::read(config)?;
    if config.get("head_dim").is_none() {
        like.set_d_head(config, 256)?;
    }
    like.layout = cupola_nn::Layout::Sandwich;
    like.norm.plus_one = true;
    like.embedding.scale = Some((like.d_model as f32).sqrt());
    like.attention.bias = config.flag("attention_bias", false)?;
    like.attention.out_bias = like.attention.bias;
    like.attention.scale = Some(config.number("query_pre_attn_scalar", 256.0)?.powf(-0.5) as f32);
    like.attention.soft_cap = config.optional_number("attn_logit_softcapping")?.map(|cap| cap as f32);
    like.soft_cap = config.optional_number("final_logit_softcapping")?.map(|cap| cap as f32);
    like.ffn.kind = cupola_nn::FfnKind::Gated(config.activation("hidden_activation", "gelu_pytorch_tanh")?);
    like.tie_embeddings = config.flag("tie_word_embeddings", true)?;
    Ok(like)
}

/// The settings of a fresh model that Gemma 2 and 3 have in common.
pub(crate) fn fresh(sizes: &Sizes) -> Map<String, Value> {
    let mut config = LlamaLike::fresh(sizes);
    config.remove("hidden_act");
    config.insert("hidden_activation".into(), json!("gelu_pytorch_tanh"));
    config.insert("query_pre_attn_scalar".into(), json!(sizes.d_head));
    config.insert("sliding_window".into(), json!((sizes.max_seq_len / 2).max(1)));
    config
}

/// Weight names of Gemma 2 and 3.
pub(crate) const NAMES: NameTable = &[
    ("embed.tokens", "model.embed_tokens"),
    ("norm", "model.norm"),
    ("head", "lm_head"),
    ("layers.{}.attention_norm", "model.layers.{}.input_layernorm"),
    ("layers.{}.attention_post_norm", "model.layers.{}.post_attention_layernorm"),
    ("layers.{}.attention.q", "model.layers.{}.self_attn.q_proj"),
    ("layers.{}.attention.k", "model.layers.{}.self_attn.k_proj"),
    ("layers.{}.attention.v", "model.layers.{}.self_attn.v_proj"),
    ("layers.{}.attention.o", "model.layers.{}.self_attn.o_proj"),
    ("layers.{}.attention.q_norm", "model.layers.{}.self_attn.q_norm"),
    ("layers.{}.attention.k_norm", "model.layers.{}.self_attn.k_norm"),
    ("layers.{}.ffn_norm", "model.layers.{}.pre_feedforward_layernorm"),
    ("layers.{}.ffn_post_norm", "model.layers.{}.post_feedforward_layernorm"),
    ("layers.{}.ffn.gate", "model.layers.{}.mlp.gate_proj"),
    ("layers.{}.ffn.up", "model.layers.{}.mlp.up_proj"),
    ("layers.{}.ffn.down", "model.layers.{}.mlp.down_proj"),
];

impl Family for Gemma2 {
    fn model_type(&self) -> &'static str {
        "gemma2"
    }

    fn architecture(&self) -> &'static str {
        "Gemma2ForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Gemma Team 2024, Gemma 2: Improving Open Language Models at a Practical Size, arXiv:2408.00118"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let like = read(config)?;
        let sliding = sliding_layers(config, like.n_layers, |layer| layer % 2 == 0)?;
        like.spec_with_windows(config, &sliding)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = fresh(sizes);
        config.insert("attn_logit_softcapping".into(), json!(50.0));
        config.insert("final_logit_softcapping".into(), json!(30.0));
        config
    }

    fn names(&self) -> NameTable {
        NAMES
    }
}
