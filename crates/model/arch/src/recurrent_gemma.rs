//! RecurrentGemma (Botev et al. 2024), which is Griffin (De et al. 2024): two blocks with a gated linear recurrence, then
//! one with attention in a window; norms that multiply by one more than their weight.

use cupola_artifact::{Error, Result};
use cupola_nn::{
    AttentionSpec, BlockSpec, DecoderSpec, EmbeddingSpec, FeedForwardSpec, FfnKind, GriffinSpec, LayerSpec, Layout,
    NormSpec, StackSpec,
};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::recurrent::rows_of_layers;

/// RecurrentGemma.
pub struct RecurrentGemma;

/// The root of the width as the reference stores it: in bfloat16.
fn embedding_scale(d_model: usize) -> f32 {
    let bits = (d_model as f32).sqrt().to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

fn blocks(config: &ConfigJson<'_>, d_model: usize, norm: NormSpec) -> Result<Vec<BlockSpec>> {
    let n_heads = config.required_size("num_attention_heads")?;
    let n_kv_heads = config.size("num_key_value_heads")?.unwrap_or(n_heads);
    config.divides(("num_attention_heads", n_heads), ("num_key_value_heads", n_kv_heads))?;
    let d_head = config.size("head_dim")?.unwrap_or(d_model / n_heads);
    let activation = config.activation("hidden_activation", "gelu_pytorch_tanh")?;
    let d_inner = config.size("lru_width")?.unwrap_or(d_model);
    config.divides(("lru_width", d_inner), ("num_attention_heads", n_heads))?;
    let recurrent =
        GriffinSpec { d_inner, n_blocks: n_heads, d_conv: config.size("conv1d_width")?.unwrap_or(4), activation };
    let window = config.size("attention_window_size")?.unwrap_or(2048);
    let attention = AttentionSpec {
        rope: Some(config.rope_with_share(d_head, 0.5)?),
        bias: config.flag("attention_bias", false)?,
        out_bias: true,
        window: Some([window - 1, 0]),
        ..AttentionSpec::new(n_heads, n_kv_heads, d_head)
    };
    let d_ff = config.divides(("intermediate_size", config.required_size("intermediate_size")?), ("2", 2))?;
    let ffn = FeedForwardSpec { d_ff, kind: FfnKind::Gated(activation), bias: true };
    let kinds = config.texts("block_types")?.unwrap_or_else(|| vec!["recurrent", "recurrent", "attention"]);
    let block = |kind: &str| {
        let mixer: (&'static str, LayerSpec) = match kind {
            "recurrent" => ("recurrent", recurrent.clone().into()),
            "attention" => ("attention", attention.clone().into()),
            other => {
                return Err(Error::failed(format!("`block_types` in config.json has the unknown type `{other}`"))
                    .with_hint("this build knows recurrent and attention"));
            }
        };
        Ok(BlockSpec { layout: Layout::PreNorm, norm, layers: vec![mixer, ("ffn", ffn.clone().into())] })
    };
    if kinds.is_empty() {
        return Err(Error::failed("`block_types` in config.json is empty"));
    }
    kinds.iter().cycle().take(config.blocks("num_hidden_layers")?).map(|kind| block(kind)).collect()
}

impl Family for RecurrentGemma {
    fn model_type(&self) -> &'static str {
        "recurrent_gemma"
    }

    fn architecture(&self) -> &'static str {
        "RecurrentGemmaForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "De et al. 2024, Griffin: Mixing Gated Linear Recurrences with Local Attention, arXiv:2402.19427; Botev et al. \
         2024, RecurrentGemma, arXiv:2404.07839"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let d_model = config.required_size("hidden_size")?;
        let norm = NormSpec { plus_one: true, ..NormSpec::rms(config.number("rms_norm_eps", 1e-6)?) };
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len: config.size("max_position_embeddings")?.unwrap_or(8192),
            embedding: EmbeddingSpec { scale: Some(embedding_scale(d_model)), ..EmbeddingSpec::plain(d_model) },
            blocks: blocks(config, d_model, norm)?,
            norm: Some(norm),
        };
        Ok(Spec::Decoder(DecoderSpec {
            stack,
            tie_embeddings: config.flag("tie_word_embeddings", true)?,
            soft_cap: Some(config.number("logits_soft_cap", 30.0)? as f32),
            bos: config.token("bos_token_id")?,
            eos: config.tokens("eos_token_id")?,
            pad: config.token("pad_token_id")?,
        }))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "hidden_size": sizes.d_model,
            "intermediate_size": 2 * sizes.d_ff,
            "num_hidden_layers": sizes.n_layers,
            "num_attention_heads": sizes.n_heads,
            "num_key_value_heads": sizes.n_kv_heads,
            "head_dim": sizes.d_head,
            "lru_width": sizes.n_heads * sizes.d_model.div_ceil(sizes.n_heads),
            "conv1d_width": 4,
            "block_types": ["recurrent", "recurrent", "attention"],
            "attention_window_size": sizes.max_seq_len.div_ceil(2),
            "attention_bias": false,
            "hidden_activation": "gelu_pytorch_tanh",
            "logits_soft_cap": 30.0,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
            "max_position_embeddings": sizes.max_seq_len,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "model.embed_tokens"),
            ("norm", "model.final_norm"),
            ("head", "lm_head"),
            ("layers.{}.recurrent_norm", "model.layers.{}.temporal_pre_norm"),
            ("layers.{}.recurrent.x", "model.layers.{}.temporal_block.linear_x"),
            ("layers.{}.recurrent.y", "model.layers.{}.temporal_block.linear_y"),
            ("layers.{}.recurrent.out", "model.layers.{}.temporal_block.linear_out"),
            ("layers.{}.recurrent.conv", "model.layers.{}.temporal_block.conv_1d"),
            ("layers.{}.recurrent.input_gate_weight", "model.layers.{}.temporal_block.rg_lru.input_gate_weight"),
            ("layers.{}.recurrent.input_gate_bias", "model.layers.{}.temporal_block.rg_lru.input_gate_bias"),
            (
                "layers.{}.recurrent.recurrence_gate_weight",
                "model.layers.{}.temporal_block.rg_lru.recurrent_gate_weight",
            ),
            ("layers.{}.recurrent.recurrence_gate_bias", "model.layers.{}.temporal_block.rg_lru.recurrent_gate_bias"),
            ("layers.{}.recurrent.lambda", "model.layers.{}.temporal_block.rg_lru.recurrent_param"),
            ("layers.{}.attention_norm", "model.layers.{}.temporal_pre_norm"),
            ("layers.{}.attention.q", "model.layers.{}.temporal_block.q_proj"),
            ("layers.{}.attention.k", "model.layers.{}.temporal_block.k_proj"),
            ("layers.{}.attention.v", "model.layers.{}.temporal_block.v_proj"),
            ("layers.{}.attention.o", "model.layers.{}.temporal_block.o_proj"),
            ("layers.{}.ffn_norm", "model.layers.{}.channel_pre_norm"),
            ("layers.{}.ffn.gate", "model.layers.{}.mlp_block.gate_proj"),
            ("layers.{}.ffn.up", "model.layers.{}.mlp_block.up_proj"),
            ("layers.{}.ffn.down", "model.layers.{}.mlp_block.down_proj"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        rows_of_layers(spec, |block, _, layer| {
            let LayerSpec::Griffin(mixer) = layer else { return Vec::new() };
            let place = format!("model.layers.{block}.temporal_block");
            let gate = |name: &str| {
                let file = vec![mixer.n_blocks, mixer.d_inner / mixer.n_blocks];
                Rearrangement::in_a_row(format!("{place}.rg_lru.{name}_gate_bias"), file)
            };
            let conv = vec![mixer.d_inner, 1, mixer.d_conv];
            let conv = Rearrangement::in_a_row(format!("{place}.conv_1d.weight"), conv);
            vec![conv, gate("input"), gate("recurrent")]
        })
    }
}
