//! What a family of models has to say about itself.

use crate::network::Spec;
use cupola_artifact::Result;
use serde_json::{Map, Value};

use crate::config::ConfigJson;
use crate::names::NameTable;
use crate::rearrange::Rearrangement;

/// A family: how its `config.json` reads, and how its weights are named.
pub trait Family: Send + Sync {
    /// `model_type` in `config.json`, and the `family` of a recipe.
    fn model_type(&self) -> &'static str;

    /// The class that transformers uses for it.
    fn architecture(&self) -> &'static str;

    /// The paper or report that describes it.
    fn paper(&self) -> &'static str;

    /// What `config.json` describes.
    ///
    /// # Errors
    /// Names the setting that is missing, has a wrong type, or asks for what is not there.
    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec>;

    /// What `config.json` says of a fresh model of these sizes, besides what is the same for all: class, type, special tokens,
    /// vocabulary and tying.
    fn fresh(&self, sizes: &Sizes) -> Map<String, Value>;

    /// What its weights are called.
    fn names(&self) -> NameTable;

    /// The tensors that stand otherwise in files than [`Self::names`] says; named as there.
    fn rearrangements(&self, _spec: &Spec) -> Vec<Rearrangement> {
        Vec::new()
    }

    /// What a name in a file is called now; `None` for what is no weight.
    fn rename(&self, name: &str) -> Option<String> {
        (!name.ends_with("rotary_emb.inv_freq")).then(|| name.to_string())
    }

    /// What a fresh model of the family is made of.
    fn form(&self) -> Form {
        Form { gated: true, grouped_queries: true }
    }

    /// The settings of `config.json` that a recipe may give a fresh model, besides its sizes.
    fn settings(&self) -> &'static [&'static str] {
        &[]
    }
}

/// What a fresh model is made of, its sizes apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Form {
    /// Whether feed-forward layers are gated.
    pub gated: bool,
    /// Whether query heads may share keys and values.
    pub grouped_queries: bool,
}

/// The sizes of a fresh model.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// The longest sequence.
    pub max_seq_len: usize,
    /// Whether the output layer is the embedding.
    pub tie_embeddings: bool,
    /// The beginning-of-text token.
    pub bos: Option<u32>,
    /// The tokens at which generation ends.
    pub eos: Vec<u32>,
    /// The padding token.
    pub pad: Option<u32>,
    /// What else `config.json` shall say: some of [`Family::settings`].
    pub settings: Map<String, Value>,
}
