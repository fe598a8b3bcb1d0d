//! ALBERT (Lan et al. 2020): BERT with a narrow embedding and blocks that run several times.

use cupola_artifact::{Error, Result};
use cupola_nn::{DenseSpec, EncoderSpec, FfnKind, NormSpec, Shared, Squash};
use serde_json::{Map, Value, json};

use crate::bert::{self, BertLike};
use crate::config::{ConfigJson, few_blocks};
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::tasks::Heads;

/// ALBERT 1 and 2.
pub struct Albert;

impl Family for Albert {
    fn model_type(&self) -> &'static str {
        "albert"
    }

    fn architecture(&self) -> &'static str {
        "AlbertForMaskedLM"
    }

    fn paper(&self) -> &'static str {
        "Lan et al. 2020, ALBERT: A Lite BERT for Self-supervised Learning, arXiv:1909.11942"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let mut like = BertLike::read(config)?;
        let width = config.size("embedding_size")?.unwrap_or(128);
        let f = config.activation("hidden_act", "gelu_new")?;
        like.ffn.kind = FfnKind::Plain(f);
        like.embedding.width = width;
        like.embedding.widen_last = true;
        if width == like.d_model {
            return Err(Error::failed(format!("config.json has embedding_size = hidden_size = {width}"))
                .with_hint("this build wants ALBERT's embedding narrower than the model"));
        }
        let words = DenseSpec { width, bias: true, squash: Squash::Of(f) };
        like.heads = Heads::bert(like.d_model, words, NormSpec::layer(config.number("layer_norm_eps", 1e-12)?));
        let layers = config.blocks("num_hidden_layers")?;
        let (groups, inner) =
            (config.size("num_hidden_groups")?.unwrap_or(1), config.size("inner_group_num")?.unwrap_or(1));
        if groups > layers {
            return Err(Error::failed(format!("config.json has num_hidden_groups = {groups} of {layers} layers")));
        }
        let blocks =
            vec![like.block(like.attention.clone()); few_blocks("inner_group_num", groups.saturating_mul(inner))?];
        let shared = Some(Shared { layers, groups, inner });
        Ok(Spec::Encoder(EncoderSpec { shared, ..like.spec_of(config, blocks)? }))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = BertLike::fresh(sizes);
        let more = [
            ("embedding_size", json!((sizes.d_model / 4).max(1))),
            ("num_hidden_groups", json!(1)),
            ("inner_group_num", json!(1)),
            ("hidden_act", json!("gelu_new")),
            ("classifier_dropout_prob", json!(0.0)),
        ];
        config.extend(more.map(|(key, value)| (key.to_string(), value)));
        config
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "albert.embeddings.word_embeddings"),
            ("embed.positions", "albert.embeddings.position_embeddings"),
            ("embed.types", "albert.embeddings.token_type_embeddings"),
            ("embed.norm", "albert.embeddings.LayerNorm"),
            ("embed.widen", "albert.encoder.embedding_hidden_mapping_in"),
            ("layers.{}.attention.q", "albert.layers.{}.attention.query"),
            ("layers.{}.attention.k", "albert.layers.{}.attention.key"),
            ("layers.{}.attention.v", "albert.layers.{}.attention.value"),
            ("layers.{}.attention.o", "albert.layers.{}.attention.dense"),
            ("layers.{}.attention_norm", "albert.layers.{}.attention.LayerNorm"),
            ("layers.{}.ffn.up", "albert.layers.{}.ffn"),
            ("layers.{}.ffn.down", "albert.layers.{}.ffn_output"),
            ("layers.{}.ffn_norm", "albert.layers.{}.full_layer_layer_norm"),
            ("summary.dense", "albert.pooler"),
            ("masked.dense", "predictions.dense"),
            ("masked.norm", "predictions.LayerNorm"),
            ("masked.out", "predictions.decoder"),
            ("masked.bias", "predictions.bias"),
            ("text.dense", "albert.pooler"),
            ("text.out", "classifier"),
            ("token.out", "classifier"),
            ("span.out", "qa_outputs"),
        ]
    }

    /// Files number a block by its group and its place there.
    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let Spec::Encoder(encoder) = spec else { return vec![] };
        let inner = encoder.shared.map_or(1, |shared| shared.inner);
        let block = |i: usize| Rearrangement::Renamed {
            file: format!("albert.encoder.albert_layer_groups.{}.albert_layers.{}.", i / inner, i % inner),
            name: format!("albert.layers.{i}."),
        };
        bert::bare(spec, "albert").into_iter().chain((0..encoder.stack.blocks.len()).map(block)).collect()
    }

    /// The head that says in which order two sentences stood is not built.
    fn rename(&self, name: &str) -> Option<String> {
        bert::rename(name).filter(|name| !name.starts_with("sop_classifier."))
    }

    fn form(&self) -> Form {
        bert::FORM
    }
}
