//! Longformer (Beltagy et al. 2020): RoBERTa whose tokens see a window, and some see and are seen by all.

use cupola_artifact::{Error, Result};
use cupola_nn::GlobalAttentionSpec;
use serde_json::{Map, Value, json};

use crate::bert::{self, BertLike, bert_names};
use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::roberta::after_padding;

/// Longformer's encoder.
pub struct Longformer;

/// How many tokens each layer's window has, itself apart: one number for all, or a list.
pub(crate) fn windows(config: &ConfigJson<'_>, n_layers: usize) -> Result<Vec<usize>> {
    let value = config.get("attention_window").cloned().unwrap_or(json!(512));
    let all = match &value {
        Value::Array(list) => list.iter().map(Value::as_u64).collect(),
        one => Some(one.as_u64().into_iter().cycle().take(n_layers).collect::<Vec<_>>()),
    };
    let fits = |all: &Vec<u64>| all.len() == n_layers && all.iter().all(|w| *w > 0 && w % 2 == 0 && *w < 1 << 32);
    let all = all.filter(fits).ok_or_else(|| {
        Error::failed(format!("`attention_window` in config.json is `{value}`"))
            .with_hint(format!("it should be an even number, or one for each of the {n_layers} layers"))
    })?;
    Ok(all.into_iter().map(|w| w as usize).collect())
}

impl Family for Longformer {
    fn model_type(&self) -> &'static str {
        "longformer"
    }

    fn architecture(&self) -> &'static str {
        "LongformerForMaskedLM"
    }

    fn paper(&self) -> &'static str {
        "Beltagy et al. 2020, Longformer: The Long-Document Transformer, arXiv:2004.05150"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let mut like = BertLike::read(config)?;
        like.positions = after_padding(config, like.positions)?;
        like.embedding.padding = Some(config.token("pad_token_id")?.unwrap_or(1));
        let windows = windows(config, config.blocks("num_hidden_layers")?)?;
        let (n_heads, d_head) = (like.attention.n_heads, like.attention.d_head);
        let blocks = windows.iter().map(|window| {
            let mut block = like.block(like.attention.clone());
            block.layers[0].1 = GlobalAttentionSpec { n_heads, d_head, window: window / 2 }.into();
            block
        });
        let blocks = blocks.collect();
        Ok(Spec::Encoder(like.spec_of(config, blocks)?))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = BertLike::fresh(sizes);
        let rows = sizes.max_seq_len + sizes.pad.unwrap_or(1) as usize + 1;
        let window = (sizes.max_seq_len / 4).clamp(1, 256) * 2;
        let more = [
            ("max_position_embeddings", json!(rows)),
            ("type_vocab_size", json!(1)),
            ("attention_window", json!(vec![window; sizes.n_layers])),
            ("sep_token_id", json!(sizes.eos.first())),
        ];
        config.extend(more.map(|(key, value)| (key.to_string(), value)));
        config
    }

    fn names(&self) -> NameTable {
        bert_names!("longformer",
            "layers.{}.attention.global_q": "longformer.encoder.layer.{}.attention.self.query_global",
            "layers.{}.attention.global_k": "longformer.encoder.layer.{}.attention.self.key_global",
            "layers.{}.attention.global_v": "longformer.encoder.layer.{}.attention.self.value_global",
            "masked.dense": "lm_head.dense",
            "masked.norm": "lm_head.layer_norm",
            "masked.out": "lm_head.decoder",
            "masked.bias": "lm_head.bias",
            "text.dense": "classifier.dense",
            "text.out": "classifier.out_proj",
        )
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        bert::bare(spec, "longformer")
    }

    fn rename(&self, name: &str) -> Option<String> {
        bert::rename(name)
    }

    fn form(&self) -> Form {
        bert::FORM
    }
}
