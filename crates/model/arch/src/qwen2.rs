//! Qwen 2 (Yang et al. 2024): Llama with biases on queries, keys and values, and a sliding window in the later layers.

use cupola_artifact::Result;
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::likeness::{LlamaLike, sliding_layers};
use crate::names::{LLAMA, NameTable};
use crate::network::Spec;

/// Qwen 1.5, 2 and 2.5.
pub struct Qwen2;

/// The layers that attend a window only: those from `max_window_layers` on, where windows are used at all.
pub(crate) fn windows(config: &ConfigJson<'_>, n_layers: usize) -> Result<Vec<bool>> {
    let limited = config.flag("use_sliding_window", false)? && config.get("sliding_window").is_some();
    let from = config.get("max_window_layers").and_then(Value::as_u64).unwrap_or(28) as usize;
    sliding_layers(config, n_layers, |layer| limited && layer >= from)
}

impl Family for Qwen2 {
    fn model_type(&self) -> &'static str {
        "qwen2"
    }

    fn architecture(&self) -> &'static str {
        "Qwen2ForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Yang et al. 2024, Qwen2 Technical Report, arXiv:2407.10671"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let mut like = LlamaLike::read(config)?;
        like.attention.bias = true;
        let sliding = windows(config, like.n_layers)?;
        like.spec_with_windows(config, &sliding)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        // This family has no other width of heads.
        config.remove("head_dim");
        config.insert("use_sliding_window".into(), json!(false));
        config
    }

    fn names(&self) -> NameTable {
        LLAMA
    }
}
