//! Qwen 3 (Yang et al. 2025): Llama with norms over each head's queries and keys.

use cupola_artifact::Result;
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::likeness::LlamaLike;
use crate::names::{LLAMA, NameTable};
use crate::network::Spec;
use crate::qwen2::windows;

/// Qwen 3, its dense models.
pub struct Qwen3;

impl Family for Qwen3 {
    fn model_type(&self) -> &'static str {
        "qwen3"
    }

    fn architecture(&self) -> &'static str {
        "Qwen3ForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Yang et al. 2025, Qwen3 Technical Report, arXiv:2505.09388"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let mut like = LlamaLike::read(config)?;
        if config.get("head_dim").is_none() {
            like.set_d_head(config, 128)?;
        }
        like.attention.bias = config.flag("attention_bias", false)?;
        like.attention.out_bias = like.attention.bias;
        like.attention.qk_norm = Some(like.norm);
        let sliding = windows(config, like.n_layers)?;
        like.spec_with_windows(config, &sliding)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        config.insert("attention_bias".into(), json!(false));
        config.insert("use_sliding_window".into(), json!(false));
        config
    }

    fn names(&self) -> NameTable {
        LLAMA
    }
}
