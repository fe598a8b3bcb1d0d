//! Pegasus (Zhang et al. 2020): BART with LayerNorm before each layer and at the end, and fixed sinusoids for positions.

use cupola_artifact::Result;
use cupola_nn::Layout;
use serde_json::{Map, Value};

use crate::bart::{NAMES, kept};
use crate::config::ConfigJson;
use crate::family::{Damage, Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::seq2seq::BartLike;

/// Pegasus.
pub struct Pegasus;

const LIKE: BartLike = BartLike {
    layout: Layout::PreNorm,
    offset: 0,
    sinusoids: true,
    longest: ["max_position_embeddings"; 2],
    tokens: [0, 0],
};

impl Family for Pegasus {
    fn model_type(&self) -> &'static str {
        "pegasus"
    }

    fn architecture(&self) -> &'static str {
        "PegasusForConditionalGeneration"
    }

    fn paper(&self) -> &'static str {
        "Zhang et al. 2020, PEGASUS: Pre-training with Extracted Gap-sentences for Abstractive Summarization, arXiv:1912.08777"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        Ok(Spec::EncoderDecoder(LIKE.spec(config, |_, own| Ok(own.clone().into()))?))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        LIKE.fresh(sizes)
    }

    fn names(&self) -> NameTable {
        NAMES
    }

    fn rename(&self, name: &str) -> Option<String> {
        kept(name)
    }

    fn damage(&self) -> Damage {
        Damage::Infilling
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}
