//! RoBERTa (Liu et al. 2019): BERT whose positions begin after the padding token's number and skip padding.

use cupola_artifact::Result;
use cupola_nn::LearnedPositions;
use serde_json::{Map, Value, json};

use crate::bert::{self, BertLike, bert_names};
use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// RoBERTa under one of its names.
pub struct Roberta {
    model_type: &'static str,
    architecture: &'static str,
    paper: &'static str,
}

/// RoBERTa itself.
pub const ROBERTA: Roberta = Roberta {
    model_type: "roberta",
    architecture: "RobertaForMaskedLM",
    paper: "Liu et al. 2019, RoBERTa: A Robustly Optimized BERT Pretraining Approach, arXiv:1907.11692",
};

/// The same in a hundred languages.
pub const XLM_ROBERTA: Roberta = Roberta {
    model_type: "xlm-roberta",
    architecture: "XLMRobertaForMaskedLM",
    paper: "Conneau et al. 2020, Unsupervised Cross-lingual Representation Learning at Scale, arXiv:1911.02116",
};

/// Positions that begin after the padding token's number.
pub(crate) fn after_padding(config: &ConfigJson<'_>, positions: LearnedPositions) -> Result<LearnedPositions> {
    let pad = config.token("pad_token_id")?.unwrap_or(1);
    Ok(LearnedPositions { offset: pad as usize + 1, count_padding: false, ..positions })
}

impl Family for Roberta {
    fn model_type(&self) -> &'static str {
        self.model_type
    }

    fn architecture(&self) -> &'static str {
        self.architecture
    }

    fn paper(&self) -> &'static str {
        self.paper
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let mut like = BertLike::read(config)?;
        like.positions = after_padding(config, like.positions)?;
        like.embedding.padding = Some(config.token("pad_token_id")?.unwrap_or(1));
        like.spec(config)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = BertLike::fresh(sizes);
        let rows = sizes.max_seq_len + sizes.pad.unwrap_or(1) as usize + 1;
        config.insert("max_position_embeddings".into(), json!(rows));
        config.insert("type_vocab_size".into(), json!(1));
        config
    }

    fn names(&self) -> NameTable {
        bert_names!("roberta",
            "masked.dense": "lm_head.dense",
            "masked.norm": "lm_head.layer_norm",
            "masked.out": "lm_head.decoder",
            "masked.bias": "lm_head.bias",
            "text.dense": "classifier.dense",
            "text.out": "classifier.out_proj",
        )
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        bert::bare(spec, "roberta")
    }

    fn rename(&self, name: &str) -> Option<String> {
        bert::rename(name)
    }

    fn settled(&self, spec: Spec, has: &dyn Fn(&str) -> bool) -> Spec {
        bert::settled(spec, has, "roberta")
    }

    fn form(&self) -> Form {
        bert::FORM
    }
}
