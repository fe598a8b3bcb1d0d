//! Mistral (Jiang et al. 2023): Llama with a sliding window.

use cupola_artifact::Result;
use serde_json::{Map, Value};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::likeness::{LlamaLike, sliding_layers};
use crate::names::{LLAMA, NameTable};
use crate::network::Spec;

/// Mistral 7B and what shares its form.
pub struct Mistral;

impl Family for Mistral {
    fn model_type(&self) -> &'static str {
        "mistral"
    }

    fn architecture(&self) -> &'static str {
        "MistralForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Jiang et al. 2023, Mistral 7B, arXiv:2310.06825"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let like = LlamaLike::read(config)?;
        let limited = config.get("sliding_window").is_some();
        let sliding = sliding_layers(config, like.n_layers, |_| limited)?;
        like.spec_with_windows(config, &sliding)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        config.insert("sliding_window".into(), Value::Null);
        config
    }

    fn names(&self) -> NameTable {
        LLAMA
    }
}
