//! BLOOM (Le Scao et al. 2022): ALiBi in place of positions, a norm over the embeddings. Its files keep q, k and v in one
//! matrix, head by head.

use cupola_artifact::Result;
use cupola_nn::{AttentionSpec, BlockSpec, EmbeddingSpec, FeedForwardSpec, FfnKind, Layout, NormSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::gpt_neox::fused_qkv;
use crate::likeness::decoder;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// BLOOM and BLOOMZ.
pub struct Bloom;

impl Family for Bloom {
    fn model_type(&self) -> &'static str {
        "bloom"
    }

    fn architecture(&self) -> &'static str {
        "BloomForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Le Scao et al. 2022, BLOOM: A 176B-Parameter Open-Access Multilingual Language Model, arXiv:2211.05100"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let normed = config.flag("apply_residual_connection_post_layernorm", false)?;
        let layout = if normed { Layout::NormedResidual } else { Layout::PreNorm };
        let size = |names: [&str; 2]| match config.size(names[0])? {
            Some(size) => Ok(size),
            None => config.required_size(names[1]),
        };
        let (d, heads) = (size(["n_embed", "hidden_size"])?, size(["num_attention_heads", "n_head"])?);
        let d_head = config.divides(("hidden_size", d), ("n_head", heads))?;
        let attention =
            AttentionSpec { alibi: Some(1.0), bias: true, out_bias: true, ..AttentionSpec::new(heads, heads, d_head) };
        let ffn = FeedForwardSpec { d_ff: 4 * d, kind: FfnKind::Plain(cupola_nn::Activation::GeluTanh), bias: true };
        let norm = NormSpec::layer(config.number("layer_norm_epsilon", 1e-5)?);
        let layers = vec![("attention", attention.into()), ("ffn", ffn.into())];
        let key = if config.get("num_hidden_layers").is_some() { "num_hidden_layers" } else { "n_layer" };
        let n_layers = config.blocks(key)?;
        let blocks = vec![BlockSpec { layout, norm, layers }; n_layers];
        let embedding = EmbeddingSpec { norm: Some(norm), ..EmbeddingSpec::plain(d) };
        // Distances have no end; the length is that of training.
        let max_seq_len = config.size("seq_length")?.unwrap_or(2048);
        let mut spec = decoder(config, embedding, blocks, Some(norm), (d, max_seq_len))?;
        spec.tie_embeddings = config.flag("tie_word_embeddings", true)?;
        Ok(Spec::Decoder(spec))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "hidden_size": sizes.d_model,
            "n_head": sizes.n_heads,
            "n_layer": sizes.n_layers,
            "seq_length": sizes.max_seq_len,
            "layer_norm_epsilon": 1e-5,
            "apply_residual_connection_post_layernorm": false,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "transformer.word_embeddings"),
            ("embed.norm", "transformer.word_embeddings_layernorm"),
            ("norm", "transformer.ln_f"),
            ("head", "lm_head"),
            ("layers.{}.attention_norm", "transformer.h.{}.input_layernorm"),
            ("layers.{}.attention.q", "transformer.h.{}.self_attention.query_key_value.q"),
            ("layers.{}.attention.k", "transformer.h.{}.self_attention.query_key_value.k"),
            ("layers.{}.attention.v", "transformer.h.{}.self_attention.query_key_value.v"),
            ("layers.{}.attention.o", "transformer.h.{}.self_attention.dense"),
            ("layers.{}.ffn_norm", "transformer.h.{}.post_attention_layernorm"),
            ("layers.{}.ffn.up", "transformer.h.{}.mlp.dense_h_to_4h"),
            ("layers.{}.ffn.down", "transformer.h.{}.mlp.dense_4h_to_h"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let attention = spec.stack().blocks.iter().enumerate().filter_map(|(i, b)| Some((i, b.attention()?)));
        let name = |layer: usize| format!("transformer.h.{layer}.self_attention.query_key_value");
        attention.map(|(i, a)| fused_qkv(&name(i), a, a.n_heads)).collect()
    }

    /// Published files hold the bare model.
    fn rename(&self, name: &str) -> Option<String> {
        let whole = ["transformer.", "lm_head.", "score."].iter().any(|start| name.starts_with(start));
        Some(if whole { name.into() } else { format!("transformer.{name}") })
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}
