//! GPT-2 (Radford et al. 2019): LayerNorm before each layer, learned positions, a plain feed-forward layer, biases
//! everywhere. Its files keep linear weights as `[d_in, d_out]` and q, k and v side by side.

use cupola_artifact::Result;
use cupola_nn::{
    AttentionSpec, BlockSpec, EmbeddingSpec, FeedForwardSpec, FfnKind, Layout, LearnedPositions, NormSpec,
};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::fused::Fused;
use crate::likeness::decoder;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// GPT-2 and what shares its form (DistilGPT-2, DialoGPT, and many small models).
pub struct Gpt2;

impl Family for Gpt2 {
    fn model_type(&self) -> &'static str {
        "gpt2"
    }

    fn architecture(&self) -> &'static str {
        "GPT2LMHeadModel"
    }

    fn paper(&self) -> &'static str {
        "Radford et al. 2019, Language Models are Unsupervised Multitask Learners"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[("add_cross_attention", json!(false))])?;
        let (d_model, n_heads) = (config.required_size("n_embd")?, config.required_size("n_head")?);
        let d_head = config.divides(("n_embd", d_model), ("n_head", n_heads))?;
        let scaled = if config.flag("scale_attn_weights", true)? { (d_head as f32).powf(-0.5) } else { 1.0 };
        let by_layer = config.flag("scale_attn_by_inverse_layer_idx", false)?;
        let scale = |layer: usize| if by_layer { scaled / (layer + 1) as f32 } else { scaled };
        let attention = AttentionSpec { bias: true, out_bias: true, ..AttentionSpec::new(n_heads, n_heads, d_head) };
        let ffn = FeedForwardSpec {
            d_ff: config.size("n_inner")?.unwrap_or(4 * d_model),
            kind: FfnKind::Plain(config.activation("activation_function", "gelu_new")?),
            bias: true,
        };
        let norm = NormSpec::layer(config.number("layer_norm_epsilon", 1e-5)?);
        let block = |layer: usize| {
            let attention = AttentionSpec { scale: Some(scale(layer)), ..attention.clone() };
            let layers = vec![("attention", attention.into()), ("ffn", ffn.clone().into())];
            BlockSpec { layout: Layout::PreNorm, norm, layers }
        };
        let max_seq_len = config.size("n_positions")?.unwrap_or(1024);
        let positions = LearnedPositions { rows: max_seq_len, offset: 0, count_padding: true };
        let embedding = EmbeddingSpec { positions: Some(positions), ..EmbeddingSpec::plain(d_model) };
        let blocks = (0..config.blocks("n_layer")?).map(block).collect();
        let mut spec = decoder(config, embedding, blocks, Some(norm), (d_model, max_seq_len))?;
        spec.tie_embeddings = config.flag("tie_word_embeddings", true)?;
        Ok(Spec::Decoder(spec))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "n_embd": sizes.d_model,
            "n_head": sizes.n_heads,
            "n_inner": sizes.d_ff,
            "n_layer": sizes.n_layers,
            "n_positions": sizes.max_seq_len,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "scale_attn_weights": true,
            "scale_attn_by_inverse_layer_idx": false,
            "reorder_and_upcast_attn": false,
            "add_cross_attention": false,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "transformer.wte"),
            ("embed.positions", "transformer.wpe"),
            ("norm", "transformer.ln_f"),
            ("head", "lm_head"),
            ("layers.{}.attention_norm", "transformer.h.{}.ln_1"),
            ("layers.{}.attention.q", "transformer.h.{}.attn.q_proj"),
            ("layers.{}.attention.k", "transformer.h.{}.attn.k_proj"),
            ("layers.{}.attention.v", "transformer.h.{}.attn.v_proj"),
            ("layers.{}.attention.o", "transformer.h.{}.attn.c_proj"),
            ("layers.{}.ffn_norm", "transformer.h.{}.ln_2"),
            ("layers.{}.ffn.up", "transformer.h.{}.mlp.c_fc"),
            ("layers.{}.ffn.down", "transformer.h.{}.mlp.c_proj"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let stack = spec.stack();
        let d = stack.d_model;
        let d_ff = stack.blocks.first().and_then(BlockSpec::feed_forward).map_or(4 * d, |ffn| ffn.d_ff);
        let on_its_side =
            |module: String, parts: Vec<(String, usize)>| Fused { module, parts, groups: 1, transposed: true }.into();
        (0..stack.blocks.len())
            .flat_map(|layer| {
                let name = |part: &str| format!("transformer.h.{layer}.{part}");
                let qkv = ["q_proj", "k_proj", "v_proj"].map(|part| (name(&format!("attn.{part}")), d)).to_vec();
                let alone = |part: &str, rows: usize| on_its_side(name(part), vec![(name(part), rows)]);
                [
                    on_its_side(name("attn.c_attn"), qkv),
                    alone("attn.c_proj", d),
                    alone("mlp.c_fc", d_ff),
                    alone("mlp.c_proj", d),
                ]
            })
            .collect()
    }

    /// The first files hold the bare model, and the causal masks as buffers.
    fn rename(&self, name: &str) -> Option<String> {
        let bare = name.strip_prefix("transformer.").unwrap_or(name);
        if bare.ends_with(".attn.bias") || bare.ends_with(".attn.masked_bias") {
            return None;
        }
        let on_top = ["lm_head.", "score."].iter().any(|head| bare.starts_with(head));
        Some(if on_top { bare.into() } else { format!("transformer.{bare}") })
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}
