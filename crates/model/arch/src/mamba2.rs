//! Mamba-2 (Dao and Gu 2024): RMSNorm and a selective state space with heads.

use cupola_artifact::{Error, Result};
use cupola_nn::{BlockSpec, EmbeddingSpec, LayerSpec, Layout, Mamba2Spec, NormSpec, StackSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::recurrent::{decoder, of_mamba2, rows_of_layers};

/// Mamba-2.
pub struct Mamba2;

/// The least and greatest time step; none where the least is 0 and the greatest unbounded. transformers 5 writes the
/// latter as `{"__float__": "Infinity"}`, transformers 4 as a bare `Infinity`, which is no JSON and has become null.
fn limits(config: &ConfigJson<'_>) -> Result<Option<[f32; 2]>> {
    let Some(value) = config.get("time_step_limit") else { return Ok(None) };
    let number = |v: &Value| match v["__float__"].as_str() {
        Some("Infinity") => Some(f32::INFINITY),
        _ if v.is_null() => Some(f32::INFINITY),
        _ => v.as_f64().map(|n| n as f32),
    };
    let found = value.as_array().and_then(|list| list.iter().map(number).collect::<Option<Vec<f32>>>());
    match found.as_deref() {
        Some([least, greatest]) if *least <= 0.0 && *greatest == f32::INFINITY => Ok(None),
        Some([least, greatest]) if least <= greatest => Ok(Some([*least, *greatest])),
        _ => Err(Error::failed(format!("`time_step_limit` in config.json should be two numbers, not `{value}`"))),
    }
}

impl Family for Mamba2 {
    fn model_type(&self) -> &'static str {
        "mamba2"
    }

    fn architecture(&self) -> &'static str {
        "Mamba2ForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Dao and Gu 2024, Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State \
         Space Duality, arXiv:2405.21060"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[("hidden_act", json!("silu"))])?;
        let d_model = config.required_size("hidden_size")?;
        let (n_heads, d_head) = (config.required_size("num_heads")?, config.required_size("head_dim")?);
        let d_inner = (config.number("expand", 2.0)? * d_model as f64) as usize;
        if n_heads.checked_mul(d_head) != Some(d_inner) {
            return Err(Error::failed(format!(
                "config.json has {n_heads} heads of {d_head} numbers, but `expand` and `hidden_size` imply {d_inner}"
            )));
        }
        let n_groups = config.size("n_groups")?.unwrap_or(8);
        config.divides(("num_heads", n_heads), ("n_groups", n_groups))?;
        let eps = config.number("layer_norm_epsilon", 1e-5)?;
        let mixer = Mamba2Spec {
            n_heads,
            d_head,
            n_groups,
            d_state: config.size("state_size")?.unwrap_or(128),
            d_conv: config.size("conv_kernel")?.unwrap_or(4),
            bias: config.flag("use_bias", false)?,
            conv_bias: config.flag("use_conv_bias", true)?,
            eps: eps as f32,
            limits: limits(config)?,
        };
        let norm = NormSpec::rms(eps);
        let block = BlockSpec { layout: Layout::PreNorm, norm, layers: vec![("mixer", mixer.into())] };
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len: config.size("max_position_embeddings")?.unwrap_or(2048),
            embedding: EmbeddingSpec::plain(d_model),
            blocks: vec![block; config.blocks("num_hidden_layers")?],
            norm: Some(norm),
        };
        decoder(config, stack, false)
    }

    /// Heads of 64 channels where those divide twice the width, one group.
    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let d_inner = 2 * sizes.d_model;
        let d_head = [64, 32, 16, 8, 4].into_iter().find(|d| d_inner.is_multiple_of(*d)).unwrap_or(2);
        let config = json!({
            "hidden_size": sizes.d_model,
            "num_hidden_layers": sizes.n_layers,
            "expand": 2,
            "num_heads": d_inner / d_head,
            "head_dim": d_head,
            "n_groups": 1,
            "state_size": 64,
            "conv_kernel": 4,
            "chunk_size": 256,
            "use_bias": false,
            "use_conv_bias": true,
            "hidden_act": "silu",
            "layer_norm_epsilon": 1e-5,
            "max_position_embeddings": sizes.max_seq_len,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "backbone.embeddings"),
            ("norm", "backbone.norm_f"),
            ("head", "lm_head"),
            ("layers.{}.mixer_norm", "backbone.layers.{}.norm"),
            ("layers.{}.mixer.in", "backbone.layers.{}.mixer.in_proj"),
            ("layers.{}.mixer.conv", "backbone.layers.{}.mixer.conv1d"),
            ("layers.{}.mixer.dt_bias", "backbone.layers.{}.mixer.dt_bias"),
            ("layers.{}.mixer.a_log", "backbone.layers.{}.mixer.A_log"),
            ("layers.{}.mixer.skip", "backbone.layers.{}.mixer.D"),
            ("layers.{}.mixer.norm", "backbone.layers.{}.mixer.norm"),
            ("layers.{}.mixer.out", "backbone.layers.{}.mixer.out_proj"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        rows_of_layers(spec, |block, _, layer| match layer {
            LayerSpec::Mamba2(mixer) => of_mamba2(&format!("backbone.layers.{block}.mixer"), mixer),
            _ => Vec::new(),
        })
    }

    /// Older files call the embedding by its singular.
    fn rename(&self, name: &str) -> Option<String> {
        Some(name.replace("backbone.embedding.", "backbone.embeddings."))
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}
