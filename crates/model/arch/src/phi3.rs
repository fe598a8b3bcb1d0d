//! Phi-3 (Abdin et al. 2024): Llama whose files keep q, k and v, and gate and up, in one matrix each.

use cupola_artifact::Result;
use cupola_nn::BlockSpec;
use serde_json::{Map, Value};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::fused::Fused;
use crate::likeness::{LlamaLike, sliding_layers};
use crate::names::{LLAMA, NameTable};
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// Phi-3 and Phi-4, their dense text models.
pub struct Phi3;

impl Family for Phi3 {
    fn model_type(&self) -> &'static str {
        "phi3"
    }

    fn architecture(&self) -> &'static str {
        "Phi3ForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Abdin et al. 2024, Phi-3 Technical Report, arXiv:2404.14219"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let like = LlamaLike::read(config)?;
        let limited = config.get("sliding_window").is_some();
        let sliding = sliding_layers(config, like.n_layers, |_| limited)?;
        like.spec_with_windows(config, &sliding)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        config.remove("head_dim");
        config.insert("original_max_position_embeddings".into(), sizes.max_seq_len.into());
        config.insert("sliding_window".into(), Value::Null);
        config
    }

    fn names(&self) -> NameTable {
        LLAMA
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let blocks = spec.stack().blocks.iter().enumerate();
        let parts = blocks.filter_map(|(i, b)| Some((i, b.attention()?, BlockSpec::feed_forward(b)?)));
        parts
            .flat_map(|(layer, attention, ffn)| {
                let name = |part: &str| format!("model.layers.{layer}.{part}");
                let (q, kv) = (attention.n_heads * attention.d_head, attention.n_kv_heads * attention.d_head);
                let qkv = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
                let wide = [("mlp.gate_proj", ffn.d_ff), ("mlp.up_proj", ffn.d_ff)];
                [("self_attn.qkv_proj", &qkv[..]), ("mlp.gate_up_proj", &wide)].map(|(module, parts)| {
                    let parts = parts.iter().map(|(part, rows)| (name(part), *rows)).collect();
                    Fused { module: name(module), parts, groups: 1, transposed: false }.into()
                })
            })
            .collect()
    }
}
