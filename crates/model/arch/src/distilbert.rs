//! DistilBERT (Sanh et al. 2019): BERT with half the layers and without types of texts.

use cupola_artifact::Result;
use cupola_nn::{
    AttentionSpec, BlockSpec, DenseSpec, EmbeddingSpec, FeedForwardSpec, FfnKind, HeadSpec, Layout, LearnedPositions,
    NormSpec, Output, Squash, StackSpec,
};
use serde_json::{Map, Value, json};

use crate::bert;
use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::tasks::Heads;

/// DistilBERT, which learned from BERT.
pub struct DistilBert;

impl Family for DistilBert {
    fn model_type(&self) -> &'static str {
        "distilbert"
    }

    fn architecture(&self) -> &'static str {
        "DistilBertForMaskedLM"
    }

    fn paper(&self) -> &'static str {
        "Sanh et al. 2019, DistilBERT, a distilled version of BERT, arXiv:1910.01108"
    }

    /// Positions that began as sinusoids (`sinusoidal_pos_embds`) lie in the file as others do.
    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let (d_model, n_heads) = (config.required_size("dim")?, config.required_size("n_heads")?);
        let d_head = config.divides(("dim", d_model), ("n_heads", n_heads))?;
        let f = config.activation("activation", "gelu")?;
        let norm = NormSpec::layer(1e-12);
        let attention = AttentionSpec { bias: true, out_bias: true, ..AttentionSpec::new(n_heads, n_heads, d_head) };
        let ffn = FeedForwardSpec { d_ff: config.required_size("hidden_dim")?, kind: FfnKind::Plain(f), bias: true };
        let layers = vec![("attention", attention.into()), ("ffn", ffn.into())];
        let rows = config.size("max_position_embeddings")?.unwrap_or(512);
        let words = DenseSpec { width: d_model, bias: true, squash: Squash::Of(f) };
        let bert = Heads::bert(d_model, words, norm);
        let relu = DenseSpec { squash: Squash::Of(cupola_nn::Activation::Relu), ..words };
        let text = HeadSpec { dense: Some(relu), ..bert.text };
        let heads = Heads { text, summary: None, untied: Output::Linear { width: 0, bias: true }, ..bert };
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len: rows,
            embedding: EmbeddingSpec {
                positions: Some(LearnedPositions { rows, offset: 0, count_padding: true }),
                norm: Some(norm),
                padding: config.token("pad_token_id")?,
                ..EmbeddingSpec::plain(d_model)
            },
            blocks: vec![BlockSpec { layout: Layout::PostNorm, norm, layers }; config.blocks("n_layers")?],
            norm: None,
        };
        Ok(Spec::Encoder(heads.encoder(config, stack)?))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "dim": sizes.d_model,
            "hidden_dim": sizes.d_ff,
            "n_layers": sizes.n_layers,
            "n_heads": sizes.n_heads,
            "activation": "gelu",
            "max_position_embeddings": sizes.max_seq_len,
            "sinusoidal_pos_embds": false,
            "tie_word_embeddings": true,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "distilbert.embeddings.word_embeddings"),
            ("embed.positions", "distilbert.embeddings.position_embeddings"),
            ("embed.norm", "distilbert.embeddings.LayerNorm"),
            ("layers.{}.attention.q", "distilbert.transformer.layer.{}.attention.q_lin"),
            ("layers.{}.attention.k", "distilbert.transformer.layer.{}.attention.k_lin"),
            ("layers.{}.attention.v", "distilbert.transformer.layer.{}.attention.v_lin"),
            ("layers.{}.attention.o", "distilbert.transformer.layer.{}.attention.out_lin"),
            ("layers.{}.attention_norm", "distilbert.transformer.layer.{}.sa_layer_norm"),
            ("layers.{}.ffn.up", "distilbert.transformer.layer.{}.ffn.lin1"),
            ("layers.{}.ffn.down", "distilbert.transformer.layer.{}.ffn.lin2"),
            ("layers.{}.ffn_norm", "distilbert.transformer.layer.{}.output_layer_norm"),
            ("masked.dense", "vocab_transform"),
            ("masked.norm", "vocab_layer_norm"),
            ("masked.out", "vocab_projector"),
            ("masked.bias", "vocab_projector.bias"),
            ("text.dense", "pre_classifier"),
            ("text.out", "classifier"),
            ("token.out", "classifier"),
            ("span.out", "qa_outputs"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        bert::bare(spec, "distilbert")
    }

    fn rename(&self, name: &str) -> Option<String> {
        bert::rename(name)
    }

    fn form(&self) -> Form {
        bert::FORM
    }
}
