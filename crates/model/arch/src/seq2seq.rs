//! What encoder-decoders share: T5 and its cousins, BART and its cousins.

use cupola_artifact::{Error, Result};
use cupola_nn::{
    AttentionSpec, BlockSpec, CrossAttentionSpec, EmbeddingSpec, EncoderDecoderSpec, FeedForwardSpec, FfnKind,
    LayerSpec, Layout, LearnedPositions, NormSpec, RelativeSpec, StackSpec,
};
use serde_json::{Map, Value, json};

use crate::config::{ConfigJson, few_blocks};
use crate::family::Sizes;

/// The settings that all encoder-decoders end with.
pub(crate) fn finished(
    config: &ConfigJson<'_>,
    [encoder, decoder]: [StackSpec; 2],
    defaults: [u32; 2],
) -> Result<EncoderDecoderSpec> {
    let pad = config.token("pad_token_id")?.unwrap_or(defaults[0]);
    let start = config.token("decoder_start_token_id")?.unwrap_or(defaults[1]);
    let vocab_size = encoder.vocab_size;
    for (key, id) in [("pad_token_id", pad), ("decoder_start_token_id", start)] {
        if id as usize >= vocab_size {
            return Err(Error::failed(format!("config.json has {key} = {id}, outside the vocabulary of {vocab_size}")));
        }
    }
    Ok(EncoderDecoderSpec {
        encoder,
        decoder,
        tie_embeddings: config.flag("tie_word_embeddings", true)?,
        head_scale: None,
        logits_bias: false,
        balance: 0.0,
        start,
        bos: config.token("bos_token_id")?,
        eos: config.tokens("eos_token_id")?,
        pad: Some(pad),
    })
}

/// What the decoder's texts begin with in a fresh model.
pub(crate) fn start_of(sizes: &Sizes) -> u32 {
    sizes.pad.or(sizes.bos).or(sizes.eos.first().copied()).unwrap_or(0)
}

/// The layers of a block: the decoder's with cross-attention between the other two.
fn layers(attention: &AttentionSpec, ffn: LayerSpec, decodes: bool) -> Vec<(&'static str, LayerSpec)> {
    let AttentionSpec { n_heads, d_head, bias, scale, .. } = *attention;
    let own = ("attention", attention.clone().into());
    let other = decodes.then(|| ("cross", CrossAttentionSpec { n_heads, d_head, bias, scale }.into()));
    [own].into_iter().chain(other).chain([("ffn", ffn)]).collect()
}

/// T5's words.
pub(crate) struct T5Like {
    pub d_model: usize,
    pub n_layers: [usize; 2],
    pub attention: AttentionSpec,
    pub ffn: FeedForwardSpec,
    pub norm: NormSpec,
    pub relative: RelativeSpec,
}

impl T5Like {
    /// The settings that T5 and its cousins have; `proj` is what they say of the feed-forward layer.
    pub fn read(config: &ConfigJson<'_>, proj: &str) -> Result<Self> {
        config.only(&[("is_decoder", json!(false)), ("is_encoder_decoder", json!(true))])?;
        let (n_heads, d_head) = (config.required_size("num_heads")?, config.required_size("d_kv")?);
        let n_layers = config.blocks("num_layers")?;
        let relative = RelativeSpec {
            buckets: config.size("relative_attention_num_buckets")?.unwrap_or(32),
            max_distance: config.size("relative_attention_max_distance")?.unwrap_or(128),
            both_sides: true,
            n_heads,
        };
        if relative.buckets < 4 || relative.max_distance <= relative.buckets / 2 {
            return Err(Error::failed(format!(
                "config.json has {} ranges of relative positions up to {}",
                relative.buckets, relative.max_distance
            ))
            .with_hint("at least 4, and a `relative_attention_max_distance` above half their number"));
        }
        Ok(Self {
            d_model: config.required_size("d_model")?,
            n_layers: [
                n_layers,
                few_blocks("num_decoder_layers", config.size("num_decoder_layers")?.unwrap_or(n_layers))?,
            ],
            attention: AttentionSpec {
                relative: true,
                scale: Some(1.0),
                ..AttentionSpec::new(n_heads, n_heads, d_head)
            },
            ffn: FeedForwardSpec { d_ff: config.required_size("d_ff")?, kind: projection(config, proj)?, bias: false },
            norm: NormSpec::rms(config.number("layer_norm_epsilon", 1e-6)?),
            relative,
        })
    }

    /// The spec, each block's feed-forward layer being as `ffn` says: of which side, and of which block.
    pub fn spec(self, config: &ConfigJson<'_>, ffn: impl Fn(usize, usize) -> LayerSpec) -> Result<EncoderDecoderSpec> {
        let (vocab_size, max_seq_len) =
            (config.required_size("vocab_size")?, config.size("n_positions")?.unwrap_or(512));
        let side = |side: usize| StackSpec {
            vocab_size,
            d_model: self.d_model,
            max_seq_len,
            embedding: EmbeddingSpec {
                relative: Some(RelativeSpec { both_sides: side == 0, ..self.relative }),
                shared: side == 1,
                ..EmbeddingSpec::plain(self.d_model)
            },
            blocks: (0..self.n_layers[side])
                .map(|block| BlockSpec {
                    layout: Layout::PreNorm,
                    norm: self.norm,
                    layers: layers(&self.attention, ffn(side, block), side == 1),
                })
                .collect(),
            norm: Some(self.norm),
        };
        finished(config, [side(0), side(1)], [0, 0])
    }

    /// The settings of a fresh model, the form of its feed-forward layers apart.
    pub fn fresh(sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "d_model": sizes.d_model,
            "d_kv": sizes.d_head,
            "d_ff": sizes.d_ff,
            "num_layers": sizes.n_layers,
            "num_decoder_layers": sizes.n_layers,
            "num_heads": sizes.n_heads,
            "n_positions": sizes.max_seq_len,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "dropout_rate": 0.0,
            "is_encoder_decoder": true,
            "decoder_start_token_id": start_of(sizes),
        });
        config.as_object().cloned().unwrap_or_default()
    }
}

/// The form of T5's feed-forward layers: `relu`, `gated-gelu` and the like.
fn projection(config: &ConfigJson<'_>, proj: &str) -> Result<FfnKind> {
    let one = |name: &str| {
        let values = Map::from_iter([("feed_forward_proj".to_string(), json!(name))]);
        ConfigJson { values: &values }.activation("feed_forward_proj", "relu")
    };
    match config.text("feed_forward_proj", proj)? {
        // The authors' `gelu` is the approximation, in this place only.
        "gated-gelu" => Ok(FfnKind::Gated(one("gelu_new")?)),
        gated if gated.starts_with("gated-") => Ok(FfnKind::Gated(one(gated.trim_start_matches("gated-"))?)),
        plain => Ok(FfnKind::Plain(one(plain)?)),
    }
}

/// BART's words.
pub(crate) struct BartLike {
    pub layout: Layout,
    /// Where positions begin in the table, which has so many rows more.
    pub offset: usize,
    pub sinusoids: bool,
    /// What the settings of the longest texts are called, the encoder's and the decoder's.
    pub longest: [&'static str; 2],
    /// Padding and the decoder's start, where the settings do not say them.
    pub tokens: [u32; 2],
}

impl BartLike {
    /// The spec; `attention` changes the encoder's blocks' own attention.
    pub fn spec(
        &self,
        config: &ConfigJson<'_>,
        attention: impl Fn(usize, &AttentionSpec) -> Result<LayerSpec>,
    ) -> Result<EncoderDecoderSpec> {
        config.only(&[("is_encoder_decoder", json!(true))])?;
        let (vocab_size, d_model) = (config.required_size("vocab_size")?, config.required_size("d_model")?);
        let norm = NormSpec::layer(1e-5);
        let pre_norm = self.layout == Layout::PreNorm;
        let kind = FfnKind::Plain(config.activation("activation_function", "gelu")?);
        let scale = config.flag("scale_embedding", false)?.then(|| (d_model as f32).sqrt());
        let pad = config.token("pad_token_id")?.unwrap_or(self.tokens[0]);
        let side = |side: usize| -> Result<StackSpec> {
            let key = |what: &str| format!("{}_{what}", ["encoder", "decoder"][side]);
            let n_heads = config.required_size(&key("attention_heads"))?;
            let d_head = config.divides(("d_model", d_model), (&key("attention_heads"), n_heads))?;
            let own = AttentionSpec { bias: true, out_bias: true, ..AttentionSpec::new(n_heads, n_heads, d_head) };
            let ffn = FeedForwardSpec { d_ff: config.required_size(&key("ffn_dim"))?, kind, bias: true };
            let max_seq_len = config.size(self.longest[side])?.unwrap_or(1024);
            let block = |i: usize| -> Result<BlockSpec> {
                let mut layers = layers(&own, ffn.clone().into(), side == 1);
                if side == 0 {
                    layers[0].1 = attention(i, &own)?;
                }
                Ok(BlockSpec { layout: self.layout, norm, layers })
            };
            let positions =
                LearnedPositions { rows: max_seq_len + self.offset, offset: self.offset, count_padding: true };
            Ok(StackSpec {
                vocab_size,
                d_model,
                max_seq_len,
                embedding: EmbeddingSpec {
                    scale,
                    positions: Some(positions),
                    sinusoids: self.sinusoids,
                    norm: (!pre_norm).then_some(norm),
                    shared: side == 1,
                    padding: Some(pad),
                    ..EmbeddingSpec::plain(d_model)
                },
                blocks: (0..config.blocks(&key("layers"))?).map(block).collect::<Result<_>>()?,
                norm: pre_norm.then_some(norm),
            })
        };
        Ok(EncoderDecoderSpec { logits_bias: true, ..finished(config, [side(0)?, side(1)?], self.tokens)? })
    }

    /// The settings of a fresh model.
    pub fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = Map::new();
        for side in ["encoder", "decoder"] {
            config.insert(format!("{side}_layers"), json!(sizes.n_layers));
            config.insert(format!("{side}_attention_heads"), json!(sizes.n_heads));
            config.insert(format!("{side}_ffn_dim"), json!(sizes.d_ff));
            config.insert(format!("{side}_layerdrop"), json!(0.0));
        }
        for key in self.longest {
            config.insert(key.into(), json!(sizes.max_seq_len));
        }
        for dropout in ["dropout", "attention_dropout", "activation_dropout"] {
            config.insert(dropout.into(), json!(0.0));
        }
        config.extend([
            ("d_model".to_string(), json!(sizes.d_model)),
            ("activation_function".into(), json!("gelu")),
            ("scale_embedding".into(), json!(false)),
            ("is_encoder_decoder".into(), json!(true)),
            ("decoder_start_token_id".into(), json!(start_of(sizes))),
            ("forced_eos_token_id".into(), Value::Null),
        ]);
        config
    }
}
