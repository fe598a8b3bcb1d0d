//! BERT (Devlin et al. 2019): each layer's norm after its residual connection, learned positions, types of texts, biases
//! everywhere.

use cupola_artifact::Result;
use cupola_nn::{
    AttentionSpec, BlockSpec, DenseSpec, EmbeddingSpec, EncoderSpec, FeedForwardSpec, FfnKind, Layout,
    LearnedPositions, NormSpec, Squash, StackSpec, Task,
};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::tasks::Heads;

/// BERT and what shares its form.
pub struct Bert;

/// An encoder that is described in BERT's words. A family reads one, changes what is its own, and makes the spec of it.
pub(crate) struct BertLike {
    pub d_model: usize,
    pub attention: AttentionSpec,
    pub ffn: FeedForwardSpec,
    pub norm: NormSpec,
    pub embedding: EmbeddingSpec,
    pub positions: LearnedPositions,
    pub heads: Heads,
}

impl BertLike {
    /// The settings that all of them have.
    pub fn read(config: &ConfigJson<'_>) -> Result<Self> {
        config.only(&[
            ("position_embedding_type", json!("absolute")),
            ("is_decoder", json!(false)),
            ("add_cross_attention", json!(false)),
        ])?;
        let (d_model, n_heads) = (config.required_size("hidden_size")?, config.required_size("num_attention_heads")?);
        let d_head = config.divides(("hidden_size", d_model), ("num_attention_heads", n_heads))?;
        let f = config.activation("hidden_act", "gelu")?;
        let norm = NormSpec::layer(config.number("layer_norm_eps", 1e-12)?);
        let words = DenseSpec { width: d_model, bias: true, squash: Squash::Of(f) };
        let d_ff = config.required_size("intermediate_size")?;
        Ok(Self {
            d_model,
            attention: AttentionSpec { bias: true, out_bias: true, ..AttentionSpec::new(n_heads, n_heads, d_head) },
            ffn: FeedForwardSpec { d_ff, kind: FfnKind::Plain(f), bias: true },
            norm,
            embedding: EmbeddingSpec {
                types: config.size("type_vocab_size")?.unwrap_or(2),
                norm: Some(norm),
                padding: config.token("pad_token_id")?,
                ..EmbeddingSpec::plain(d_model)
            },
            positions: LearnedPositions {
                rows: config.size("max_position_embeddings")?.unwrap_or(512),
                offset: 0,
                count_padding: true,
            },
            heads: Heads::bert(d_model, words, norm),
        })
    }

    /// The block of these numbers.
    pub fn block(&self, attention: AttentionSpec) -> BlockSpec {
        let layers = vec![("attention", attention.into()), ("ffn", self.ffn.clone().into())];
        BlockSpec { layout: Layout::PostNorm, norm: self.norm, layers }
    }

    /// The encoder whose blocks are all the same.
    pub fn spec(self, config: &ConfigJson<'_>) -> Result<Spec> {
        let blocks = vec![self.block(self.attention.clone()); config.blocks("num_hidden_layers")?];
        Ok(Spec::Encoder(self.spec_of(config, blocks)?))
    }

    /// The encoder of given blocks.
    pub fn spec_of(self, config: &ConfigJson<'_>, blocks: Vec<BlockSpec>) -> Result<EncoderSpec> {
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model: self.d_model,
            max_seq_len: self.positions.rows.saturating_sub(self.positions.offset),
            embedding: EmbeddingSpec { positions: Some(self.positions), ..self.embedding },
            blocks,
            norm: None,
        };
        self.heads.encoder(config, stack)
    }

    /// The settings of a fresh model.
    pub fn fresh(sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "hidden_size": sizes.d_model,
            "intermediate_size": sizes.d_ff,
            "num_hidden_layers": sizes.n_layers,
            "num_attention_heads": sizes.n_heads,
            "hidden_act": "gelu",
            "max_position_embeddings": sizes.max_seq_len,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "tie_word_embeddings": true,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        });
        config.as_object().cloned().unwrap_or_default()
    }
}

/// The form of a fresh model that is like BERT.
pub(crate) const FORM: Form = Form { gated: false, grouped_queries: false };

/// What BERT's files and those of its next of kin call the weights below the heads, and further names.
macro_rules! bert_names {
    ($model:literal, $($ours:literal: $file:expr,)*) => {
        &[
            ("embed.tokens", concat!($model, ".embeddings.word_embeddings")),
            ("embed.positions", concat!($model, ".embeddings.position_embeddings")),
            ("embed.types", concat!($model, ".embeddings.token_type_embeddings")),
            ("embed.norm", concat!($model, ".embeddings.LayerNorm")),
            ("layers.{}.attention.q", concat!($model, ".encoder.layer.{}.attention.self.query")),
            ("layers.{}.attention.k", concat!($model, ".encoder.layer.{}.attention.self.key")),
            ("layers.{}.attention.v", concat!($model, ".encoder.layer.{}.attention.self.value")),
            ("layers.{}.attention.o", concat!($model, ".encoder.layer.{}.attention.output.dense")),
            ("layers.{}.attention_norm", concat!($model, ".encoder.layer.{}.attention.output.LayerNorm")),
            ("layers.{}.ffn.up", concat!($model, ".encoder.layer.{}.intermediate.dense")),
            ("layers.{}.ffn.down", concat!($model, ".encoder.layer.{}.output.dense")),
            ("layers.{}.ffn_norm", concat!($model, ".encoder.layer.{}.output.LayerNorm")),
            ("summary.dense", concat!($model, ".pooler.dense")),
            ("token.out", "classifier"),
            ("span.out", "qa_outputs"),
            $(($ours, $file),)*
        ]
    };
}
pub(crate) use bert_names;

/// The first published files call a norm's weight and bias `gamma` and `beta`, and hold the numbers of positions.
pub(crate) fn rename(name: &str) -> Option<String> {
    let buffer = name.ends_with(".position_ids") || name.ends_with(".token_type_ids") || name == "position_ids";
    let name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
    (!buffer).then_some(name)
}

/// Files of bare models have their names without the model's.
pub(crate) fn bare(spec: &Spec, model: &str) -> Vec<Rearrangement> {
    let Spec::Encoder(encoder) = spec else { return vec![] };
    match encoder.head {
        Some(head) if head.out.is_some() => vec![],
        _ => vec![Rearrangement::Renamed { file: String::new(), name: format!("{model}.") }],
    }
}

/// Files of bare models may lack the layer over the first token.
pub(crate) fn settled(spec: Spec, has: &dyn Fn(&str) -> bool, model: &str) -> Spec {
    match spec {
        Spec::Encoder(mut encoder) => {
            let pooler = has("pooler.dense.weight") || has(&format!("{model}.pooler.dense.weight"));
            encoder.head = encoder.head.filter(|head| head.task != Task::Summary || pooler);
            Spec::Encoder(encoder)
        }
        other => other,
    }
}

impl Family for Bert {
    fn model_type(&self) -> &'static str {
        "bert"
    }

    fn architecture(&self) -> &'static str {
        "BertForMaskedLM"
    }

    fn paper(&self) -> &'static str {
        "Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers, arXiv:1810.04805"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        BertLike::read(config)?.spec(config)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        BertLike::fresh(sizes)
    }

    fn names(&self) -> NameTable {
        bert_names!("bert",
            "masked.dense": "cls.predictions.transform.dense",
            "masked.norm": "cls.predictions.transform.LayerNorm",
            "masked.out": "cls.predictions.decoder",
            "masked.bias": "cls.predictions.bias",
            "text.dense": "bert.pooler.dense",
            "text.out": "classifier",
        )
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        bare(spec, "bert")
    }

    /// The head that says whether two sentences follow each other is not built.
    fn rename(&self, name: &str) -> Option<String> {
        rename(name).filter(|name| !name.starts_with("cls.seq_relationship."))
    }

    fn settled(&self, spec: Spec, has: &dyn Fn(&str) -> bool) -> Spec {
        settled(spec, has, "bert")
    }

    fn form(&self) -> Form {
        FORM
    }
}
