//! Zamba 2 (Glorioso et al. 2024): Mamba-2 mixers, before some of which one or two shared Transformer blocks look at the
//! stream and the embeddings.

use cupola_artifact::{Error, Result};
use cupola_nn::{
    BlockSpec, EmbeddingSpec, HybridSpec, LayerSpec, Layout, Mamba2Spec, NormSpec, SharedBlockSpec, StackSpec,
};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::recurrent::{decoder, of_mamba2, rows_of_layers};

/// Zamba 2.
pub struct Zamba2;

fn mixer(config: &ConfigJson<'_>, d_model: usize) -> Result<Mamba2Spec> {
    let n_heads = config.size("n_mamba_heads")?.unwrap_or(8);
    let expand = config.size("mamba_expand")?.unwrap_or(2);
    let d_inner = d_model.saturating_mul(expand);
    let d_head = config.divides(("mamba_expand · hidden_size", d_inner), ("n_mamba_heads", n_heads))?;
    let n_groups = config.size("mamba_ngroups")?.unwrap_or(1);
    config.divides(("n_mamba_heads", n_heads), ("mamba_ngroups", n_groups))?;
    Ok(Mamba2Spec {
        n_heads,
        d_head,
        n_groups,
        d_state: config.size("mamba_d_state")?.unwrap_or(64),
        d_conv: config.size("mamba_d_conv")?.unwrap_or(4),
        bias: config.flag("add_bias_linear", false)?,
        conv_bias: true,
        eps: 1e-5,
        limits: Some([config.number("time_step_min", 0.001)? as f32, f32::INFINITY]),
    })
}

fn shared_block(config: &ConfigJson<'_>, d_model: usize) -> Result<SharedBlockSpec> {
    let n_heads = config.size("num_attention_heads")?.unwrap_or(32);
    let n_kv_heads = config.size("num_key_value_heads")?.unwrap_or(n_heads);
    config.divides(("num_attention_heads", n_heads), ("num_key_value_heads", n_kv_heads))?;
    let d_head = config.divides(("2 · hidden_size", d_model.saturating_mul(2)), ("num_attention_heads", n_heads))?;
    let rope = if config.flag("use_mem_rope", false)? { Some(config.rope(d_head)?) } else { None };
    Ok(SharedBlockSpec {
        n_heads,
        n_kv_heads,
        d_head,
        rope,
        d_ff: config.size("intermediate_size")?.unwrap_or(4 * d_model),
        activation: config.activation("hidden_act", "gelu")?,
        bias: config.flag("add_bias_linear", false)?,
    })
}

/// Which layers are hybrid.
fn hybrid_layers(config: &ConfigJson<'_>) -> Result<Vec<bool>> {
    let n_layers = config.size("num_hidden_layers")?.unwrap_or(54);
    let Some(kinds) = config.texts("layers_block_type")? else {
        return Err(Error::failed("config.json has no `layers_block_type`"));
    };
    if kinds.len() != n_layers {
        return Err(Error::failed(format!(
            "config.json has {n_layers} layers, but {} `layers_block_type`",
            kinds.len()
        )));
    }
    let one = |kind: &&str| match *kind {
        "hybrid" => Ok(true),
        "mamba" | "linear_attention" => Ok(false),
        other => Err(Error::failed(format!("`layers_block_type` in config.json has the unknown type `{other}`"))
            .with_hint("this build knows mamba and hybrid")),
    };
    kinds.iter().map(one).collect()
}

impl Family for Zamba2 {
    fn model_type(&self) -> &'static str {
        "zamba2"
    }

    fn architecture(&self) -> &'static str {
        "Zamba2ForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Glorioso et al. 2024, The Zamba2 Suite: Technical Report, arXiv:2411.15242"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[("use_long_context", json!(false))])?;
        let d_model = config.required_size("hidden_size")?;
        let norm = NormSpec::rms(config.number("rms_norm_eps", 1e-5)?);
        let (mixer, block) = (mixer(config, d_model)?, shared_block(config, d_model)?);
        let (n_blocks, rank) =
            (config.size("num_mem_blocks")?.unwrap_or(1), config.size("adapter_rank")?.unwrap_or(128));
        let adapts_attention = config.flag("use_shared_attention_adapter", false)?;
        let mut seen = 0;
        let blocks = hybrid_layers(config)?.into_iter().map(|hybrid| {
            if !hybrid {
                return BlockSpec { layout: Layout::PreNorm, norm, layers: vec![("mixer", mixer.clone().into())] };
            }
            seen += 1;
            let layer = HybridSpec {
                block: block.clone(),
                shared: (seen - 1) % n_blocks,
                owner: seen <= n_blocks,
                rank,
                adapts_attention,
                mixer: mixer.clone(),
                norm,
            };
            BlockSpec { layout: Layout::Residual, norm, layers: vec![("hybrid", layer.into())] }
        });
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len: config.size("max_position_embeddings")?.unwrap_or(4096),
            embedding: EmbeddingSpec::plain(d_model),
            blocks: blocks.collect(),
            norm: Some(norm),
        };
        decoder(config, stack, true)
    }

    /// The last layer is hybrid, and every third before it.
    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let d_inner = 2 * sizes.d_model;
        let d_head = [64, 32, 16, 8, 4].into_iter().find(|d| d_inner.is_multiple_of(*d)).unwrap_or(2);
        let kind = |i: usize| if (sizes.n_layers - 1 - i).is_multiple_of(3) { "hybrid" } else { "mamba" };
        let config = json!({
            "hidden_size": sizes.d_model,
            "intermediate_size": sizes.d_ff,
            "num_hidden_layers": sizes.n_layers,
            "layers_block_type": (0..sizes.n_layers).map(kind).collect::<Vec<_>>(),
            "num_attention_heads": sizes.n_heads,
            "num_key_value_heads": sizes.n_heads,
            "attention_hidden_size": d_inner,
            "attention_head_dim": d_inner / sizes.n_heads.max(1),
            "n_mamba_heads": d_inner / d_head,
            "mamba_headdim": d_head,
            "mamba_expand": 2,
            "mamba_d_state": 64,
            "mamba_d_conv": 4,
            "mamba_ngroups": 1,
            "num_mem_blocks": 1,
            "adapter_rank": (sizes.d_model / 8).max(1),
            "use_shared_attention_adapter": false,
            "use_mem_rope": true,
            "add_bias_linear": false,
            "hidden_act": "gelu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "max_position_embeddings": sizes.max_seq_len,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        NAMES
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let mut owners = Vec::new();
        let hybrids: Vec<(usize, &HybridSpec)> = spec.stack().blocks.iter().enumerate().filter_map(hybrid).collect();
        owners.extend(hybrids.iter().filter(|(_, hybrid)| hybrid.owner).map(|(layer, _)| *layer));
        let mut all = rows_of_layers(spec, |layer, _, kind| match kind {
            LayerSpec::Mamba2(mixer) => of_mamba2(&format!("model.layers.{layer}.mamba"), mixer),
            LayerSpec::Hybrid(hybrid) => of_mamba2(&format!("model.layers.{layer}.mamba_decoder.mamba"), &hybrid.mixer),
            _ => Vec::new(),
        });
        // Files have adapters in the shared block, numbered by the layers that use it.
        for (i, (layer, hybrid)) in hybrids.iter().enumerate() {
            let place = format!("model.layers.{}.shared_transformer", owners[hybrid.shared]);
            let lists = [
                ("ffn", "feed_forward.gate_up_proj_adapter_list"),
                ("q", "self_attn.linear_q_adapter_list"),
                ("k", "self_attn.linear_k_adapter_list"),
                ("v", "self_attn.linear_v_adapter_list"),
            ];
            for ((ours, list), part) in lists.into_iter().flat_map(|list| [(list, 0), (list, 1)]) {
                all.push(Rearrangement::Renamed {
                    file: format!("{place}.{list}.{i}.{part}."),
                    name: format!("model.layers.{layer}.{ours}_adapter.{}.", ["a", "b"][part]),
                });
            }
        }
        all
    }

    fn form(&self) -> Form {
        Form { gated: true, grouped_queries: false }
    }
}

fn hybrid((layer, block): (usize, &BlockSpec)) -> Option<(usize, &HybridSpec)> {
    block.layers.iter().find_map(|(_, kind)| match kind {
        LayerSpec::Hybrid(hybrid) => Some((layer, hybrid)),
        _ => None,
    })
}

const NAMES: NameTable = &[
    ("embed.tokens", "model.embed_tokens"),
    ("norm", "model.final_layernorm"),
    ("head", "lm_head"),
    ("layers.{}.mixer_norm", "model.layers.{}.input_layernorm"),
    ("layers.{}.mixer.in", "model.layers.{}.mamba.in_proj"),
    ("layers.{}.mixer.conv", "model.layers.{}.mamba.conv1d"),
    ("layers.{}.mixer.dt_bias", "model.layers.{}.mamba.dt_bias"),
    ("layers.{}.mixer.a_log", "model.layers.{}.mamba.A_log"),
    ("layers.{}.mixer.skip", "model.layers.{}.mamba.D"),
    ("layers.{}.mixer.norm", "model.layers.{}.mamba.norm"),
    ("layers.{}.mixer.out", "model.layers.{}.mamba.out_proj"),
    ("layers.{}.hybrid.norm", "model.layers.{}.mamba_decoder.input_layernorm"),
    ("layers.{}.hybrid.mixer.in", "model.layers.{}.mamba_decoder.mamba.in_proj"),
    ("layers.{}.hybrid.mixer.conv", "model.layers.{}.mamba_decoder.mamba.conv1d"),
    ("layers.{}.hybrid.mixer.dt_bias", "model.layers.{}.mamba_decoder.mamba.dt_bias"),
    ("layers.{}.hybrid.mixer.a_log", "model.layers.{}.mamba_decoder.mamba.A_log"),
    ("layers.{}.hybrid.mixer.skip", "model.layers.{}.mamba_decoder.mamba.D"),
    ("layers.{}.hybrid.mixer.norm", "model.layers.{}.mamba_decoder.mamba.norm"),
    ("layers.{}.hybrid.mixer.out", "model.layers.{}.mamba_decoder.mamba.out_proj"),
    ("layers.{}.hybrid.linear", "model.layers.{}.linear"),
    ("layers.{}.hybrid.shared.norm", "model.layers.{}.shared_transformer.input_layernorm"),
    ("layers.{}.hybrid.shared.q", "model.layers.{}.shared_transformer.self_attn.q_proj"),
    ("layers.{}.hybrid.shared.k", "model.layers.{}.shared_transformer.self_attn.k_proj"),
    ("layers.{}.hybrid.shared.v", "model.layers.{}.shared_transformer.self_attn.v_proj"),
    ("layers.{}.hybrid.shared.o", "model.layers.{}.shared_transformer.self_attn.o_proj"),
    ("layers.{}.hybrid.shared.ffn_norm", "model.layers.{}.shared_transformer.pre_ff_layernorm"),
    ("layers.{}.hybrid.shared.gate_up", "model.layers.{}.shared_transformer.feed_forward.gate_up_proj"),
    ("layers.{}.hybrid.shared.down", "model.layers.{}.shared_transformer.feed_forward.down_proj"),
    ("layers.{}.hybrid.ffn_adapter.a", "model.layers.{}.ffn_adapter.a"),
    ("layers.{}.hybrid.ffn_adapter.b", "model.layers.{}.ffn_adapter.b"),
    ("layers.{}.hybrid.q_adapter.a", "model.layers.{}.q_adapter.a"),
    ("layers.{}.hybrid.q_adapter.b", "model.layers.{}.q_adapter.b"),
    ("layers.{}.hybrid.k_adapter.a", "model.layers.{}.k_adapter.a"),
    ("layers.{}.hybrid.k_adapter.b", "model.layers.{}.k_adapter.b"),
    ("layers.{}.hybrid.v_adapter.a", "model.layers.{}.v_adapter.a"),
    ("layers.{}.hybrid.v_adapter.b", "model.layers.{}.v_adapter.b"),
];
