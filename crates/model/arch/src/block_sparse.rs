//! A Llama whose tokens attend blocks of the text: the nearest, the first, and some drawn at random (Zaheer et al. 2020; Child et
//! al. 2019).

use cupola_artifact::Result;
use cupola_nn::{BlockPattern, BlockSparseSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::likeness::LlamaLike;
use crate::names::{LLAMA, NameTable};
use crate::network::Spec;

/// Settings of the pattern.
pub(crate) const SETTINGS: &[&str] = &["block_size", "near_blocks", "global_blocks", "random_blocks", "pattern_seed"];

/// The first layer's pattern.
pub(crate) fn pattern(config: &ConfigJson<'_>, causal: bool) -> Result<BlockPattern> {
    Ok(BlockPattern {
        size: config.required_size("block_size")?,
        causal,
        near: config.required_size("near_blocks")?,
        global: config.count("global_blocks", 0)?,
        random: config.count("random_blocks", 0)?,
        seed: config.count("pattern_seed", 0)? as u64,
        layer: 0,
    })
}

/// The pattern of a fresh model: blocks of 64 tokens, or an eighth of a shorter text.
pub(crate) fn fresh(sizes: &Sizes) -> impl Iterator<Item = (String, Value)> {
    let size = (sizes.max_seq_len / 8).clamp(1, 64);
    SETTINGS.iter().zip([size, 2, 1, 2, 0]).map(|(key, value)| ((*key).to_string(), json!(value)))
}

/// Block-sparse attention.
pub struct BlockSparse;

impl Family for BlockSparse {
    fn model_type(&self) -> &'static str {
        "cupola_block_sparse"
    }

    fn architecture(&self) -> &'static str {
        "CupolaBlockSparseForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Zaheer et al. 2020, Big Bird: Transformers for Longer Sequences, arXiv:2007.14062; Child et al. 2019, Generating Long \
         Sequences with Sparse Transformers, arXiv:1904.10509"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let like = LlamaLike::read(config)?;
        let attention = &like.attention;
        let pattern = pattern(config, true)?;
        let rope = config.rope(attention.d_head)?;
        let block = |layer| {
            let mut block = like.block(attention.clone());
            let spec = BlockSparseSpec {
                n_heads: attention.n_heads,
                n_kv_heads: attention.n_kv_heads,
                d_head: attention.d_head,
                rope: rope.clone(),
                pattern: BlockPattern { layer, ..pattern.clone() },
            };
            block.layers[0].1 = spec.into();
            block
        };
        let blocks = (0..like.n_layers).map(block).collect();
        like.spec_of(config, blocks)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        config.extend(fresh(sizes));
        config
    }

    fn names(&self) -> NameTable {
        LLAMA
    }

    fn settings(&self) -> &'static [&'static str] {
        SETTINGS
    }
}
