//! What a family of models has to say about itself.

use crate::network::Spec;
use cupola_artifact::Result;
use serde::Serialize;
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

    /// The `config.json` of the small network that is trained beside a fresh one of this `config.json` and puts in the tokens
    /// that the large one is to find.
    fn generator(&self, _config: &Map<String, Value>) -> Option<Map<String, Value>> {
        None
    }

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

    /// What `config.json` leaves open and the names in the file decide.
    fn settled(&self, spec: Spec, _has: &dyn Fn(&str) -> bool) -> Spec {
        spec
    }

    /// How texts are damaged for a fresh encoder-decoder of the family to learn by restoring them.
    fn damage(&self) -> Damage {
        Damage::Spans
    }

    /// What a fresh model of the family is made of.
    fn form(&self) -> Form {
        Form { gated: true, grouped_queries: true }
    }

    /// The settings of `config.json` that a recipe may give a fresh model, besides its sizes.
    fn settings(&self) -> &'static [&'static str] {
        &[]
    }

    /// The experts of a fresh model unless others are asked for; none in a family without experts.
    fn experts(&self) -> Option<ExpertSizes> {
        None
    }
}

/// How texts are damaged for a model that learns to restore them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Spans give way to a sentinel each, and are what is written (Raffel et al. 2020).
    Spans,
    /// Spans give way to one mask each, sentences change places, and the whole text is written (Lewis et al. 2020).
    Infilling,
}

/// What a fresh model is made of, its sizes apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Form {
    /// Whether feed-forward layers are gated.
    pub gated: bool,
    /// Whether query heads may share keys and values.
    pub grouped_queries: bool,
}

/// The experts of a fresh model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ExpertSizes {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that a token goes to.
    pub per_token: usize,
    /// The share of the load-balancing loss.
    pub balance_loss: f64,
    /// The share of the router's z-loss.
    pub z_loss: f64,
}

impl Default for ExpertSizes {
    /// As Mixtral: two of eight. The losses' shares are those of Fedus et al. (2021) and Zoph et al. (2022).
    fn default() -> Self {
        Self { count: 8, per_token: 2, balance_loss: 0.01, z_loss: 0.001 }
    }
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
    /// The experts, which a family without experts does not look at.
    pub experts: ExpertSizes,
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
