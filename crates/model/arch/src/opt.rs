//! OPT (Zhang et al. 2022): learned positions that start at the third row, ReLU, norms before each layer or, in one size, after it.

use cupola_artifact::{Error, Result};
use cupola_nn::{
    AttentionSpec, BlockSpec, EmbeddingSpec, FeedForwardSpec, FfnKind, Layout, LearnedPositions, NormSpec,
};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::likeness::decoder;
use crate::names::NameTable;
use crate::network::Spec;

/// OPT and Galactica.
pub struct Opt;

/// Rows of the table of positions before the first position.
const OFFSET: usize = 2;

impl Family for Opt {
    fn model_type(&self) -> &'static str {
        "opt"
    }

    fn architecture(&self) -> &'static str {
        "OPTForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Zhang et al. 2022, OPT: Open Pre-trained Transformer Language Models, arXiv:2205.01068"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[("layer_norm_elementwise_affine", json!(true))])?;
        let (d, heads) = (config.required_size("hidden_size")?, config.required_size("num_attention_heads")?);
        let d_head = config.divides(("hidden_size", d), ("num_attention_heads", heads))?;
        let bias = config.flag("enable_bias", true)?;
        let attention = AttentionSpec { bias, out_bias: bias, ..AttentionSpec::new(heads, heads, d_head) };
        let kind = FfnKind::Plain(config.activation("activation_function", "relu")?);
        let ffn = FeedForwardSpec { d_ff: config.required_size("ffn_dim")?, kind, bias };
        let norm = NormSpec::layer(1e-5);
        let before = config.flag("do_layer_norm_before", true)?;
        let layout = if before { Layout::PreNorm } else { Layout::PostNorm };
        let block = BlockSpec { layout, norm, layers: vec![("attention", attention.into()), ("ffn", ffn.into())] };
        let blocks = vec![block; config.blocks("num_hidden_layers")?];
        let max_seq_len = config.size("max_position_embeddings")?.unwrap_or(2048);
        let rows =
            max_seq_len.checked_add(OFFSET).ok_or_else(|| Error::failed("`max_position_embeddings` is too large"))?;
        let positions = LearnedPositions { rows, offset: OFFSET, count_padding: false };
        let width = config.size("word_embed_proj_dim")?.unwrap_or(d);
        let embedding = EmbeddingSpec { positions: Some(positions), ..EmbeddingSpec::plain(width) };
        let last = before && !config.flag("_remove_final_layer_norm", false)?;
        let mut spec = decoder(config, embedding, blocks, last.then_some(norm), (d, max_seq_len))?;
        spec.tie_embeddings = config.flag("tie_word_embeddings", true)?;
        Ok(Spec::Decoder(spec))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "hidden_size": sizes.d_model,
            "word_embed_proj_dim": sizes.d_model,
            "num_attention_heads": sizes.n_heads,
            "num_hidden_layers": sizes.n_layers,
            "ffn_dim": sizes.d_ff,
            "max_position_embeddings": sizes.max_seq_len,
            "activation_function": "relu",
            "do_layer_norm_before": true,
            "enable_bias": true,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "layerdrop": 0.0,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "model.decoder.embed_tokens"),
            ("embed.positions", "model.decoder.embed_positions"),
            ("embed.widen", "model.decoder.project_in"),
            ("narrow", "model.decoder.project_out"),
            ("norm", "model.decoder.final_layer_norm"),
            ("head", "lm_head"),
            ("layers.{}.attention_norm", "model.decoder.layers.{}.self_attn_layer_norm"),
            ("layers.{}.attention.q", "model.decoder.layers.{}.self_attn.q_proj"),
            ("layers.{}.attention.k", "model.decoder.layers.{}.self_attn.k_proj"),
            ("layers.{}.attention.v", "model.decoder.layers.{}.self_attn.v_proj"),
            ("layers.{}.attention.o", "model.decoder.layers.{}.self_attn.out_proj"),
            ("layers.{}.ffn_norm", "model.decoder.layers.{}.final_layer_norm"),
            ("layers.{}.ffn.up", "model.decoder.layers.{}.fc1"),
            ("layers.{}.ffn.down", "model.decoder.layers.{}.fc2"),
        ]
    }

    /// Published files hold the bare model.
    fn rename(&self, name: &str) -> Option<String> {
        Some(if name.starts_with("decoder.") { format!("model.{name}") } else { name.into() })
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}
