//! RWKV-4 (Peng et al. 2023): time mixing and channel mixing, LayerNorm before each and over the embeddings.

use cupola_artifact::Result;
use cupola_nn::{BlockSpec, ChannelMixSpec, EmbeddingSpec, LayerSpec, Layout, NormSpec, StackSpec, TimeMixSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::recurrent::{decoder, rows_of_layers};

/// RWKV-4. The reference halves the residual stream every `rescale_every` blocks where it does not train, for the sake of
/// 16-bit floats. All that a model notices of it is in the norms, whose added number weighs four times as much then; here
/// the stream stays as it is, and the norms have that number.
pub struct Rwkv;

impl Family for Rwkv {
    fn model_type(&self) -> &'static str {
        "rwkv"
    }

    fn architecture(&self) -> &'static str {
        "RwkvForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Peng et al. 2023, RWKV: Reinventing RNNs for the Transformer Era, arXiv:2305.13048"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let (d_model, n_layers) = (config.required_size("hidden_size")?, config.blocks("num_hidden_layers")?);
        let d_inner = config.size("attention_hidden_size")?.unwrap_or(d_model);
        let d_ff = config.size("intermediate_size")?.unwrap_or(4 * d_model);
        let (eps, every) = (config.number("layer_norm_epsilon", 1e-5)?, config.number("rescale_every", 6.0)?);
        let halved = |blocks: usize| if every >= 1.0 { blocks as i32 / every as i32 } else { 0 };
        let norm = |eps: f64, blocks: usize| NormSpec::layer(eps * 4.0_f64.powi(halved(blocks)));
        let block = |i: usize| {
            let depth = (i, n_layers);
            let layers =
                vec![("time", TimeMixSpec { d_inner, depth }.into()), ("ffn", ChannelMixSpec { d_ff, depth }.into())];
            BlockSpec { layout: Layout::PreNorm, norm: norm(eps, i), layers }
        };
        let context = if config.get("context_length").is_some() { "context_length" } else { "max_position_embeddings" };
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len: config.size(context)?.unwrap_or(1024),
            embedding: EmbeddingSpec { norm: Some(norm(eps, 0)), ..EmbeddingSpec::plain(d_model) },
            blocks: (0..n_layers).map(block).collect(),
            // The reference has PyTorch's own here whatever config.json says.
            norm: Some(norm(1e-5, n_layers)),
        };
        decoder(config, stack, false)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "hidden_size": sizes.d_model,
            "attention_hidden_size": sizes.d_model,
            "intermediate_size": sizes.d_ff,
            "num_hidden_layers": sizes.n_layers,
            "context_length": sizes.max_seq_len,
            "layer_norm_epsilon": 1e-5,
            "rescale_every": 6,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "rwkv.embeddings"),
            ("embed.norm", "rwkv.blocks.0.pre_ln"),
            ("norm", "rwkv.ln_out"),
            ("head", "head"),
            ("layers.{}.time_norm", "rwkv.blocks.{}.ln1"),
            ("layers.{}.time.mix_k", "rwkv.blocks.{}.attention.time_mix_key"),
            ("layers.{}.time.mix_v", "rwkv.blocks.{}.attention.time_mix_value"),
            ("layers.{}.time.mix_r", "rwkv.blocks.{}.attention.time_mix_receptance"),
            ("layers.{}.time.decay", "rwkv.blocks.{}.attention.time_decay"),
            ("layers.{}.time.bonus", "rwkv.blocks.{}.attention.time_first"),
            ("layers.{}.time.k", "rwkv.blocks.{}.attention.key"),
            ("layers.{}.time.v", "rwkv.blocks.{}.attention.value"),
            ("layers.{}.time.r", "rwkv.blocks.{}.attention.receptance"),
            ("layers.{}.time.o", "rwkv.blocks.{}.attention.output"),
            ("layers.{}.ffn_norm", "rwkv.blocks.{}.ln2"),
            ("layers.{}.ffn.mix_k", "rwkv.blocks.{}.feed_forward.time_mix_key"),
            ("layers.{}.ffn.mix_r", "rwkv.blocks.{}.feed_forward.time_mix_receptance"),
            ("layers.{}.ffn.k", "rwkv.blocks.{}.feed_forward.key"),
            ("layers.{}.ffn.r", "rwkv.blocks.{}.feed_forward.receptance"),
            ("layers.{}.ffn.v", "rwkv.blocks.{}.feed_forward.value"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let d_model = spec.stack().d_model;
        rows_of_layers(spec, |block, _, layer| {
            let (place, mixes): (_, &[&str]) = match layer {
                LayerSpec::TimeMix(_) => ("attention", &["key", "value", "receptance"]),
                _ => ("feed_forward", &["key", "receptance"]),
            };
            let name = |mix: &&str| format!("rwkv.blocks.{block}.{place}.time_mix_{mix}");
            mixes.iter().map(|mix| Rearrangement::in_a_row(name(mix), vec![1, 1, d_model])).collect()
        })
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}
