//! Mamba (Gu and Dao 2023): RMSNorm and a selective state space, without attention and without feed-forward layers.

use cupola_artifact::Result;
use cupola_nn::{BlockSpec, EmbeddingSpec, LayerSpec, Layout, MambaSpec, NormSpec, StackSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::recurrent::{decoder, of_mamba, rows_of_layers};

/// Mamba, Falcon-Mamba's norms apart.
pub struct Mamba;

impl Family for Mamba {
    fn model_type(&self) -> &'static str {
        "mamba"
    }

    fn architecture(&self) -> &'static str {
        "MambaForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Gu and Dao 2023, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, arXiv:2312.00752"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[("hidden_act", json!("silu"))])?;
        let d_model = config.required_size("hidden_size")?;
        let d_inner = match config.size("intermediate_size")? {
            Some(width) => width,
            None => (config.number("expand", 2.0)? * d_model as f64) as usize,
        };
        let mixer = MambaSpec {
            d_inner,
            d_state: config.size("state_size")?.unwrap_or(16),
            d_conv: config.size("conv_kernel")?.unwrap_or(4),
            dt_rank: config.size_or_auto("time_step_rank", d_model.div_ceil(16))?,
            bias: config.flag("use_bias", false)?,
            conv_bias: config.flag("use_conv_bias", true)?,
            norms: None,
        };
        let norm = NormSpec::rms(config.number("layer_norm_epsilon", 1e-5)?);
        let block = BlockSpec { layout: Layout::PreNorm, norm, layers: vec![("mixer", mixer.into())] };
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len: config.size("max_position_embeddings")?.unwrap_or(2048),
            embedding: EmbeddingSpec::plain(d_model),
            blocks: vec![block; config.blocks("num_hidden_layers")?],
            norm: Some(norm),
        };
        decoder(config, stack, true)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "hidden_size": sizes.d_model,
            "num_hidden_layers": sizes.n_layers,
            "intermediate_size": 2 * sizes.d_model,
            "expand": 2,
            "state_size": 16,
            "conv_kernel": 4,
            "time_step_rank": sizes.d_model.div_ceil(16),
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
            ("layers.{}.mixer.select", "backbone.layers.{}.mixer.x_proj"),
            ("layers.{}.mixer.dt", "backbone.layers.{}.mixer.dt_proj"),
            ("layers.{}.mixer.a_log", "backbone.layers.{}.mixer.A_log"),
            ("layers.{}.mixer.skip", "backbone.layers.{}.mixer.D"),
            ("layers.{}.mixer.out", "backbone.layers.{}.mixer.out_proj"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        rows_of_layers(spec, |block, _, layer| match layer {
            LayerSpec::Mamba(mixer) => of_mamba(&format!("backbone.layers.{block}.mixer"), mixer),
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
