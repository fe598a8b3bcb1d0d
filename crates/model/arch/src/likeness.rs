//! What the families have in common that differ from Llama by numbers.

use cupola_artifact::{Error, Result};
use cupola_nn::{
    AttentionSpec, BlockSpec, DecoderSpec, EmbeddingSpec, FeedForwardSpec, FfnKind, Layout, NormSpec, StackSpec,
};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::Sizes;
use crate::network::Spec;

/// A decoder of blocks, with the vocabulary and the special tokens that every `config.json` names alike; its output layer
/// is of its own.
pub(crate) fn decoder(
    config: &ConfigJson<'_>,
    embedding: EmbeddingSpec,
    blocks: Vec<BlockSpec>,
    norm: Option<NormSpec>,
    (d_model, max_seq_len): (usize, usize),
) -> Result<DecoderSpec> {
    Ok(DecoderSpec {
        stack: StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len,
            embedding,
            blocks,
            norm,
        },
        tie_embeddings: false,
        soft_cap: None,
        bos: config.token("bos_token_id")?,
        eos: config.tokens("eos_token_id")?,
        pad: config.token("pad_token_id")?,
    })
}

/// Which layers attend a window only, by `layer_types`; where that is absent, `other` says it of each layer.
pub(crate) fn sliding_layers(
    config: &ConfigJson<'_>,
    n_layers: usize,
    other: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let Some(types) = config.texts("layer_types")? else { return Ok((0..n_layers).map(other).collect()) };
    if types.len() != n_layers {
        return Err(Error::failed(format!("config.json has {n_layers} layers, but {} `layer_types`", types.len())));
    }
    let one = |name: &&str| match *name {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(Error::failed(format!("`layer_types` in config.json has the unknown type `{other}`"))
            .with_hint("this build knows full_attention and sliding_attention")),
    };
    types.iter().map(one).collect()
}

/// A decoder that is described in Llama's words. A family reads one, changes what is its own, and makes the spec of it.
pub(crate) struct LlamaLike {
    pub d_model: usize,
    pub n_layers: usize,
    pub norm: NormSpec,
    pub layout: Layout,
    pub attention: AttentionSpec,
    pub ffn: FeedForwardSpec,
    pub embedding: EmbeddingSpec,
    pub tie_embeddings: bool,
    pub soft_cap: Option<f32>,
    pub max_seq_len: usize,
}

impl LlamaLike {
    /// The settings that all of them have.
    pub fn read(config: &ConfigJson<'_>) -> Result<Self> {
        let (d_model, n_heads) = (config.required_size("hidden_size")?, config.required_size("num_attention_heads")?);
        let n_kv_heads = config.size("num_key_value_heads")?.unwrap_or(n_heads);
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(Error::failed(format!(
                "config.json has {n_heads} query heads, which {n_kv_heads} key-value heads do not divide"
            )));
        }
        let d_head = match config.size("head_dim")? {
            Some(d_head) => d_head,
            None if d_model < n_heads => {
                return Err(Error::failed(format!("config.json has {n_heads} heads for a width of {d_model}")));
            }
            None => d_model / n_heads,
        };
        let key = if config.get("hidden_activation").is_some() { "hidden_activation" } else { "hidden_act" };
        let kind = FfnKind::Gated(config.activation(key, "silu")?);
        Ok(Self {
            d_model,
            n_layers: config.blocks("num_hidden_layers")?,
            norm: NormSpec::rms(config.number("rms_norm_eps", 1e-6)?),
            layout: Layout::PreNorm,
            attention: AttentionSpec {
                rope: Some(config.rope(d_head)?),
                ..AttentionSpec::new(n_heads, n_kv_heads, d_head)
            },
            ffn: FeedForwardSpec { d_ff: config.required_size("intermediate_size")?, kind, bias: false },
            embedding: EmbeddingSpec::plain(d_model),
            tie_embeddings: config.flag("tie_word_embeddings", false)?,
            soft_cap: None,
            max_seq_len: config.size("max_position_embeddings")?.unwrap_or(2048),
        })
    }

    /// Heads of another width than the width of the model over their number.
    pub fn set_d_head(&mut self, config: &ConfigJson<'_>, d_head: usize) -> Result<()> {
        self.attention.d_head = d_head;
        self.attention.rope = Some(config.rope(d_head)?);
        Ok(())
    }

    /// The block of these numbers.
    pub fn block(&self, attention: AttentionSpec) -> BlockSpec {
        let layers = vec![("attention", attention.into()), ("ffn", self.ffn.clone().into())];
        BlockSpec { layout: self.layout, norm: self.norm, layers }
    }

    /// The decoder whose blocks are all the same.
    pub fn spec(self, config: &ConfigJson<'_>) -> Result<Spec> {
        let blocks = vec![self.block(self.attention.clone()); self.n_layers];
        self.spec_of(config, blocks)
    }

    /// The decoder of given blocks.
    pub fn spec_of(self, config: &ConfigJson<'_>, blocks: Vec<BlockSpec>) -> Result<Spec> {
        let mut spec = decoder(config, self.embedding, blocks, Some(self.norm), (self.d_model, self.max_seq_len))?;
        spec.tie_embeddings = self.tie_embeddings;
        spec.soft_cap = self.soft_cap;
        Ok(Spec::Decoder(spec))
    }

    /// The decoder whose blocks differ in how far attention reaches: `sliding` says for each layer whether it is
    /// limited to the `sliding_window` of the configuration.
    pub fn spec_with_windows(self, config: &ConfigJson<'_>, sliding: &[bool]) -> Result<Spec> {
        let window =
            if sliding.contains(&true) { Some([config.required_size("sliding_window")? - 1, 0]) } else { None };
        let attention =
            |sliding: &bool| AttentionSpec { window: window.filter(|_| *sliding), ..self.attention.clone() };
        let blocks = sliding.iter().map(|s| self.block(attention(s))).collect();
        self.spec_of(config, blocks)
    }

    /// The settings of a fresh model, in both spellings of the rotary positions: transformers 4 reads the first two,
    /// transformers 5 the third.
    pub fn fresh(sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "hidden_size": sizes.d_model,
            "intermediate_size": sizes.d_ff,
            "num_hidden_layers": sizes.n_layers,
            "num_attention_heads": sizes.n_heads,
            "num_key_value_heads": sizes.n_kv_heads,
            "head_dim": sizes.d_head,
            "hidden_act": "silu",
            "max_position_embeddings": sizes.max_seq_len,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "rope_scaling": null,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "attention_dropout": 0.0,
        });
        config.as_object().cloned().unwrap_or_default()
    }
}
