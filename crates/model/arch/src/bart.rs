//! BART (Lewis et al. 2020): LayerNorm after each layer and after the embedding, learned positions that begin at the third
//! row, biases everywhere.

use cupola_artifact::Result;
use cupola_nn::Layout;
use serde_json::{Map, Value};

use crate::config::ConfigJson;
use crate::family::{Damage, Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::seq2seq::BartLike;

/// BART.
pub struct Bart;

const LIKE: BartLike = BartLike {
    layout: Layout::PostNorm,
    offset: 2,
    sinusoids: false,
    longest: ["max_position_embeddings"; 2],
    tokens: [1, 2],
};

impl Family for Bart {
    fn model_type(&self) -> &'static str {
        "bart"
    }

    fn architecture(&self) -> &'static str {
        "BartForConditionalGeneration"
    }

    fn paper(&self) -> &'static str {
        "Lewis et al. 2020, BART: Denoising Sequence-to-Sequence Pre-training, arXiv:1910.13461"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        Ok(Spec::EncoderDecoder(LIKE.spec(config, |_, own| Ok(own.clone().into()))?))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        LIKE.fresh(sizes)
    }

    fn names(&self) -> NameTable {
        NAMES
    }

    fn rename(&self, name: &str) -> Option<String> {
        kept(name)
    }

    fn damage(&self) -> Damage {
        Damage::Infilling
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}

/// What a file's name is called; see [`kept_of`].
pub(crate) fn kept(name: &str) -> Option<String> {
    kept_of(name, "model")
}

/// The first files hold the bare model, the embedding twice more, and a version.
pub(crate) fn kept_of(name: &str, model: &str) -> Option<String> {
    let bare = name.strip_prefix(model).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
    let spare =
        |side: &str| bare.strip_prefix(side).is_some_and(|rest| [".embed_tokens.weight", ".version"].contains(&rest));
    if spare("encoder") || spare("decoder") {
        return None;
    }
    let outside = bare.starts_with("lm_head.") || bare == "final_logits_bias";
    Some(if outside { bare.into() } else { format!("{model}.{bare}") })
}

/// The names that BART and Pegasus share.
pub(crate) const NAMES: NameTable = &[
    ("encoder.embed.tokens", "model.shared"),
    ("head", "lm_head"),
    ("logits_bias", "final_logits_bias"),
    ("encoder.embed.positions", "model.encoder.embed_positions"),
    ("encoder.embed.norm", "model.encoder.layernorm_embedding"),
    ("encoder.layers.{}.attention_norm", "model.encoder.layers.{}.self_attn_layer_norm"),
    ("encoder.layers.{}.attention.q", "model.encoder.layers.{}.self_attn.q_proj"),
    ("encoder.layers.{}.attention.k", "model.encoder.layers.{}.self_attn.k_proj"),
    ("encoder.layers.{}.attention.v", "model.encoder.layers.{}.self_attn.v_proj"),
    ("encoder.layers.{}.attention.o", "model.encoder.layers.{}.self_attn.out_proj"),
    ("encoder.layers.{}.ffn_norm", "model.encoder.layers.{}.final_layer_norm"),
    ("encoder.layers.{}.ffn.up", "model.encoder.layers.{}.fc1"),
    ("encoder.layers.{}.ffn.down", "model.encoder.layers.{}.fc2"),
    ("decoder.embed.positions", "model.decoder.embed_positions"),
    ("decoder.embed.norm", "model.decoder.layernorm_embedding"),
    ("decoder.layers.{}.attention_norm", "model.decoder.layers.{}.self_attn_layer_norm"),
    ("decoder.layers.{}.attention.q", "model.decoder.layers.{}.self_attn.q_proj"),
    ("decoder.layers.{}.attention.k", "model.decoder.layers.{}.self_attn.k_proj"),
    ("decoder.layers.{}.attention.v", "model.decoder.layers.{}.self_attn.v_proj"),
    ("decoder.layers.{}.attention.o", "model.decoder.layers.{}.self_attn.out_proj"),
    ("decoder.layers.{}.cross_norm", "model.decoder.layers.{}.encoder_attn_layer_norm"),
    ("decoder.layers.{}.cross.q", "model.decoder.layers.{}.encoder_attn.q_proj"),
    ("decoder.layers.{}.cross.k", "model.decoder.layers.{}.encoder_attn.k_proj"),
    ("decoder.layers.{}.cross.v", "model.decoder.layers.{}.encoder_attn.v_proj"),
    ("decoder.layers.{}.cross.o", "model.decoder.layers.{}.encoder_attn.out_proj"),
    ("decoder.layers.{}.ffn_norm", "model.decoder.layers.{}.final_layer_norm"),
    ("decoder.layers.{}.ffn.up", "model.decoder.layers.{}.fc1"),
    ("decoder.layers.{}.ffn.down", "model.decoder.layers.{}.fc2"),
    ("encoder.norm", "model.encoder.layer_norm"),
    ("decoder.norm", "model.decoder.layer_norm"),
];
