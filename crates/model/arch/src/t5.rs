//! T5 (Raffel et al. 2020): RMSNorm before each layer, relative positions that all blocks share, scores that are not divided.
//! Version 1.1 has gated feed-forward layers and an output layer of its own.

use cupola_artifact::Result;
use cupola_nn::{EncoderDecoderSpec, FfnKind};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::fused::Fused;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::seq2seq::T5Like;

/// T5 1.0 and 1.1, FLAN-T5 and what shares their form.
pub struct T5;

impl Family for T5 {
    fn model_type(&self) -> &'static str {
        "t5"
    }

    fn architecture(&self) -> &'static str {
        "T5ForConditionalGeneration"
    }

    fn paper(&self) -> &'static str {
        "Raffel et al. 2020, Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, arXiv:1910.10683"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let like = T5Like::read(config, "relu")?;
        let (ffn, d_model) = (like.ffn.clone(), like.d_model);
        let mut spec = like.spec(config, |_, _| ffn.clone().into())?;
        // Version 5 of transformers says it apart and calls all heads tied; `settled` sees whether they are.
        let scaled = config.flag("scale_decoder_outputs", spec.tie_embeddings)?;
        spec.head_scale = scaled.then(|| (d_model as f32).powf(-0.5));
        Ok(Spec::EncoderDecoder(spec))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = T5Like::fresh(sizes);
        config.insert("feed_forward_proj".into(), json!("relu"));
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

    fn settled(&self, spec: Spec, has: &dyn Fn(&str) -> bool) -> Spec {
        // Where outputs are scaled the head is the embedding, whatever the file holds besides.
        let untied = |spec: &EncoderDecoderSpec| spec.head_scale.is_none() && has("lm_head.weight");
        with_head(spec, untied)
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}

/// The same with an output layer of its own or none.
pub(crate) fn with_head(spec: Spec, untied: impl Fn(&EncoderDecoderSpec) -> bool) -> Spec {
    match spec {
        Spec::EncoderDecoder(mut spec) => {
            spec.tie_embeddings = !untied(&spec);
            Spec::EncoderDecoder(spec)
        }
        other => other,
    }
}

/// What the first files hold besides weights: the embedding twice more, and relative positions that are not used.
pub(crate) fn kept(name: &str) -> Option<String> {
    let spare =
        name.ends_with("coder.embed_tokens.weight") || name.ends_with("EncDecAttention.relative_attention_bias.weight");
    (!spare).then(|| name.to_string())
}

/// Feed-forward layers that are not gated call `wi` what gated ones call `wi_1`.
pub(crate) fn plain_layers(spec: &Spec) -> Vec<Rearrangement> {
    let Spec::EncoderDecoder(spec) = spec else { return vec![] };
    let sides = [("encoder", 1, &spec.encoder), ("decoder", 2, &spec.decoder)];
    let layers = sides.into_iter().flat_map(|(side, layer, stack)| {
        stack.blocks.iter().enumerate().filter_map(move |(i, block)| {
            let ffn = block.feed_forward().filter(|ffn| matches!(ffn.kind, FfnKind::Plain(_)))?;
            let module = format!("{side}.block.{i}.layer.{layer}.DenseReluDense.wi");
            let parts = vec![(format!("{module}_1"), ffn.d_ff)];
            Some(Fused { module, parts, groups: 1, transposed: false }.into())
        })
    });
    layers.collect()
}

/// The names that T5 and mT5 share.
pub(crate) const NAMES: NameTable = &[
    ("encoder.embed.tokens", "shared"),
    ("head", "lm_head"),
    ("encoder.norm", "encoder.final_layer_norm"),
    ("encoder.embed.relative", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
    ("encoder.layers.{}.attention_norm", "encoder.block.{}.layer.0.layer_norm"),
    ("encoder.layers.{}.attention.q", "encoder.block.{}.layer.0.SelfAttention.q"),
    ("encoder.layers.{}.attention.k", "encoder.block.{}.layer.0.SelfAttention.k"),
    ("encoder.layers.{}.attention.v", "encoder.block.{}.layer.0.SelfAttention.v"),
    ("encoder.layers.{}.attention.o", "encoder.block.{}.layer.0.SelfAttention.o"),
    ("encoder.layers.{}.ffn_norm", "encoder.block.{}.layer.1.layer_norm"),
    ("encoder.layers.{}.ffn.gate", "encoder.block.{}.layer.1.DenseReluDense.wi_0"),
    ("encoder.layers.{}.ffn.up", "encoder.block.{}.layer.1.DenseReluDense.wi_1"),
    ("encoder.layers.{}.ffn.down", "encoder.block.{}.layer.1.DenseReluDense.wo"),
    ("decoder.norm", "decoder.final_layer_norm"),
    ("decoder.embed.relative", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
    ("decoder.layers.{}.attention_norm", "decoder.block.{}.layer.0.layer_norm"),
    ("decoder.layers.{}.attention.q", "decoder.block.{}.layer.0.SelfAttention.q"),
    ("decoder.layers.{}.attention.k", "decoder.block.{}.layer.0.SelfAttention.k"),
    ("decoder.layers.{}.attention.v", "decoder.block.{}.layer.0.SelfAttention.v"),
    ("decoder.layers.{}.attention.o", "decoder.block.{}.layer.0.SelfAttention.o"),
    ("decoder.layers.{}.cross_norm", "decoder.block.{}.layer.1.layer_norm"),
    ("decoder.layers.{}.cross.q", "decoder.block.{}.layer.1.EncDecAttention.q"),
    ("decoder.layers.{}.cross.k", "decoder.block.{}.layer.1.EncDecAttention.k"),
    ("decoder.layers.{}.cross.v", "decoder.block.{}.layer.1.EncDecAttention.v"),
    ("decoder.layers.{}.cross.o", "decoder.block.{}.layer.1.EncDecAttention.o"),
    ("decoder.layers.{}.ffn_norm", "decoder.block.{}.layer.2.layer_norm"),
    ("decoder.layers.{}.ffn.gate", "decoder.block.{}.layer.2.DenseReluDense.wi_0"),
    ("decoder.layers.{}.ffn.up", "decoder.block.{}.layer.2.DenseReluDense.wi_1"),
    ("decoder.layers.{}.ffn.down", "decoder.block.{}.layer.2.DenseReluDense.wo"),
];
