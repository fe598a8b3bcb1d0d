//! A Llama one block of which has a probabilistic logic program between attention and the feed-forward layer, after
//! DeepProbLog (Manhaeve et al. 2018).

use cupola_artifact::{Error, Result};
use cupola_nn::LogicSpec;
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::likeness::LlamaLike;
use crate::names::NameTable;
use crate::network::Spec;

/// No program has more constants, or more relations.
const MOST: [(&str, usize); 2] = [("logic_constants", 256), ("logic_relations", 32)];

/// Neural probabilistic logic.
pub struct Logic;

impl Family for Logic {
    fn model_type(&self) -> &'static str {
        "cupola_logic"
    }

    fn architecture(&self) -> &'static str {
        "CupolaLogicForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Manhaeve et al. 2018, DeepProbLog: Neural Probabilistic Logic Programming, arXiv:1805.10872"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let like = LlamaLike::read(config)?;
        let mut counts = [0; 2];
        for (count, (key, most)) in counts.iter_mut().zip(MOST) {
            *count = config.required_size(key)?;
            if *count > most {
                return Err(Error::failed(format!("`{key}` in config.json is {count}; the most are {most}")));
            }
        }
        let [constants, relations] = counts;
        let place = config.count("logic_block", 0)?;
        let mut blocks = vec![like.block(like.attention.clone()); like.n_layers];
        let Some(block) = blocks.get_mut(place) else {
            return Err(Error::failed(format!(
                "`logic_block` in config.json is {place}, and the model has {} blocks, counted from 0",
                like.n_layers
            )));
        };
        block.layers.insert(1, ("logic", LogicSpec { constants, relations }.into()));
        like.spec_of(config, blocks)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        config.insert("logic_constants".into(), json!(16));
        config.insert("logic_relations".into(), json!(8));
        config.insert("logic_block".into(), json!(0));
        config
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "model.embed_tokens"),
            ("norm", "model.norm"),
            ("head", "lm_head"),
            ("layers.{}.attention_norm", "model.layers.{}.input_layernorm"),
            ("layers.{}.attention.q", "model.layers.{}.self_attn.q_proj"),
            ("layers.{}.attention.k", "model.layers.{}.self_attn.k_proj"),
            ("layers.{}.attention.v", "model.layers.{}.self_attn.v_proj"),
            ("layers.{}.attention.o", "model.layers.{}.self_attn.o_proj"),
            ("layers.{}.logic_norm", "model.layers.{}.logic_layernorm"),
            ("layers.{}.logic.asks", "model.layers.{}.logic.asks"),
            ("layers.{}.logic.back", "model.layers.{}.logic.back"),
            ("layers.{}.logic.names", "model.layers.{}.logic.names"),
            ("layers.{}.logic.relations", "model.layers.{}.logic.relations"),
            ("layers.{}.logic.tells", "model.layers.{}.logic.tells"),
            ("layers.{}.logic.rules", "model.layers.{}.logic.rules"),
            ("layers.{}.logic.gain", "model.layers.{}.logic.gain"),
            ("layers.{}.ffn_norm", "model.layers.{}.post_attention_layernorm"),
            ("layers.{}.ffn.gate", "model.layers.{}.mlp.gate_proj"),
            ("layers.{}.ffn.up", "model.layers.{}.mlp.up_proj"),
            ("layers.{}.ffn.down", "model.layers.{}.mlp.down_proj"),
        ]
    }

    fn settings(&self) -> &'static [&'static str] {
        &["logic_constants", "logic_relations", "logic_block"]
    }
}
