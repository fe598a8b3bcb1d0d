//! Falcon (Almazrouei et al. 2023): attention and feed-forward layer side by side with one key-value head or a few, or one after
//! the other with ALiBi. Its files keep q, k and v in one matrix, one key-value head after another.

use cupola_artifact::Result;
use cupola_nn::{Activation, AttentionSpec, BlockSpec, EmbeddingSpec, FeedForwardSpec, FfnKind, Layout, NormSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::gpt_neox::fused_qkv;
use crate::likeness::decoder;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// Falcon and Falcon-RW.
pub struct Falcon;

impl Family for Falcon {
    fn model_type(&self) -> &'static str {
        "falcon"
    }

    fn architecture(&self) -> &'static str {
        "FalconForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Almazrouei et al. 2023, The Falcon Series of Open Language Models, arXiv:2311.16867"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[("activation", json!("gelu"))])?;
        let (d, heads) = (config.required_size("hidden_size")?, config.required_size("num_attention_heads")?);
        let d_head = config.divides(("hidden_size", d), ("num_attention_heads", heads))?;
        let newer = config.flag("new_decoder_architecture", false)?;
        let kv = match (newer, config.flag("multi_query", true)?) {
            (true, _) => config.size("num_kv_heads")?.unwrap_or(heads),
            (false, true) => 1,
            (false, false) => heads,
        };
        config.divides(("num_attention_heads", heads), ("num_kv_heads", kv))?;
        let (alibi, bias) = (config.flag("alibi", false)?, config.flag("bias", false)?);
        let rope = if alibi { None } else { Some(config.rope(d_head)?) };
        // The distances are scaled as the scores are. `alibi_scale` is no setting of transformers, whose attention adds the distances
        // once, as the models were trained, and twice in its "eager" form.
        let alibi_scale = config.number("alibi_scale", 1.0)?;
        let alibi = alibi.then(|| alibi_scale as f32 * (d_head as f32).powf(-0.5));
        let attention = AttentionSpec { rope, alibi, bias, out_bias: bias, ..AttentionSpec::new(heads, kv, d_head) };
        let d_ff = config.size("ffn_hidden_size")?.unwrap_or(4 * d);
        let ffn = FeedForwardSpec { d_ff, kind: FfnKind::Plain(Activation::GeluErf), bias };
        let norms = config.size("num_ln_in_parallel_attn")?.unwrap_or(if newer { 2 } else { 1 });
        let layout = match (newer || config.flag("parallel_attn", true)?, newer && norms == 2) {
            (false, _) => Layout::PreNorm,
            (true, true) => Layout::Parallel,
            (true, false) => Layout::ParallelShared,
        };
        let norm = NormSpec::layer(config.number("layer_norm_epsilon", 1e-5)?);
        let layers = vec![("attention", attention.into()), ("ffn", ffn.into())];
        let blocks = vec![BlockSpec { layout, norm, layers }; config.blocks("num_hidden_layers")?];
        let max_seq_len = config.size("max_position_embeddings")?.unwrap_or(2048);
        let mut spec = decoder(config, EmbeddingSpec::plain(d), blocks, Some(norm), (d, max_seq_len))?;
        spec.tie_embeddings = config.flag("tie_word_embeddings", true)?;
        Ok(Spec::Decoder(spec))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "hidden_size": sizes.d_model,
            "num_attention_heads": sizes.n_heads,
            "num_hidden_layers": sizes.n_layers,
            "num_kv_heads": sizes.n_kv_heads,
            "ffn_hidden_size": sizes.d_ff,
            "max_position_embeddings": sizes.max_seq_len,
            "layer_norm_epsilon": 1e-5,
            "new_decoder_architecture": true,
            "parallel_attn": true,
            "num_ln_in_parallel_attn": 2,
            "bias": false,
            "alibi": false,
            "activation": "gelu",
            "rope_theta": 10_000.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        });
        config.as_object().cloned().unwrap_or_default()
    }

    /// Blocks with two norms side by side call them otherwise than blocks with one, or one after the other.
    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "transformer.word_embeddings"),
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
        let blocks = || spec.stack().blocks.iter().enumerate();
        let name = |layer: usize| format!("transformer.h.{layer}.self_attention.query_key_value");
        let fused = blocks().filter_map(|(i, b)| Some((i, b.attention()?)));
        let norms = blocks().filter(|(_, b)| b.layout == Layout::Parallel).flat_map(|(i, _)| {
            [("ln_attn", "input_layernorm"), ("ln_mlp", "post_attention_layernorm")]
                .map(|(file, model)| [file, model].map(|part| format!("transformer.h.{i}.{part}.")))
        });
        let norms = norms.map(|[file, name]| Rearrangement::Renamed { file, name });
        fused.map(|(i, a)| fused_qkv(&name(i), a, a.n_kv_heads)).chain(norms).collect()
    }

    /// Published files hold the bare model or the whole one.
    fn rename(&self, name: &str) -> Option<String> {
        let whole = ["transformer.", "lm_head.", "score."].iter().any(|start| name.starts_with(start));
        Some(if whole { name.into() } else { format!("transformer.{name}") })
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: true }
    }
}
