//! A Llama whose weights are tensor trains (Novikov et al. 2015; Stoudenmire and Schwab 2016): those of the feed-forward
//! layers, or of attention, too.

use cupola_artifact::{Error, Result};
use cupola_nn::{FactoredSpec, LayerSpec, TrainSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::likeness::LlamaLike;
use crate::names::{LLAMA, NameTable};
use crate::network::Spec;

/// No weight has more cores.
const MOST_CORES: usize = 16;

/// Matrix product states in place of matrices.
pub struct Mps;

impl Family for Mps {
    fn model_type(&self) -> &'static str {
        "cupola_mps"
    }

    fn architecture(&self) -> &'static str {
        "CupolaMpsForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Novikov et al. 2015, Tensorizing Neural Networks, arXiv:1509.06569; Stoudenmire and Schwab 2016, Supervised \
         Learning with Quantum-Inspired Tensor Networks, arXiv:1605.05775"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let like = LlamaLike::read(config)?;
        let train = TrainSpec {
            bond: config.required_size("bond_dimension")?,
            cores: config.size("tensor_cores")?.unwrap_or(2),
        };
        if train.cores > MOST_CORES {
            return Err(Error::failed(format!(
                "`tensor_cores` in config.json is {}; the most are {MOST_CORES}",
                train.cores
            )));
        }
        let attention = config.flag("factored_attention", false)?;
        let mut block = like.block(like.attention.clone());
        for (name, layer) in &mut block.layers {
            if *name == "ffn" || attention {
                let inner = Box::new(layer.clone());
                *layer = LayerSpec::Factored(FactoredSpec { layer: inner, train });
            }
        }
        let blocks = vec![block; like.n_layers];
        like.spec_of(config, blocks)
    }

    /// A bond that leaves about a tenth of the feed-forward layers' numbers.
    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        let bond = (sizes.d_model / 12).max(2);
        for (key, value) in
            [("bond_dimension", json!(bond)), ("tensor_cores", json!(2)), ("factored_attention", json!(false))]
        {
            config.insert(key.into(), value);
        }
        config
    }

    fn names(&self) -> NameTable {
        LLAMA
    }

    fn settings(&self) -> &'static [&'static str] {
        &["bond_dimension", "tensor_cores", "factored_attention"]
    }
}
