//! Adapters: few numbers beside frozen weights that are trained in their place, one file for each kind.
//!
//! A kind says which settings it has and where it stands: beside linear layers, behind the layers of a block, in attention,
//! in place of norms, or before the text. Its weights come from a [`WeightSource`] as a model's do: a file, a random number
//! generator, or a count.

mod adalora;
mod bottleneck;
mod combine;
mod embedding_lora;
mod gated_prompt;
mod ia3;
mod layer_norm;
mod linear_adapter;
mod loha;
mod lokr;
mod lora;
mod oft;
mod prefix;
mod prompt;
mod targets;
mod virtual_tokens;

use std::fmt::Debug;

use cupola_artifact::{Error, Result, unknown_name};
use serde_json::{Map, Value};

pub use adalora::{AdaLora, AdaLoraSettings};
pub use bottleneck::{Bottleneck, BottleneckSettings};
pub use combine::{Combination, LowRank, combine};
pub use embedding_lora::EmbeddingLora;
pub use gated_prompt::{GatedPrompt, GatedPromptSettings};
pub use layer_norm::LayerNormSettings;
pub use linear_adapter::{Base, LinearAdapter, Make, Spanning};
pub use lora::{Lora, LoraSettings};
pub use prefix::{Prefix, PrefixSettings};
pub use prompt::{Prompt, PromptSettings};
pub use targets::{Roles, Selection, Targets};
pub use virtual_tokens::Virtual;
pub(crate) use virtual_tokens::{Inserted, PrefixPass};

/// A setting of a kind of adapter.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in recipes.
    pub name: &'static str,
    /// Its name in PEFT's `adapter_config.json`.
    pub peft: &'static str,
    /// What it means.
    pub about: &'static str,
}

/// A kind of adapter.
pub trait AdapterKind: Send + Sync {
    /// What recipes call it.
    fn name(&self) -> &'static str;

    /// `peft_type` in `adapter_config.json`.
    fn peft_type(&self) -> &'static str;

    /// What it is and where it comes from, in a line.
    fn about(&self) -> &'static str;

    /// Its settings.
    fn fields(&self) -> &'static [Field];

    /// What they are where a recipe does not say.
    fn defaults(&self) -> Map<String, Value>;

    /// What PEFT takes for granted where a file does not say, as far as that differs from [`Self::defaults`].
    fn of_files(&self) -> Map<String, Value> {
        Map::new()
    }

    /// The learning rate over that of all parameters, where a recipe does not say it.
    fn lr_factor(&self) -> f64 {
        10.0
    }

    /// An adapter of these settings, all of which are there.
    ///
    /// # Errors
    /// A setting that is unknown, of another type, or out of its range.
    fn read(&self, settings: Map<String, Value>) -> Result<Box<dyn Adapter>>;
}

/// The settings of an adapter: what stands where.
pub trait Adapter: Debug + Send + Sync {
    /// The settings by name, as [`AdapterKind::fields`] lists them.
    fn settings(&self) -> Map<String, Value>;

    /// Where it stands.
    fn stands(&self) -> Stands<'_>;

    /// The same where it is LoRA.
    fn low_rank(&self) -> Option<&LoraSettings> {
        None
    }

    /// The same where ranks move during training.
    fn ranks(&self) -> Option<&AdaLoraSettings> {
        None
    }

    /// A copy.
    fn boxed(&self) -> Box<dyn Adapter>;
}

impl Clone for Box<dyn Adapter> {
    fn clone(&self) -> Self {
        self.boxed()
    }
}

/// Where an adapter stands.
#[derive(Clone, Copy, Debug)]
pub enum Stands<'a> {
    /// Beside linear layers: what it adds to their weights, scales or turns can be merged into them.
    Linears(&'a dyn OnLinears),
    /// In place of norms.
    Norms(&'a LayerNormSettings),
    /// Behind the layers of blocks.
    Blocks(&'a BottleneckSettings),
    /// In attention layers.
    Attention(&'a GatedPromptSettings),
    /// Before the text, as vectors of tokens that there are not.
    Prompt(&'a PromptSettings),
    /// Before the text, as keys and values of each attention layer.
    Prefix(&'a PrefixSettings),
}

/// What stands beside linear layers.
pub trait OnLinears: Debug {
    /// Which layers.
    fn selection(&self) -> Selection;

    /// Which layers where none are named.
    fn roles(&self) -> Roles {
        Roles::All
    }

    /// The adapter of one layer; none where it has no numbers there.
    ///
    /// # Errors
    /// As [`crate::WeightSource::take`]; a layer that it cannot stand beside.
    fn make(&self, make: &mut Make<'_>) -> Result<Option<Box<dyn LinearAdapter>>>;

    /// The adapter of the tokens' vectors; `make.dims` is `[D, V]`.
    ///
    /// # Errors
    /// As [`Self::make`].
    fn make_embedding(&self, make: &mut Make<'_>) -> Result<EmbeddingLora> {
        Err(Error::usage(format!("this kind of adapter cannot stand on the embedding `{}`", make.module))
            .with_hint("name linear layers in `target_modules`"))
    }
}

/// Every kind.
pub const ALL: &[&dyn AdapterKind] = &[
    &lora::LORA,
    &lora::RSLORA,
    &lora::DORA,
    &lora::LORA_PLUS,
    &adalora::AdaLoraKind,
    &loha::LoHaKind,
    &lokr::LoKrKind,
    &oft::OftKind,
    &ia3::Ia3Kind,
    &layer_norm::LayerNormKind,
    &bottleneck::HOULSBY,
    &bottleneck::PFEIFFER,
    &gated_prompt::LlamaAdapterKind,
    &prompt::PROMPT_TUNING,
    &prompt::P_TUNING,
    &prefix::PrefixKind,
];

/// A kind of adapter with its settings.
#[derive(Clone)]
pub struct AdapterConfig {
    /// The kind.
    pub kind: &'static dyn AdapterKind,
    /// Its settings.
    pub adapter: Box<dyn Adapter>,
    /// Modules that are trained and saved whole beside it, by the ends of their names.
    pub modules_to_save: Vec<String>,
}

impl Debug for AdapterConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterConfig").field("kind", &self.kind.name()).field("adapter", &self.adapter).finish()
    }
}

/// What every kind may be told besides its own settings.
pub const MODULES_TO_SAVE: Field = Field {
    name: "modules_to_save",
    peft: "modules_to_save",
    about: "modules that are trained and saved whole, by the ends of their names (norms, the embedding, a head)",
};

impl AdapterConfig {
    /// A kind with its defaults but for some settings.
    ///
    /// # Errors
    /// A setting that the kind does not have, or that is out of its range.
    pub fn new(kind: &'static dyn AdapterKind, given: Map<String, Value>) -> Result<Self> {
        let mut settings = kind.defaults();
        let mut modules_to_save = vec![];
        for (key, value) in given {
            if key == MODULES_TO_SAVE.name {
                modules_to_save = serde_json::from_value(value)
                    .map_err(|e| Error::usage(format!("`modules_to_save` is not a list of names: {e}")))?;
            } else if settings.contains_key(&key) {
                settings.insert(key, value);
            } else {
                let known: Vec<&str> = kind.fields().iter().map(|field| field.name).collect();
                let message = format!("the adapter `{}` has no setting `{key}`", kind.name());
                return Err(unknown_name(&message, &key, "setting", &known));
            }
        }
        Ok(Self { kind, adapter: kind.read(settings)?, modules_to_save })
    }

    /// The same with other settings in the place of some.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(&self, settings: Map<String, Value>) -> Result<Self> {
        let mut all = self.adapter.settings();
        all.extend(settings);
        Ok(Self { adapter: self.kind.read(all)?, ..self.clone() })
    }
}

/// The kind that recipes call so.
///
/// # Errors
/// An unknown name; the nearest known one is its hint.
pub fn kind(name: &str) -> Result<&'static dyn AdapterKind> {
    ALL.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| {
        let known: Vec<&str> = ALL.iter().map(|kind| kind.name()).collect();
        unknown_name(&format!("there is no adapter called `{name}`"), name, "adapter", &known)
    })
}

/// The methods of [`AdapterKind`] that follow from a settings type.
macro_rules! settings {
    ($kind:ident: $settings:ty) => {
        fn defaults(&self) -> serde_json::Map<String, serde_json::Value> {
            crate::adapters::object(&Self::preset(self))
        }

        fn read(
            &self,
            settings: serde_json::Map<String, serde_json::Value>,
        ) -> cupola_artifact::Result<Box<dyn crate::adapters::Adapter>> {
            let settings: $settings = crate::adapters::parse(settings)?;
            settings.check()?;
            Ok(Box::new(settings))
        }
    };
}
pub(crate) use settings;

/// A settings type as a JSON object.
pub(crate) fn object<T: serde::Serialize>(settings: &T) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// A settings type from a JSON object.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(settings: Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(settings)).map_err(|e| Error::usage(format!("the adapter's settings: {e}")))
}

/// A usage error unless a setting is in its range.
pub(crate) fn require(fits: bool, what: &str) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::usage(format!("the adapter's settings: {what}"))) }
}
