//! Qwen3 with a mixture of narrow experts in the place of some or all feed-forward layers.

use cupola_artifact::{Error, Result};
use cupola_nn::{BlockSpec, ExpertsSpec, FfnKind, LayerSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{ExpertSizes, Family, Sizes};
use crate::likeness::LlamaLike;
use crate::mixture;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// Qwen3-MoE.
pub struct Qwen3Moe;

impl Family for Qwen3Moe {
    fn model_type(&self) -> &'static str {
        "qwen3_moe"
    }

    fn architecture(&self) -> &'static str {
        "Qwen3MoeForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Yang et al. 2025, Qwen3 Technical Report, arXiv:2505.09388"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let mut like = LlamaLike::read(config)?;
        like.attention.bias = config.flag("attention_bias", false)?;
        like.attention.out_bias = like.attention.bias;
        like.attention.qk_norm = Some(like.norm);
        if config.flag("use_sliding_window", false)? {
            like.attention.window = config.size("sliding_window")?.map(|w| [w - 1, 0]);
        }
        let mut router = mixture::router(config)?;
        router.normalize = config.flag("norm_topk_prob", false)?;
        let (FfnKind::Gated(f) | FfnKind::Plain(f)) = like.ffn.kind;
        let experts = ExpertsSpec { router, d_ff: config.required_size("moe_intermediate_size")?, f, shared: None };
        let (dense, every) = (config.counts("mlp_only_layers")?, config.count("decoder_sparse_step", 1)?);
        if every == 0 {
            return Err(Error::failed("`decoder_sparse_step` in config.json is 0; it counts layers"));
        }
        let block = |layer: usize| {
            let mixture = !dense.contains(&layer) && (layer + 1).is_multiple_of(every);
            let ffn: LayerSpec = if mixture { experts.clone().into() } else { like.ffn.clone().into() };
            let layers = vec![("attention", like.attention.clone().into()), ("ffn", ffn)];
            BlockSpec { layout: like.layout, norm: like.norm, layers }
        };
        let blocks = (0..like.n_layers).map(block).collect();
        like.spec_of(config, blocks)
    }

    /// The chosen experts together are as wide as the feed-forward layer.
    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        let own = json!({
            "num_experts": sizes.experts.count,
            "num_experts_per_tok": sizes.experts.per_token,
            "moe_intermediate_size": sizes.d_ff.div_ceil(sizes.experts.per_token),
            "norm_topk_prob": true,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "router_aux_loss_coef": sizes.experts.balance_loss,
            "router_z_loss_coef": sizes.experts.z_loss,
            "output_router_logits": false,
            "attention_bias": false,
            "use_sliding_window": false,
            "sliding_window": null,
        });
        config.extend(own.as_object().cloned().unwrap_or_default());
        config
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "model.embed_tokens"),
            ("norm", "model.norm"),
            ("head", "lm_head"),
            ("layers.{}.attention_norm", "model.layers.{}.input_layernorm"),
            ("layers.{}.attention.q", "model.layers.{}.self_attn.q_proj"),
            ("layers.{}.attention.k", "model.layers.{}.self_attn.k_proj"),
            ("layers.{}.attention.v", "model.layers.{}.self_attn.v_proj"),
            ("layers.{}.attention.o", "model.layers.{}.self_attn.o_proj"),
            ("layers.{}.attention.q_norm", "model.layers.{}.self_attn.q_norm"),
            ("layers.{}.attention.k_norm", "model.layers.{}.self_attn.k_norm"),
            ("layers.{}.ffn_norm", "model.layers.{}.post_attention_layernorm"),
            ("layers.{}.ffn.gate", "model.layers.{}.mlp.gate_proj"),
            ("layers.{}.ffn.up", "model.layers.{}.mlp.up_proj"),
            ("layers.{}.ffn.down", "model.layers.{}.mlp.down_proj"),
            ("layers.{}.ffn.router", "model.layers.{}.mlp.gate"),
            ("layers.{}.ffn.experts.gate", "model.layers.{}.mlp.experts.gate_proj.weight"),
            ("layers.{}.ffn.experts.up", "model.layers.{}.mlp.experts.up_proj.weight"),
            ("layers.{}.ffn.experts.down", "model.layers.{}.mlp.experts.down_proj.weight"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        mixture::stacked(spec, "mlp", ["gate_proj", "up_proj", "down_proj"])
    }

    fn experts(&self) -> Option<ExpertSizes> {
        Some(ExpertSizes::default())
    }
}
