//! Mixtral: Mistral with a mixture of experts in the place of each feed-forward layer, two of eight for each token.

use cupola_artifact::{Error, Result};
use cupola_nn::{BlockSpec, ExpertsSpec, FfnKind};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{ExpertSizes, Family, Sizes};
use crate::likeness::LlamaLike;
use crate::mixture;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// Mixtral.
pub struct Mixtral;

impl Family for Mixtral {
    fn model_type(&self) -> &'static str {
        "mixtral"
    }

    fn architecture(&self) -> &'static str {
        "MixtralForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        if config.number("router_jitter_noise", 0.0)? != 0.0 {
            return Err(Error::failed("`router_jitter_noise` in config.json is not supported")
                .with_hint("this build knows router_jitter_noise = 0"));
        }
        let mut like = LlamaLike::read(config)?;
        like.attention.window = config.size("sliding_window")?.map(|w| [w - 1, 0]);
        let (FfnKind::Gated(f) | FfnKind::Plain(f)) = like.ffn.kind;
        let experts = ExpertsSpec { router: mixture::router(config)?, d_ff: like.ffn.d_ff, f, shared: None };
        let layers = vec![("attention", like.attention.clone().into()), ("ffn", experts.into())];
        let blocks = vec![BlockSpec { layout: like.layout, norm: like.norm, layers }; like.n_layers];
        like.spec_of(config, blocks)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        let own = json!({
            "num_local_experts": sizes.experts.count,
            "num_experts_per_tok": sizes.experts.per_token,
            "router_aux_loss_coef": sizes.experts.balance_loss,
            "router_z_loss_coef": sizes.experts.z_loss,
            "router_jitter_noise": 0.0,
            "output_router_logits": false,
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
            ("layers.{}.ffn_norm", "model.layers.{}.post_attention_layernorm"),
            ("layers.{}.ffn.router", "model.layers.{}.block_sparse_moe.gate"),
            ("layers.{}.ffn.experts.gate", "model.layers.{}.block_sparse_moe.experts.w1.weight"),
            ("layers.{}.ffn.experts.up", "model.layers.{}.block_sparse_moe.experts.w3.weight"),
            ("layers.{}.ffn.experts.down", "model.layers.{}.block_sparse_moe.experts.w2.weight"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        mixture::stacked(spec, "block_sparse_moe", ["w1", "w3", "w2"])
    }

    fn experts(&self) -> Option<ExpertSizes> {
        Some(ExpertSizes::default())
    }
}
