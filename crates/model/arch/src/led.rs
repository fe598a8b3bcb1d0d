//! LED, the Longformer Encoder-Decoder (Beltagy et al. 2020): BART whose encoder's tokens see a window, and some see and are
//! seen by all.

use cupola_artifact::Result;
use cupola_nn::{GlobalAttentionSpec, Layout};
use serde_json::{Map, Value, json};

use crate::bart::kept_of;
use crate::config::ConfigJson;
use crate::family::{Damage, Family, Form, Sizes};
use crate::longformer::windows;
use crate::names::NameTable;
use crate::network::Spec;
use crate::seq2seq::BartLike;

/// LED.
pub struct Led;

const LIKE: BartLike = BartLike {
    layout: Layout::PostNorm,
    offset: 0,
    sinusoids: false,
    longest: ["max_encoder_position_embeddings", "max_decoder_position_embeddings"],
    tokens: [1, 2],
};

impl Family for Led {
    fn model_type(&self) -> &'static str {
        "led"
    }

    fn architecture(&self) -> &'static str {
        "LEDForConditionalGeneration"
    }

    fn paper(&self) -> &'static str {
        "Beltagy et al. 2020, Longformer: The Long-Document Transformer, arXiv:2004.05150"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let windows = windows(config, config.required_size("encoder_layers")?)?;
        let mut spec = LIKE.spec(config, |block, own| {
            let window = windows[block] / 2;
            Ok(GlobalAttentionSpec { n_heads: own.n_heads, d_head: own.d_head, window }.into())
        })?;
        // `scale_embedding` stands in its settings, and the reference does not heed it.
        (spec.encoder.embedding.scale, spec.decoder.embedding.scale) = (None, None);
        Ok(Spec::EncoderDecoder(spec))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LIKE.fresh(sizes);
        let window = (sizes.max_seq_len / 4).clamp(1, 256) * 2;
        config.insert("attention_window".into(), json!(vec![window; sizes.n_layers]));
        config
    }

    fn names(&self) -> NameTable {
        &[
            ("encoder.embed.tokens", "led.shared"),
            ("head", "lm_head"),
            ("logits_bias", "final_logits_bias"),
            ("encoder.embed.positions", "led.encoder.embed_positions"),
            ("encoder.embed.norm", "led.encoder.layernorm_embedding"),
            ("encoder.layers.{}.attention_norm", "led.encoder.layers.{}.self_attn_layer_norm"),
            ("encoder.layers.{}.attention.q", "led.encoder.layers.{}.self_attn.longformer_self_attn.query"),
            (
                "encoder.layers.{}.attention.global_q",
                "led.encoder.layers.{}.self_attn.longformer_self_attn.query_global",
            ),
            ("encoder.layers.{}.attention.k", "led.encoder.layers.{}.self_attn.longformer_self_attn.key"),
            ("encoder.layers.{}.attention.global_k", "led.encoder.layers.{}.self_attn.longformer_self_attn.key_global"),
            ("encoder.layers.{}.attention.v", "led.encoder.layers.{}.self_attn.longformer_self_attn.value"),
            (
                "encoder.layers.{}.attention.global_v",
                "led.encoder.layers.{}.self_attn.longformer_self_attn.value_global",
            ),
            ("encoder.layers.{}.attention.o", "led.encoder.layers.{}.self_attn.output"),
            ("encoder.layers.{}.ffn_norm", "led.encoder.layers.{}.final_layer_norm"),
            ("encoder.layers.{}.ffn.up", "led.encoder.layers.{}.fc1"),
            ("encoder.layers.{}.ffn.down", "led.encoder.layers.{}.fc2"),
            ("decoder.embed.positions", "led.decoder.embed_positions"),
            ("decoder.embed.norm", "led.decoder.layernorm_embedding"),
            ("decoder.layers.{}.attention_norm", "led.decoder.layers.{}.self_attn_layer_norm"),
            ("decoder.layers.{}.attention.q", "led.decoder.layers.{}.self_attn.q_proj"),
            ("decoder.layers.{}.attention.k", "led.decoder.layers.{}.self_attn.k_proj"),
            ("decoder.layers.{}.attention.v", "led.decoder.layers.{}.self_attn.v_proj"),
            ("decoder.layers.{}.attention.o", "led.decoder.layers.{}.self_attn.out_proj"),
            ("decoder.layers.{}.cross_norm", "led.decoder.layers.{}.encoder_attn_layer_norm"),
            ("decoder.layers.{}.cross.q", "led.decoder.layers.{}.encoder_attn.q_proj"),
            ("decoder.layers.{}.cross.k", "led.decoder.layers.{}.encoder_attn.k_proj"),
            ("decoder.layers.{}.cross.v", "led.decoder.layers.{}.encoder_attn.v_proj"),
            ("decoder.layers.{}.cross.o", "led.decoder.layers.{}.encoder_attn.out_proj"),
            ("decoder.layers.{}.ffn_norm", "led.decoder.layers.{}.final_layer_norm"),
            ("decoder.layers.{}.ffn.up", "led.decoder.layers.{}.fc1"),
            ("decoder.layers.{}.ffn.down", "led.decoder.layers.{}.fc2"),
        ]
    }

    fn rename(&self, name: &str) -> Option<String> {
        kept_of(name, "led")
    }

    fn damage(&self) -> Damage {
        Damage::Infilling
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}
