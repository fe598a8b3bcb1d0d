//! mT5 (Xue et al. 2021): T5 1.1 over a hundred languages. Its outputs are never scaled.

use cupola_artifact::Result;
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::seq2seq::T5Like;
use crate::t5::{NAMES, kept, plain_layers, with_head};

/// mT5.
pub struct Mt5;

impl Family for Mt5 {
    fn model_type(&self) -> &'static str {
        "mt5"
    }

    fn architecture(&self) -> &'static str {
        "MT5ForConditionalGeneration"
    }

    fn paper(&self) -> &'static str {
        "Xue et al. 2021, mT5: A Massively Multilingual Pre-trained Text-to-Text Transformer, arXiv:2010.11934"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let like = T5Like::read(config, "gated-gelu")?;
        let ffn = like.ffn.clone();
        Ok(Spec::EncoderDecoder(like.spec(config, |_, _| ffn.clone().into())?))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = T5Like::fresh(sizes);
        config.insert("feed_forward_proj".into(), json!("gated-gelu"));
        config
    }

    fn names(&self) -> NameTable {
        NAMES
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        plain_layers(spec)
    }

    fn rename(&self, name: &str) -> Option<String> {
        kept(name)
    }

    /// Settings call heads tied that are not, and the other way round.
    fn settled(&self, spec: Spec, has: &dyn Fn(&str) -> bool) -> Spec {
        with_head(spec, |_| has("lm_head.weight"))
    }

    fn form(&self) -> Form {
        Form { gated: true, grouped_queries: false }
    }
}
