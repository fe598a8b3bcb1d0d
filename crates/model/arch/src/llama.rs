//! Llama (Touvron et al. 2023): RMSNorm before each layer, rotary positions, grouped queries, SwiGLU.

use cupola_artifact::{Error, Result};

use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::likeness::LlamaLike;
use crate::names::{LLAMA, NameTable};
use crate::network::Spec;

/// Llama 1, 2, 3 and what shares their form.
pub struct Llama;

impl Family for Llama {
    fn model_type(&self) -> &'static str {
        "llama"
    }

    fn architecture(&self) -> &'static str {
        "LlamaForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Touvron et al. 2023, LLaMA: Open and Efficient Foundation Language Models, arXiv:2302.13971"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        if let Some(act) = config.get("hidden_act")
            && act != "silu"
        {
            return Err(Error::failed(format!(
                "config.json asks for the activation {act}; Llama here has `silu` only"
            )));
        }
        let mut like = LlamaLike::read(config)?;
        like.attention.bias = config.flag("attention_bias", false)?;
        like.attention.out_bias = like.attention.bias;
        like.ffn.bias = config.flag("mlp_bias", false)?;
        like.spec(config)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        for (key, value) in [("attention_bias", json!(false)), ("mlp_bias", json!(false)), ("pretraining_tp", json!(1))]
        {
            config.insert(key.into(), value);
        }
        config
    }

    fn names(&self) -> NameTable {
        LLAMA
    }
}
