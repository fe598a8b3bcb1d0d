//! A ModernBERT whose tokens attend blocks of the text to both sides, as in BigBird (Zaheer et al. 2020).

use cupola_artifact::{Error, Result};
use cupola_nn::{BlockPattern, BlockSparseSpec, LayerSpec};
use serde_json::{Map, Value, json};

use crate::block_sparse;
use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::modernbert::ModernBert;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// Block-sparse attention in both directions.
pub struct BlockSparseEncoder;

impl Family for BlockSparseEncoder {
    fn model_type(&self) -> &'static str {
        "cupola_block_sparse_encoder"
    }

    fn architecture(&self) -> &'static str {
        "CupolaBlockSparseForMaskedLM"
    }

    fn paper(&self) -> &'static str {
        "Zaheer et al. 2020, Big Bird: Transformers for Longer Sequences, arXiv:2007.14062"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[("attention_bias", json!(false))])?;
        let pattern = block_sparse::pattern(config, false)?;
        let mut spec = ModernBert.read(config)?;
        let Spec::Encoder(encoder) = &mut spec else { return Ok(spec) };
        let blocks = encoder.stack.blocks.iter_mut().enumerate();
        for (layer, (_, plain)) in blocks.flat_map(|(i, block)| block.layers.iter_mut().map(move |l| (i, l))) {
            let LayerSpec::Attention(attention) = &*plain else { continue };
            let Some(rope) = attention.rope.clone() else {
                return Err(Error::failed("block-sparse attention in config.json is without rotary positions"));
            };
            let (n_heads, n_kv_heads, d_head) = (attention.n_heads, attention.n_kv_heads, attention.d_head);
            let pattern = BlockPattern { layer, ..pattern.clone() };
            *plain = BlockSparseSpec { n_heads, n_kv_heads, d_head, rope, pattern }.into();
        }
        Ok(spec)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = ModernBert.fresh(sizes);
        config.remove("local_attention");
        // All layers have the rotary positions of layers that reach far.
        config.insert("global_attn_every_n_layers".into(), json!(1));
        config.extend(block_sparse::fresh(sizes));
        config
    }

    fn names(&self) -> NameTable {
        ModernBert.names()
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        ModernBert.rearrangements(spec)
    }

    fn form(&self) -> Form {
        ModernBert.form()
    }

    fn settings(&self) -> &'static [&'static str] {
        block_sparse::SETTINGS
    }
}
