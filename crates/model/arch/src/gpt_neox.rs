//! GPT-NeoX (Black et al. 2022): attention and feed-forward layer side by side, rotary positions on a part of each head. Its files
//! keep q, k and v in one matrix, head by head.

use cupola_artifact::Result;
use cupola_nn::{AttentionSpec, BlockSpec, EmbeddingSpec, FeedForwardSpec, FfnKind, Layout, NormSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::fused::Fused;
use crate::likeness::decoder;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// GPT-NeoX and Pythia.
pub struct GptNeox;

/// Queries, keys and values of a layer in one matrix, `groups` shares of them in turn.
pub(crate) fn fused_qkv(module: &str, attention: &AttentionSpec, groups: usize) -> Rearrangement {
    let (q, kv) = (attention.n_heads * attention.d_head, attention.n_kv_heads * attention.d_head);
    let parts = [("q", q), ("k", kv), ("v", kv)].map(|(part, rows)| (format!("{module}.{part}"), rows)).to_vec();
    Fused { module: module.to_string(), parts, groups, transposed: false }.into()
}

impl Family for GptNeox {
    fn model_type(&self) -> &'static str {
        "gpt_neox"
    }

    fn architecture(&self) -> &'static str {
        "GPTNeoXForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Black et al. 2022, GPT-NeoX-20B: An Open-Source Autoregressive Language Model, arXiv:2204.06745"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let (d, heads) = (config.required_size("hidden_size")?, config.required_size("num_attention_heads")?);
        let d_head = config.divides(("hidden_size", d), ("num_attention_heads", heads))?;
        let mut rope = config.rope_with_share(d_head, config.number("rotary_pct", 0.25)?)?;
        if config.section("rope_parameters")?.is_none() {
            rope.theta = config.number("rotary_emb_base", rope.theta)?;
        }
        let bias = config.flag("attention_bias", true)?;
        let attention =
            AttentionSpec { rope: Some(rope), bias, out_bias: bias, ..AttentionSpec::new(heads, heads, d_head) };
        let kind = FfnKind::Plain(config.activation("hidden_act", "gelu")?);
        let ffn = FeedForwardSpec { d_ff: config.required_size("intermediate_size")?, kind, bias: true };
        let norm = NormSpec::layer(config.number("layer_norm_eps", 1e-5)?);
        let parallel = config.flag("use_parallel_residual", true)?;
        let layout = if parallel { Layout::Parallel } else { Layout::PreNorm };
        let block = BlockSpec { layout, norm, layers: vec![("attention", attention.into()), ("ffn", ffn.into())] };
        let blocks = vec![block; config.blocks("num_hidden_layers")?];
        let max_seq_len = config.size("max_position_embeddings")?.unwrap_or(2048);
        let mut spec = decoder(config, EmbeddingSpec::plain(d), blocks, Some(norm), (d, max_seq_len))?;
        spec.tie_embeddings = config.flag("tie_word_embeddings", false)?;
        Ok(Spec::Decoder(spec))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "hidden_size": sizes.d_model,
            "num_attention_heads": sizes.n_heads,
            "num_hidden_layers": sizes.n_layers,
            "intermediate_size": sizes.d_ff,
            "max_position_embeddings": sizes.max_seq_len,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10_000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25},
            "attention_bias": true,
            "use_parallel_residual": true,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "gpt_neox.embed_in"),
            ("norm", "gpt_neox.final_layer_norm"),
            ("head", "embed_out"),
            ("layers.{}.attention_norm", "gpt_neox.layers.{}.input_layernorm"),
            ("layers.{}.attention.q", "gpt_neox.layers.{}.attention.query_key_value.q"),
            ("layers.{}.attention.k", "gpt_neox.layers.{}.attention.query_key_value.k"),
            ("layers.{}.attention.v", "gpt_neox.layers.{}.attention.query_key_value.v"),
            ("layers.{}.attention.o", "gpt_neox.layers.{}.attention.dense"),
            ("layers.{}.ffn_norm", "gpt_neox.layers.{}.post_attention_layernorm"),
            ("layers.{}.ffn.up", "gpt_neox.layers.{}.mlp.dense_h_to_4h"),
            ("layers.{}.ffn.down", "gpt_neox.layers.{}.mlp.dense_4h_to_h"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let attention = spec.stack().blocks.iter().enumerate().filter_map(|(i, b)| Some((i, b.attention()?)));
        attention
            .map(|(i, a)| fused_qkv(&format!("gpt_neox.layers.{i}.attention.query_key_value"), a, a.n_heads))
            .collect()
    }

    /// Older files hold the causal masks as buffers.
    fn rename(&self, name: &str) -> Option<String> {
        let buffers = [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"];
        (!buffers.iter().any(|buffer| name.ends_with(buffer))).then(|| name.to_string())
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}
