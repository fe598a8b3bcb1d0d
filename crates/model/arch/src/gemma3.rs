//! Gemma 3 (Kamath et al. 2025), its text models: Gemma 2 with norms of queries and keys in place of soft caps, five layers with a
//! sliding window to one without, and rotary positions of their own for each.

use cupola_artifact::Result;
use cupola_nn::{AttentionSpec, RopeScaling, RopeSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::gemma2;
use crate::likeness::sliding_layers;
use crate::names::NameTable;
use crate::network::Spec;

/// Gemma 3's text models.
pub struct Gemma3;

/// The rotary positions of windows and of whole sequences.
fn ropes(config: &ConfigJson<'_>, d_head: usize) -> Result<[RopeSpec; 2]> {
    if let Some(both) = config.section("rope_parameters")?
        && let (Some(sliding), Some(full)) = (both.section("sliding_attention")?, both.section("full_attention")?)
    {
        return Ok([config.rope_of(&sliding, d_head)?, config.rope_of(&full, d_head)?]);
    }
    let full = RopeSpec { theta: config.number("rope_theta", 1e6)?, ..config.rope(d_head)? };
    let theta = config.number("rope_local_base_freq", 10_000.0)?;
    Ok([RopeSpec { theta, rotary_dim: d_head, scaling: RopeScaling::None }, full])
}

impl Family for Gemma3 {
    fn model_type(&self) -> &'static str {
        "gemma3_text"
    }

    fn architecture(&self) -> &'static str {
        "Gemma3ForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Gemma Team 2025, Gemma 3 Technical Report, arXiv:2503.19786"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[("use_bidirectional_attention", json!(false))])?;
        let mut like = gemma2::read(config)?;
        like.attention.qk_norm = Some(like.norm);
        let period = config.size("sliding_window_pattern")?.or(config.size("_sliding_window_pattern")?).unwrap_or(6);
        let sliding = sliding_layers(config, like.n_layers, |layer| !(layer + 1).is_multiple_of(period))?;
        let [local, global] = ropes(config, like.attention.d_head)?;
        let before = config.size("sliding_window")?.unwrap_or(4096) - 1;
        let attention = |sliding: &bool| match sliding {
            true => AttentionSpec { window: Some([before, 0]), rope: Some(local.clone()), ..like.attention.clone() },
            false => AttentionSpec { rope: Some(global.clone()), ..like.attention.clone() },
        };
        let blocks = sliding.iter().map(|s| like.block(attention(s))).collect();
        like.spec_of(config, blocks)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = gemma2::fresh(sizes);
        let kind = |layer: usize| if (layer + 1).is_multiple_of(6) { "full_attention" } else { "sliding_attention" };
        config.insert("layer_types".into(), (0..sizes.n_layers).map(kind).collect());
        let rope = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
        let both = json!({"full_attention": rope(1e6), "sliding_attention": rope(1e4)});
        config.insert("rope_parameters".into(), both);
        config.insert("rope_theta".into(), json!(1e6));
        config.insert("rope_local_base_freq".into(), json!(1e4));
        config
    }

    fn names(&self) -> NameTable {
        gemma2::NAMES
    }
}
