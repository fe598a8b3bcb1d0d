//! Jamba (Lieber et al. 2024): Mamba mixers with norms inside, every so often attention without positions instead, and
//! every other feed-forward layer a mixture of experts.

use cupola_artifact::{Error, Result};
use cupola_nn::{ExpertsSpec, FfnKind, LayerSpec, MambaSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{ExpertSizes, Family, Sizes};
use crate::likeness::LlamaLike;
use crate::mixture;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::recurrent::{of_mamba, rows_of_layers};

/// Jamba.
pub struct Jamba;

/// Whether a setting's period and offset choose a layer.
fn chosen(config: &ConfigJson<'_>, what: &str, defaults: [usize; 2]) -> Result<impl Fn(usize) -> bool> {
    let period = config.size(&format!("{what}_layer_period"))?.unwrap_or(defaults[0]);
    let offset = config.count(&format!("{what}_layer_offset"), defaults[1])?;
    if offset >= period {
        return Err(Error::failed(format!(
            "`{what}_layer_offset` = {offset} in config.json must be less than `{what}_layer_period` = {period}"
        )));
    }
    Ok(move |layer: usize| layer % period == offset)
}

impl Family for Jamba {
    fn model_type(&self) -> &'static str {
        "jamba"
    }

    fn architecture(&self) -> &'static str {
        "JambaForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Lieber et al. 2024, Jamba: A Hybrid Transformer-Mamba Language Model, arXiv:2403.19887"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[("hidden_act", json!("silu"))])?;
        let mut like = LlamaLike::read(config)?;
        like.attention.rope = None;
        let mamba = MambaSpec {
            d_inner: like.d_model.saturating_mul(config.size("mamba_expand")?.unwrap_or(2)),
            d_state: config.size("mamba_d_state")?.unwrap_or(16),
            d_conv: config.size("mamba_d_conv")?.unwrap_or(4),
            dt_rank: config.size_or_auto("mamba_dt_rank", like.d_model.div_ceil(16))?,
            bias: config.flag("mamba_proj_bias", false)?,
            conv_bias: config.flag("mamba_conv_bias", true)?,
            norms: Some(like.norm),
        };
        let mut router = mixture::router(config)?;
        router.normalize = false;
        let (FfnKind::Gated(f) | FfnKind::Plain(f)) = like.ffn.kind;
        let several = router.n_experts > 1;
        let experts = ExpertsSpec { router, d_ff: like.ffn.d_ff, f, shared: None };
        let (attends, mixes) = (chosen(config, "attn", [8, 4])?, chosen(config, "expert", [2, 1])?);
        let block = |layer: usize| {
            let mixer: (&'static str, LayerSpec) = match attends(layer) {
                true => ("attention", like.attention.clone().into()),
                false => ("mamba", mamba.clone().into()),
            };
            let ffn = if several && mixes(layer) { experts.clone().into() } else { like.ffn.clone().into() };
            cupola_nn::BlockSpec { layout: like.layout, norm: like.norm, layers: vec![mixer, ("ffn", ffn)] }
        };
        let blocks = (0..like.n_layers).map(block).collect();
        like.spec_of(config, blocks)
    }

    /// Attention in the middle of every eight layers, or of the whole where there are fewer.
    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        ["rope_theta", "rope_scaling", "rope_parameters"].iter().for_each(|key| {
            config.remove(*key);
        });
        let period = sizes.n_layers.clamp(1, 8);
        let own = json!({
            "attn_layer_period": period,
            "attn_layer_offset": period / 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": sizes.experts.count,
            "num_experts_per_tok": sizes.experts.per_token,
            "router_aux_loss_coef": sizes.experts.balance_loss,
            "router_z_loss_coef": sizes.experts.z_loss,
            "output_router_logits": false,
            "mamba_expand": 2,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_dt_rank": sizes.d_model.div_ceil(16),
            "mamba_conv_bias": true,
            "mamba_proj_bias": false,
            "rms_norm_eps": 1e-6,
        });
        config.extend(own.as_object().cloned().unwrap_or_default());
        config
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "model.embed_tokens"),
            ("norm", "model.final_layernorm"),
            ("head", "lm_head"),
            ("layers.{}.mamba_norm", "model.layers.{}.input_layernorm"),
            ("layers.{}.mamba.in", "model.layers.{}.mamba.in_proj"),
            ("layers.{}.mamba.conv", "model.layers.{}.mamba.conv1d"),
            ("layers.{}.mamba.select", "model.layers.{}.mamba.x_proj"),
            ("layers.{}.mamba.dt", "model.layers.{}.mamba.dt_proj"),
            ("layers.{}.mamba.dt_norm", "model.layers.{}.mamba.dt_layernorm"),
            ("layers.{}.mamba.b_norm", "model.layers.{}.mamba.b_layernorm"),
            ("layers.{}.mamba.c_norm", "model.layers.{}.mamba.c_layernorm"),
            ("layers.{}.mamba.a_log", "model.layers.{}.mamba.A_log"),
            ("layers.{}.mamba.skip", "model.layers.{}.mamba.D"),
            ("layers.{}.mamba.out", "model.layers.{}.mamba.out_proj"),
            ("layers.{}.attention_norm", "model.layers.{}.input_layernorm"),
            ("layers.{}.attention.q", "model.layers.{}.self_attn.q_proj"),
            ("layers.{}.attention.k", "model.layers.{}.self_attn.k_proj"),
            ("layers.{}.attention.v", "model.layers.{}.self_attn.v_proj"),
            ("layers.{}.attention.o", "model.layers.{}.self_attn.o_proj"),
            ("layers.{}.ffn_norm", "model.layers.{}.pre_ff_layernorm"),
            ("layers.{}.ffn.gate", "model.layers.{}.feed_forward.gate_proj"),
            ("layers.{}.ffn.up", "model.layers.{}.feed_forward.up_proj"),
            ("layers.{}.ffn.down", "model.layers.{}.feed_forward.down_proj"),
            ("layers.{}.ffn.router", "model.layers.{}.feed_forward.router"),
            ("layers.{}.ffn.experts.gate", "model.layers.{}.feed_forward.experts.gate_proj.weight"),
            ("layers.{}.ffn.experts.up", "model.layers.{}.feed_forward.experts.up_proj.weight"),
            ("layers.{}.ffn.experts.down", "model.layers.{}.feed_forward.experts.down_proj.weight"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let mut all = mixture::stacked(spec, "feed_forward", ["gate_proj", "up_proj", "down_proj"]);
        all.extend(rows_of_layers(spec, |block, _, layer| match layer {
            LayerSpec::Mamba(mixer) => of_mamba(&format!("model.layers.{block}.mamba"), mixer),
            _ => Vec::new(),
        }));
        all
    }

    fn experts(&self) -> Option<ExpertSizes> {
        Some(ExpertSizes::default())
    }
}
