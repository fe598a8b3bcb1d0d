//! ELECTRA (Clark et al. 2020): BERT that learns which tokens a small generator replaced; both are of this family.

use cupola_artifact::Result;
use cupola_nn::{Activation, DenseSpec, HeadSpec, Output, Squash, Task};
use serde_json::{Map, Value, json};

use crate::bert::{self, BertLike, bert_names};
use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::tasks::Heads;

/// ELECTRA's discriminators and generators.
pub struct Electra;

impl Family for Electra {
    fn model_type(&self) -> &'static str {
        "electra"
    }

    fn architecture(&self) -> &'static str {
        "ElectraForPreTraining"
    }

    fn paper(&self) -> &'static str {
        "Clark et al. 2020, ELECTRA: Pre-training Text Encoders as Discriminators, arXiv:2003.10555"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let mut like = BertLike::read(config)?;
        let width = config.size("embedding_size")?.unwrap_or(128);
        like.embedding.width = width;
        like.embedding.widen_last = true;
        let gelu = |width| DenseSpec { width, bias: true, squash: Squash::Of(Activation::GeluErf) };
        let f = config.activation("hidden_act", "gelu")?;
        let bert = Heads::bert(like.d_model, gelu(width), like.norm);
        let dense = Some(DenseSpec { squash: Squash::Of(f), ..gelu(like.d_model) });
        like.heads = Heads {
            replaced: Some(HeadSpec { dense, ..HeadSpec::linear(Task::Replaced, None, 1) }),
            text: HeadSpec { dense: Some(gelu(like.d_model)), ..bert.text },
            summary: None,
            untied: Output::Linear { width: 0, bias: true },
            ..bert
        };
        like.spec(config)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = BertLike::fresh(sizes);
        config.insert("embedding_size".into(), json!(sizes.d_model));
        config
    }

    /// A quarter of the width, as many layers, and the same embedding.
    fn generator(&self, config: &Map<String, Value>) -> Option<Map<String, Value>> {
        let size = |key: &str| config.get(key).and_then(Value::as_u64);
        let heads = (size("num_attention_heads")? / 4).max(1);
        let width = heads * (size("hidden_size")? / size("num_attention_heads")?.max(1));
        let mut small = config.clone();
        let changes = [
            ("architectures", json!(["ElectraForMaskedLM"])),
            ("hidden_size", json!(width)),
            ("num_attention_heads", json!(heads)),
            ("intermediate_size", json!((size("intermediate_size")? / 4).max(1))),
        ];
        small.extend(changes.map(|(key, value)| (key.to_string(), value)));
        Some(small)
    }

    fn names(&self) -> NameTable {
        bert_names!("electra",
            "embed.widen": "electra.embeddings_project",
            "masked.dense": "generator_predictions.dense",
            "masked.norm": "generator_predictions.LayerNorm",
            "masked.out": "generator_lm_head",
            "masked.bias": "generator_lm_head.bias",
            "replaced.dense": "discriminator_predictions.dense",
            "replaced.out": "discriminator_predictions.dense_prediction",
            "text.dense": "classifier.dense",
            "text.out": "classifier.out_proj",
        )
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        bert::bare(spec, "electra")
    }

    fn rename(&self, name: &str) -> Option<String> {
        bert::rename(name)
    }

    fn form(&self) -> Form {
        bert::FORM
    }
}
