//! DeepSeek-V3: latent attention, and mixtures of many narrow experts beside shared ones, which sigmoid scores choose in groups and
//! a bias keeps in balance. What predicts further tokens in the published files is left out, as in transformers.

use cupola_artifact::{Error, Result};
use cupola_nn::{
    Activation, BlockSpec, DecoderSpec, EmbeddingSpec, ExpertsSpec, FeedForwardSpec, FfnKind, LatentAttentionSpec,
    LayerSpec, Layout, NormSpec, RouterSpec, Scores, StackSpec,
};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{ExpertSizes, Family, Form, Sizes};
use crate::likeness::LlamaLike;
use crate::mixture;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// DeepSeek-V3 and R1.
pub struct DeepseekV3;

/// How far a bias moves after each step of training (section 4.2 of the report).
const BIAS_STEP: f32 = 0.001;

fn router(config: &ConfigJson<'_>) -> Result<RouterSpec> {
    let mut router = mixture::router(config)?;
    router.scores = Scores::Sigmoid;
    router.normalize = config.flag("norm_topk_prob", true)?;
    router.scale = config.number("routed_scaling_factor", 2.5)? as f32;
    router.bias_step = Some(BIAS_STEP);
    router.balance = config.number("router_aux_loss_coef", 0.0)? as f32;
    let (groups, kept) = (config.size("n_group")?.unwrap_or(8), config.size("topk_group")?.unwrap_or(4));
    let size = config.divides(("n_routed_experts", router.n_experts), ("n_group", groups))?;
    if kept > groups || router.chosen > kept * size {
        return Err(Error::failed(format!(
            "config.json chooses {} experts from {kept} (`topk_group`) of {groups} groups of {size}",
            router.chosen
        )));
    }
    router.groups = (kept < groups).then_some([groups, kept]);
    Ok(router)
}

fn attention(config: &ConfigJson<'_>) -> Result<LatentAttentionSpec> {
    let d_rope = config.required_size("qk_rope_head_dim")?;
    let d_plain = config.required_size("qk_nope_head_dim")?;
    Ok(LatentAttentionSpec {
        n_heads: config.required_size("num_attention_heads")?,
        q_rank: config.size("q_lora_rank")?,
        kv_rank: config.required_size("kv_lora_rank")?,
        d_plain,
        rope: config.rope(d_rope)?,
        interleaved: config.flag("rope_interleave", true)?,
        d_value: config.required_size("v_head_dim")?,
        scale: (((d_plain + d_rope) as f64).powf(-0.5) * config.stretched_scale()?) as f32,
        bias: config.flag("attention_bias", false)?,
        // Theirs has this epsilon whatever the others have.
        norm: NormSpec::rms(1e-6),
    })
}

fn dense(f: Activation, d_ff: usize) -> FeedForwardSpec {
    FeedForwardSpec { d_ff, kind: FfnKind::Gated(f), bias: false }
}

impl Family for DeepseekV3 {
    fn model_type(&self) -> &'static str {
        "deepseek_v3"
    }

    fn architecture(&self) -> &'static str {
        "DeepseekV3ForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "DeepSeek-AI 2024, DeepSeek-V3 Technical Report, arXiv:2412.19437"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[
            ("scoring_func", json!("sigmoid")),
            ("topk_method", json!("noaux_tc")),
            ("moe_layer_freq", json!(1)),
            ("partial_rotary_factor", json!(1.0)),
        ])?;
        let (d_model, f) = (config.required_size("hidden_size")?, config.activation("hidden_act", "silu")?);
        let d_ff = config.required_size("moe_intermediate_size")?;
        let shared = match config.count("n_shared_experts", 1)? {
            0 => None,
            n => Some(dense(f, n.checked_mul(d_ff).ok_or_else(|| Error::failed("config.json has too many experts"))?)),
        };
        let experts = ExpertsSpec { router: router(config)?, d_ff, f, shared };
        let plain = dense(f, config.required_size("intermediate_size")?);
        let (attention, first) = (attention(config)?, config.count("first_k_dense_replace", 3)?);
        let norm = NormSpec::rms(config.number("rms_norm_eps", 1e-6)?);
        let block = |layer: usize| {
            let ffn: LayerSpec = if layer < first { plain.clone().into() } else { experts.clone().into() };
            BlockSpec {
                layout: Layout::PreNorm,
                norm,
                layers: vec![("attention", attention.clone().into()), ("ffn", ffn)],
            }
        };
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len: config.size("max_position_embeddings")?.unwrap_or(4096),
            embedding: EmbeddingSpec::plain(d_model),
            blocks: (0..config.blocks("num_hidden_layers")?).map(block).collect(),
            norm: Some(norm),
        };
        Ok(Spec::Decoder(DecoderSpec {
            stack,
            tie_embeddings: config.flag("tie_word_embeddings", false)?,
            soft_cap: None,
            bos: config.token("bos_token_id")?,
            eos: config.tokens("eos_token_id")?,
            pad: config.token("pad_token_id")?,
        }))
    }

    /// The latent is four heads wide as in the report, and the chosen experts with the shared one are as wide as the dense layer
    /// that comes first. Groups, which keep a token on few machines, are left out.
    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        let d_rope = if sizes.d_head.is_multiple_of(4) { sizes.d_head / 2 } else { sizes.d_head };
        let own = json!({
            "num_key_value_heads": sizes.n_heads,
            "head_dim": d_rope,
            "qk_head_dim": sizes.d_head + d_rope,
            "qk_nope_head_dim": sizes.d_head,
            "qk_rope_head_dim": d_rope,
            "v_head_dim": sizes.d_head,
            "kv_lora_rank": 4 * sizes.d_head,
            "q_lora_rank": null,
            "rope_interleave": true,
            "attention_bias": false,
            "n_routed_experts": sizes.experts.count,
            "num_experts_per_tok": sizes.experts.per_token,
            "n_shared_experts": 1,
            "moe_intermediate_size": sizes.d_ff.div_ceil(sizes.experts.per_token + 1),
            "first_k_dense_replace": usize::from(sizes.n_layers > 1),
            "router_aux_loss_coef": sizes.experts.balance_loss,
            "router_z_loss_coef": sizes.experts.z_loss,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": true,
            "routed_scaling_factor": 1.0,
            "num_nextn_predict_layers": 0,
            "rms_norm_eps": 1e-6,
            "output_router_logits": false,
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
            ("layers.{}.attention.q_down", "model.layers.{}.self_attn.q_a_proj"),
            ("layers.{}.attention.q_norm", "model.layers.{}.self_attn.q_a_layernorm"),
            ("layers.{}.attention.q_up", "model.layers.{}.self_attn.q_b_proj"),
            ("layers.{}.attention.q", "model.layers.{}.self_attn.q_proj"),
            ("layers.{}.attention.kv_down", "model.layers.{}.self_attn.kv_a_proj_with_mqa"),
            ("layers.{}.attention.kv_norm", "model.layers.{}.self_attn.kv_a_layernorm"),
            ("layers.{}.attention.kv", "model.layers.{}.self_attn.kv_b_proj"),
            ("layers.{}.attention.o", "model.layers.{}.self_attn.o_proj"),
            ("layers.{}.ffn_norm", "model.layers.{}.post_attention_layernorm"),
            ("layers.{}.ffn.gate", "model.layers.{}.mlp.gate_proj"),
            ("layers.{}.ffn.up", "model.layers.{}.mlp.up_proj"),
            ("layers.{}.ffn.down", "model.layers.{}.mlp.down_proj"),
            ("layers.{}.ffn.router", "model.layers.{}.mlp.gate"),
            ("layers.{}.ffn.router.bias", "model.layers.{}.mlp.gate.e_score_correction_bias"),
            ("layers.{}.ffn.experts.gate", "model.layers.{}.mlp.experts.gate_proj.weight"),
            ("layers.{}.ffn.experts.up", "model.layers.{}.mlp.experts.up_proj.weight"),
            ("layers.{}.ffn.experts.down", "model.layers.{}.mlp.experts.down_proj.weight"),
            ("layers.{}.ffn.shared.gate", "model.layers.{}.mlp.shared_experts.gate_proj"),
            ("layers.{}.ffn.shared.up", "model.layers.{}.mlp.shared_experts.up_proj"),
            ("layers.{}.ffn.shared.down", "model.layers.{}.mlp.shared_experts.down_proj"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let mut all = mixture::stacked(spec, "mlp", ["gate_proj", "up_proj", "down_proj"]);
        // The layer after the last predicts further tokens.
        all.push(Rearrangement::Dropped { prefix: format!("model.layers.{}.", spec.stack().blocks.len()) });
        all
    }

    fn form(&self) -> Form {
        Form { gated: true, grouped_queries: false }
    }

    /// The bias keeps the balance; the loss is as small as in the report.
    fn experts(&self) -> Option<ExpertSizes> {
        Some(ExpertSizes { balance_loss: 1e-4, z_loss: 0.0, ..ExpertSizes::default() })
    }
}
