//! The settings of the data stage.

use cupola_artifact::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::collect;
use crate::collect::crawl::CrawlSource;
use crate::step::{Step, by_name};
use crate::steps::ALL;

/// `[data.NAME]` in a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Files, folders and globs, relative to the recipe, and addresses: a text, or a table with `path` and what is
    /// different for it, or a table with `crawl`. Required.
    pub sources: Vec<Source>,
    /// The folder in which collected files are kept, relative to the recipe; the user's cache if not said. Where they
    /// lie does not matter to the result, so it is not among what decides whether the stage runs again.
    #[serde(skip_serializing)]
    pub cache: Option<String>,
    /// Whether servers are asked if what is in the cache has changed. What is done is not run again for it.
    #[serde(skip_serializing)]
    pub refresh: bool,
    /// The field of a record that holds its text; a text file's only field is `text`.
    pub text_field: String,
    /// What to do with a record that is broken or has no text: stop (`fail`) or set it aside and count it (`skip`).
    pub on_error: OnError,
    /// The largest share of the records that may be set aside before the run stops, 0 to 1; looked at from
    /// [`FEW_RECORDS`] records on.
    pub max_broken: f64,
    /// What is done with each document, in this order: names, or tables with `step` and its settings. No filter is among
    /// the default: the published thresholds are made for web pages and would drop a whole book for its length alone.
    pub steps: Vec<StepSetting>,
    /// How much of each source is written, by weights; without it each source's `epochs` say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixture: Option<Mixture>,
    /// Which dropped documents are kept to be looked at.
    pub keep_dropped: KeepDropped,
    /// How documents are divided into training and validation.
    pub split: SplitRule,
    /// The share that is held out: of the documents for `split = "hash"`, of the bytes for `"position"`; 0 holds out none.
    pub validation_fraction: f64,
}

/// Below so many records the share of broken ones says nothing.
pub const FEW_RECORDS: u64 = 100;

impl Default for DataConfig {
    fn default() -> Self {
        let steps = ["normalize", "exact_duplicates", "near_duplicates"];
        Self {
            sources: Vec::new(),
            cache: None,
            refresh: false,
            text_field: "text".into(),
            on_error: OnError::Fail,
            max_broken: 0.1,
            steps: steps.into_iter().map(|name| StepSetting::Name(name.to_owned())).collect(),
            mixture: None,
            keep_dropped: KeepDropped::Sample,
            split: SplitRule::Hash,
            validation_fraction: 0.1,
        }
    }
}

/// Where text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, try_from = "toml::Value")]
pub enum Source {
    /// A file, folder, glob or address.
    Path(String),
    /// The same with settings of its own.
    Table(SourceTable),
    /// Sites to be crawled.
    Crawl(CrawlSource),
}

impl TryFrom<toml::Value> for Source {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        let reason = |e: toml::de::Error| e.message().to_owned();
        match value {
            toml::Value::String(path) => Ok(Self::Path(path)),
            toml::Value::Table(table) if table.contains_key("crawl") => {
                table.try_into().map(Self::Crawl).map_err(reason)
            }
            toml::Value::Table(table) => table.try_into().map(Self::Table).map_err(reason),
            other => Err(format!("a source is a text or a table, not the {} {other}", other.type_str())),
        }
    }
}

/// `{ path = "…", epochs = 2.0 }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceTable {
    /// A file, folder, glob or address.
    pub path: String,
    /// How often each of its documents is taken: 2 twice, 0.5 every second one, chosen by a hash of its text.
    #[serde(default = "once")]
    pub epochs: f64,
    /// Its share of a mixture, in proportion to the others' weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// What the SHA-256 of the file at an address must be, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// No file at an address may be larger, bytes; [`collect::MAX_FILE_BYTES`] if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// `mixture = { … }`: what is kept of each source is repeated or thinned out until its bytes have the share wanted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mixture {
    /// Without weights a source's share is in proportion to its kept bytes to the power of `1 / temperature`: 1 leaves the
    /// shares as they are, more evens them out (Devlin 2018 for languages; 3.3 in Conneau et al. 2020).
    pub temperature: f64,
    /// Bytes of text to write; all that was kept, if not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// No source is repeated more often; about four times is as good as new text (Muennighoff et al. 2023).
    pub max_epochs: f64,
}

impl Default for Mixture {
    fn default() -> Self {
        Self { temperature: 1.0, bytes: None, max_epochs: 4.0 }
    }
}

impl Mixture {
    /// How often each source is taken so that its bytes have the share wanted, from the bytes that there are of each.
    ///
    /// # Errors
    /// When no source with a weight has any.
    pub fn epochs(&self, sources: &[Source], bytes: &[f64]) -> Result<Vec<f64>> {
        let weight = |i: usize| match sources[i].weight() {
            Some(weight) => weight,
            None => bytes[i].powf(1.0 / self.temperature),
        };
        let weights: Vec<f64> = (0..sources.len()).map(|i| if bytes[i] > 0.0 { weight(i) } else { 0.0 }).collect();
        let sum: f64 = weights.iter().sum();
        if sum <= 0.0 {
            return Err(Error::failed("nothing is left of the sources that have a weight")
                .with_hint("look at report.html of a run without `mixture`, or change the weights"));
        }
        let wanted = self.bytes.map_or(bytes.iter().sum(), |bytes| bytes as f64);
        let epochs = |i: usize| match bytes[i] > 0.0 {
            true => (weights[i] / sum * wanted / bytes[i]).min(self.max_epochs),
            false => 0.0,
        };
        Ok((0..sources.len()).map(epochs).collect())
    }
}

fn once() -> f64 {
    1.0
}

impl Source {
    /// The file, folder, glob or address; the first of the sites to be crawled.
    pub fn path(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Table(table) => &table.path,
            Self::Crawl(crawl) => crawl.crawl.first().map_or("", String::as_str),
        }
    }

    /// Its share of a mixture.
    pub fn weight(&self) -> Option<f64> {
        match self {
            Self::Path(_) => None,
            Self::Table(table) => table.weight,
            Self::Crawl(crawl) => crawl.weight,
        }
    }

    /// How often each document is taken.
    pub fn epochs(&self) -> f64 {
        match self {
            Self::Path(_) => once(),
            Self::Table(table) => table.epochs,
            Self::Crawl(crawl) => crawl.epochs,
        }
    }
}

/// A step as the recipe writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StepSetting {
    /// With its default settings.
    Name(String),
    /// `{ step = "…", … }`.
    Table(toml::Table),
}

/// What to do with a broken record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Stop with its file, line and cause.
    Fail,
    /// Set it aside and count it.
    Skip,
}

/// Which dropped documents are written to `dropped.jsonl.zst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepDropped {
    /// None.
    None,
    /// Some for each reason.
    Sample,
    /// All.
    All,
}

/// How documents are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitRule {
    /// By a hash of the text: a document stays on its side when others are added, removed or reordered.
    Hash,
    /// The end of the corpus, cut at the exact byte (in a single long text, through it).
    Position,
}

impl DataConfig {
    /// Checks what the types leave open, and makes the steps.
    pub fn steps(&self) -> Result<Vec<Step>> {
        if self.sources.is_empty() {
            return Err(Error::usage("`sources` is missing in [data]")
                .with_hint("add `sources = [\"corpus/*.txt\"]`: files, folders or globs"));
        }
        if let Some(source) = self.sources.iter().find(|s| !(0.0..=1000.0).contains(&s.epochs())) {
            return Err(Error::usage(format!(
                "`epochs` of {} is {}, not in [0, 1000]",
                source.path(),
                source.epochs()
            )));
        }
        self.check_mixture()?;
        self.sources.iter().try_for_each(collect::check)?;
        if !(0.0..1.0).contains(&self.validation_fraction) {
            return Err(Error::usage(format!("`validation_fraction` is {}, not in [0, 1)", self.validation_fraction))
                .with_hint("0.1 holds out a tenth"));
        }
        if !(0.0..=1.0).contains(&self.max_broken) {
            return Err(Error::usage(format!("`max_broken` is {}, not in [0, 1]", self.max_broken))
                .with_hint("0.1 lets a tenth of the records be broken"));
        }
        self.steps.iter().map(configure).collect()
    }

    fn check_mixture(&self) -> Result<()> {
        let weights = self.sources.iter().filter_map(Source::weight).collect::<Vec<f64>>();
        let Some(mixture) = &self.mixture else {
            return match weights.is_empty() {
                true => Ok(()),
                false => Err(Error::usage("a source has a `weight`, but there is no `mixture`")
                    .with_hint("add `mixture = {}`, or say how often a source is taken by `epochs`")),
            };
        };
        if !weights.is_empty() && weights.len() < self.sources.len() {
            return Err(Error::usage("some sources have a `weight` and others have none")
                .with_hint("give each source one, or none and let `mixture.temperature` decide"));
        }
        if weights.iter().any(|w| !(0.0..=1e9).contains(w))
            || (!weights.is_empty() && weights.iter().sum::<f64>() <= 0.0)
        {
            return Err(Error::usage("a source's `weight` is negative or too large, or all are 0"));
        }
        if self.sources.iter().any(|source| source.epochs() != once()) {
            return Err(Error::usage("a source has `epochs`, but the `mixture` decides how often it is taken")
                .with_hint("remove `epochs`, or `mixture`"));
        }
        if !(mixture.temperature >= 0.01 && mixture.temperature <= 1e6 && (0.0..=1000.0).contains(&mixture.max_epochs))
        {
            return Err(Error::usage(format!(
                "`mixture` has temperature {} and max_epochs {}: they must be in [0.01, 1e6] and [0, 1000]",
                mixture.temperature, mixture.max_epochs
            )));
        }
        Ok(())
    }

    /// All settings with their defaults filled in, those of the steps too.
    pub fn effective(&self, steps: &[Step]) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["steps"] = steps
            .iter()
            .map(|step| {
                let mut settings = step.settings.clone();
                settings["step"] = json!(step.kind.name);
                if !step.against.is_empty() {
                    settings["against"] = json!(step.against);
                }
                if step.keep_index {
                    settings["keep_index"] = json!(true);
                }
                settings
            })
            .collect();
        value
    }
}

fn configure(setting: &StepSetting) -> Result<Step> {
    let (name, settings) = match setting {
        StepSetting::Name(name) => (name.clone(), toml::Table::new()),
        StepSetting::Table(table) => {
            let mut table = table.clone();
            match table.remove("step") {
                Some(toml::Value::String(name)) => (name, table),
                _ => {
                    return Err(Error::usage("an entry of `steps` does not say which `step` it is")
                        .with_hint("write `{ step = \"gopher_quality\", … }`, or the name alone"));
                }
            }
        }
    };
    by_name(ALL, &name)?.configure(settings)
}
