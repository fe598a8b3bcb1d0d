//! ModernBERT (Warner et al. 2024): norms before layers, rotary positions, gated feed-forward layers, few biases; most
//! layers see a window, with rotary positions of their own.

use cupola_artifact::{Error, Result};
use cupola_nn::{
    AttentionSpec, BlockSpec, DenseSpec, EmbeddingSpec, FeedForwardSpec, FfnKind, HeadSpec, Layout, NormSpec, Output,
    Pool, Squash, StackSpec, Task,
};
use serde_json::{Map, Value, json};

use crate::bert;
use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::fused::Fused;
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::tasks::Heads;

/// ModernBERT, base and large.
pub struct ModernBert;

/// Attention's numbers in each layer.
fn attention(config: &ConfigJson<'_>, d_model: usize, n_layers: usize) -> Result<Vec<AttentionSpec>> {
    let n_heads = config.required_size("num_attention_heads")?;
    let d_head = config.divides(("hidden_size", d_model), ("num_attention_heads", n_heads))?;
    let bias = config.flag("attention_bias", false)?;
    let plain = AttentionSpec { bias, out_bias: bias, ..AttentionSpec::new(n_heads, n_heads, d_head) };
    let half = config.size("local_attention")?.unwrap_or(128) / 2;
    let every = config.size("global_attn_every_n_layers")?.unwrap_or(3);
    let types = config.texts("layer_types")?;
    if let Some(types) = &types
        && types.len() != n_layers
    {
        return Err(Error::failed(format!("config.json has {} `layer_types` for {n_layers} layers", types.len())));
    }
    let rope = |kind: &str, key: &str, theta: f64| {
        let sections = config.section("rope_parameters")?;
        let section = sections.as_ref().map(|all| all.section(kind)).transpose()?.flatten();
        let mut settings = section.map(|section| section.values.clone()).unwrap_or_default();
        if !settings.contains_key("rope_theta") {
            settings.insert("rope_theta".into(), json!(config.number(key, theta)?));
        }
        config.rope_of(&ConfigJson { values: &settings }, d_head)
    };
    let global = AttentionSpec { rope: Some(rope("full_attention", "global_rope_theta", 160_000.0)?), ..plain.clone() };
    let rope = Some(rope("sliding_attention", "local_rope_theta", 10_000.0)?);
    let local = AttentionSpec { rope, window: Some([half, half]), ..plain };
    (0..n_layers)
        .map(|i| match types.as_ref().map(|types| types[i]) {
            Some("full_attention") => Ok(global.clone()),
            Some("sliding_attention") => Ok(local.clone()),
            None => Ok(if i % every == 0 { global.clone() } else { local.clone() }),
            Some(other) => Err(Error::failed(format!("config.json has the layer type \"{other}\""))
                .with_hint("this build knows: full_attention, sliding_attention")),
        })
        .collect()
}

impl Family for ModernBert {
    fn model_type(&self) -> &'static str {
        "modernbert"
    }

    fn architecture(&self) -> &'static str {
        "ModernBertForMaskedLM"
    }

    fn paper(&self) -> &'static str {
        "Warner et al. 2024, Smarter, Better, Faster, Longer: ModernBERT, arXiv:2412.13663"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let (d_model, n_layers) = (config.required_size("hidden_size")?, config.blocks("num_hidden_layers")?);
        let norm =
            NormSpec { bias: config.flag("norm_bias", false)?, ..NormSpec::layer(config.number("norm_eps", 1e-5)?) };
        let ffn = FeedForwardSpec {
            d_ff: config.required_size("intermediate_size")?,
            kind: FfnKind::Gated(config.activation("hidden_activation", "gelu")?),
            bias: config.flag("mlp_bias", false)?,
        };
        let block = |(i, attention): (usize, AttentionSpec)| {
            let layout = if i == 0 { Layout::PreNormButFirst } else { Layout::PreNorm };
            BlockSpec { layout, norm, layers: vec![("attention", attention.into()), ("ffn", ffn.clone().into())] }
        };
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len: config.size("max_position_embeddings")?.unwrap_or(8192),
            embedding: EmbeddingSpec {
                norm: Some(norm),
                padding: config.token("pad_token_id")?,
                ..EmbeddingSpec::plain(d_model)
            },
            blocks: attention(config, d_model, n_layers)?.into_iter().enumerate().map(block).collect(),
            norm: Some(norm),
        };
        let squash = Squash::Of(config.activation("classifier_activation", "gelu")?);
        let dense = Some(DenseSpec { width: d_model, bias: config.flag("classifier_bias", false)?, squash });
        let pool = match config.text("classifier_pooling", "cls")? {
            "mean" => Pool::Mean,
            "cls" => Pool::First,
            other => return Err(Error::failed(format!("config.json has classifier_pooling = \"{other}\""))),
        };
        let head = |task, pool| HeadSpec { dense, norm: Some(norm), ..HeadSpec::linear(task, pool, 2) };
        let bias = config.flag("decoder_bias", true)?;
        let out = Some(Output::Embedding { bias });
        let heads = Heads {
            masked: HeadSpec { out, ..head(Task::Masked, None) },
            untied: Output::Linear { width: 0, bias },
            replaced: None,
            text: head(Task::Label, Some(pool)),
            token: head(Task::Tokens, None),
            span: head(Task::Span, None),
            summary: None,
        };
        Ok(Spec::Encoder(heads.encoder(config, stack)?))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let rope = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
        let config = json!({
            "hidden_size": sizes.d_model,
            "intermediate_size": sizes.d_ff,
            "num_hidden_layers": sizes.n_layers,
            "num_attention_heads": sizes.n_heads,
            "hidden_activation": "gelu",
            "max_position_embeddings": sizes.max_seq_len,
            "local_attention": 128,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
            "rope_parameters": {"full_attention": rope(160_000.0), "sliding_attention": rope(10_000.0)},
            "norm_eps": 1e-5,
            "tie_word_embeddings": true,
            "norm_bias": false,
            "attention_bias": false,
            "mlp_bias": false,
            "decoder_bias": true,
            "classifier_bias": false,
            "classifier_pooling": "mean",
            "cls_token_id": sizes.bos,
            "sep_token_id": sizes.eos.first(),
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "model.embeddings.tok_embeddings"),
            ("embed.norm", "model.embeddings.norm"),
            ("norm", "model.final_norm"),
            ("layers.{}.attention_norm", "model.layers.{}.attn_norm"),
            ("layers.{}.attention.q", "model.layers.{}.attn.q"),
            ("layers.{}.attention.k", "model.layers.{}.attn.k"),
            ("layers.{}.attention.v", "model.layers.{}.attn.v"),
            ("layers.{}.attention.o", "model.layers.{}.attn.Wo"),
            ("layers.{}.ffn_norm", "model.layers.{}.mlp_norm"),
            ("layers.{}.ffn.gate", "model.layers.{}.mlp.gate"),
            ("layers.{}.ffn.up", "model.layers.{}.mlp.up"),
            ("layers.{}.ffn.down", "model.layers.{}.mlp.Wo"),
            ("masked.dense", "head.dense"),
            ("masked.norm", "head.norm"),
            ("masked.out", "decoder"),
            ("masked.bias", "decoder.bias"),
            ("text.dense", "head.dense"),
            ("text.norm", "head.norm"),
            ("text.out", "classifier"),
            ("token.dense", "head.dense"),
            ("token.norm", "head.norm"),
            ("token.out", "classifier"),
            ("span.dense", "head.dense"),
            ("span.norm", "head.norm"),
            ("span.out", "classifier"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let stack = spec.stack();
        let fused = |module: String, parts: &[&str], path: String, rows: usize| {
            let parts = parts.iter().map(|part| (format!("{path}.{part}"), rows)).collect();
            Rearrangement::from(Fused { module, parts, groups: 1, transposed: false })
        };
        let layers = stack.blocks.iter().enumerate().flat_map(|(i, block)| {
            let (attn, mlp) = (format!("model.layers.{i}.attn"), format!("model.layers.{i}.mlp"));
            let d_ff = block.feed_forward().map_or(0, |ffn| ffn.d_ff);
            [
                fused(format!("{attn}.Wqkv"), &["q", "k", "v"], attn, stack.d_model),
                fused(format!("{mlp}.Wi"), &["gate", "up"], mlp, d_ff),
            ]
        });
        bert::bare(spec, "model").into_iter().chain(layers).collect()
    }

    fn form(&self) -> Form {
        Form { gated: true, grouped_queries: false }
    }
}
