//! What all stages share that start from a finished model: settings, which parameters are trained, what is written.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use cupola_arch::{Model, adapter_parameters, mergeable, save_adapter, virtual_tokens};
use cupola_artifact::stage::{Input, Plan, PlanInputs, Reference, StageContext};
use cupola_artifact::{Context, Error, Result, human_count, parse_config, unknown_name, write_atomic};
use cupola_nn::adapters::{self, AdapterConfig, AdapterKind, Stands};
use cupola_nn::{Module, StackSpec};
use cupola_tokenizer::Tokenizer;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::conversation::Holdout;
use crate::optim::OptimizerConfig;
use crate::schedule::ScheduleConfig;
use crate::{Objective, PrecisionSetting, TrainIo, TrainSettings, TrainSummary, train};

/// Which parameters are trained.
#[derive(Clone, Copy, Default)]
pub enum Method {
    /// All of them.
    #[default]
    Full,
    /// Those of an adapter, while the model's own stay.
    Adapter(&'static dyn AdapterKind),
}

/// What [`Method::Full`] is called.
const FULL: &str = "full";

impl Method {
    /// Its name in recipes.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Full => FULL,
            Method::Adapter(kind) => kind.name(),
        }
    }

    /// The names of all.
    pub fn names() -> &'static [&'static str] {
        static NAMES: LazyLock<Vec<&'static str>> =
            LazyLock::new(|| [FULL].into_iter().chain(adapters::ALL.iter().map(|kind| kind.name())).collect());
        &NAMES
    }
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match adapters::kind(&name) {
            Ok(kind) => Ok(Method::Adapter(kind)),
            Err(_) if name == FULL => Ok(Method::Full),
            Err(_) => Err(D::Error::unknown_variant(&name, Self::names())),
        }
    }
}

/// What the weights become that an adapter stands beside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantize {
    /// They stay as they are.
    #[default]
    None,
    /// Four-bit numbers (Dettmers et al. 2023, "QLoRA").
    Nf4,
}

/// The settings that tuning and alignment have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineTune {
    /// The model: a stage or a model directory.
    pub model: String,
    /// The records: a file, or a folder of files.
    pub data: String,
    /// A system message for conversations that have none.
    pub system: Option<String>,
    /// What is trained: all parameters (`full`), or an adapter of some kind.
    pub method: Method,
    /// The adapter's settings.
    pub adapter: Map<String, Value>,
    /// What the frozen weights become beside an adapter.
    pub quantize: Quantize,
    /// How often each record is learned from.
    pub epochs: f64,
    /// Records of one optimizer step.
    pub batch_size: usize,
    /// Records of one forward pass; not set, as many as have 4096 tokens. It changes memory and speed only.
    pub micro_batch: Option<usize>,
    /// Longer examples lose their end; not set, the model's context.
    pub max_seq_len: Option<usize>,
    /// The peak learning rate; not set, it follows from the model's width.
    pub lr: Option<f64>,
    /// How the learning rate moves after the warm-up: `cosine`, `linear` or `constant`.
    pub schedule: String,
    /// The share of the steps in which the learning rate rises linearly.
    pub warmup: f64,
    /// The share of the peak learning rate at the end.
    pub min_lr_ratio: f64,
    /// Decoupled weight decay of the matrices.
    pub weight_decay: f32,
    /// What matrix products multiply: `auto`, `f32`, `bf16` or `f16`.
    pub precision: PrecisionSetting,
    /// Whether blocks are computed again in the backward pass instead of kept in memory.
    pub activation_checkpointing: bool,
    /// The largest norm of all gradients together; 0 is none.
    pub clip: f64,
    /// The share of the records held out to measure on.
    pub validation_fraction: f64,
    /// How they are chosen: `hash` of the prompt, or `position` (the last ones).
    pub holdout: Holdout,
    /// Steps between two evaluations; 0 evaluates before and after only.
    pub eval_every: u64,
    /// Steps between two checkpoints; 0 is none.
    pub checkpoint_every: u64,
}

impl Default for FineTune {
    fn default() -> Self {
        Self {
            model: String::new(),
            data: String::new(),
            system: None,
            method: Method::Full,
            adapter: Map::new(),
            quantize: Quantize::None,
            epochs: 1.0,
            batch_size: 16,
            micro_batch: None,
            max_seq_len: None,
            lr: None,
            schedule: "cosine".into(),
            warmup: 0.03,
            min_lr_ratio: 0.1,
            weight_decay: 0.0,
            precision: PrecisionSetting::Auto,
            activation_checkpointing: false,
            clip: 1.0,
            validation_fraction: 0.05,
            holdout: Holdout::Hash,
            eval_every: 0,
            checkpoint_every: 100,
        }
    }
}

/// Takes a stage's own keys out of its section; gives them and the rest.
///
/// # Errors
/// A key that neither the stage nor [`FineTune`] has.
pub fn split_keys(section: &str, mut table: toml::Table, own: &[&str]) -> Result<(toml::Table, toml::Table)> {
    let mut mine = toml::Table::new();
    for key in own {
        mine.extend(table.remove(*key).map(|value| ((*key).to_owned(), value)));
    }
    let shared = json!(FineTune::default());
    let keys = shared.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let known: Vec<&str> = keys.chain(own.iter().copied()).collect();
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(unknown_name(&format!("unknown key `{key}` in [{section}]"), key, "key", &known)),
        None => Ok((mine, table)),
    }
}

impl FineTune {
    /// Reads the shared settings; `epochs` is the default for a stage.
    ///
    /// # Errors
    /// A wrong or missing setting.
    pub fn read(section: &str, mut table: toml::Table, epochs: f64) -> Result<Self> {
        for key in ["model", "data"] {
            if !table.contains_key(key) {
                return Err(Error::usage(format!("`{key}` is missing in [{section}]"))
                    .with_hint(format!("add `{key} = …` to [{section}]")));
            }
        }
        table.entry("epochs").or_insert(toml::Value::Float(epochs));
        let settings: Self = parse_config(section, table)?;
        settings.check(section)?;
        Ok(settings)
    }

    fn check(&self, section: &str) -> Result<()> {
        let wrong = |what: &str| Err(Error::usage(format!("{what} in [{section}]")));
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !positive(self.epochs) || self.lr.is_some_and(|lr| !positive(lr)) {
            return wrong("`epochs` and `lr` must be above 0");
        }
        if self.batch_size == 0 || self.micro_batch == Some(0) || self.max_seq_len.is_some_and(|n| n < 2) {
            return wrong("`batch_size` and `micro_batch` must be at least 1 and `max_seq_len` at least 2");
        }
        let share = |x: f64| (0.0..1.0).contains(&x);
        if ![self.warmup, self.min_lr_ratio, self.validation_fraction].into_iter().all(share) {
            return wrong("`warmup`, `min_lr_ratio` and `validation_fraction` must be from 0 to below 1");
        }
        if !(self.weight_decay >= 0.0 && self.clip >= 0.0) {
            return wrong("`weight_decay` and `clip` must not be negative");
        }
        if matches!(self.method, Method::Full) {
            if !self.adapter.is_empty() {
                return wrong("`method = \"full\"` has no `adapter` settings")
                    .map_err(|e| e.with_hint(format!("name a kind in `method`: {}", Method::names()[1..].join(", "))));
            }
            if self.quantize != Quantize::None {
                return wrong("`quantize` needs weights that stay as they are, and `method = \"full\"` trains them");
            }
        }
        self.adapter_config().map_err(|e| {
            let told = Error::usage(format!("[{section}.adapter]: {e}"));
            e.hint().map_or_else(|| Error::usage(format!("[{section}.adapter]: {e}")), |hint| told.with_hint(hint))
        })?;
        self.schedule_for(1).ratio(0, 1).map(|_| ())
    }

    /// The adapter; none where all parameters are trained.
    ///
    /// # Errors
    /// A setting that the kind does not have, or that is out of its range.
    pub fn adapter_config(&self) -> Result<Option<AdapterConfig>> {
        match self.method {
            Method::Full => Ok(None),
            Method::Adapter(kind) => AdapterConfig::new(kind, self.adapter.clone()).map(Some),
        }
    }

    /// The model and the data.
    pub fn references(&self) -> Vec<Reference> {
        let reference = |key, value: &String| Reference { key, value: value.clone() };
        vec![reference("model", &self.model), reference("data", &self.data)]
    }

    /// Optimizer steps for so many training examples.
    pub fn steps(&self, examples: usize) -> u64 {
        ((self.epochs * examples as f64 / self.batch_size as f64).ceil() as u64).max(1)
    }

    /// The peak learning rate, and why: `scale / d_model` unless it is set, so many times that for adapters.
    ///
    /// Adam's best learning rate for hidden matrices falls with the width (Yang et al. 2022, "Tensor Programs V"), and
    /// that of LoRA is about ten times that of all parameters (Schulman et al. 2025, "LoRA Without Regret"); other kinds
    /// say theirs in [`AdapterKind::lr_factor`].
    pub fn peak_lr(&self, scale: f64, spec: &StackSpec) -> (f64, String) {
        if let Some(lr) = self.lr {
            return (lr, format!("lr {lr:.1e} (set)"));
        }
        let (factor, rule) = match self.method {
            Method::Full => (1.0, format!("{scale} / d_model {}", spec.d_model)),
            Method::Adapter(kind) => {
                let factor = kind.lr_factor();
                (factor, format!("{factor} · {scale} / d_model {}, for {}", spec.d_model, kind.name()))
            }
        };
        let lr = factor * scale / spec.d_model as f64;
        (lr, format!("lr {lr:.1e} ({rule})"))
    }

    fn schedule_for(&self, steps: u64) -> ScheduleConfig {
        let warmup_steps = (self.warmup * steps as f64).ceil() as u64;
        ScheduleConfig { name: self.schedule.clone(), warmup_steps, min_ratio: self.min_lr_ratio }
    }

    /// How long examples may be.
    pub fn context_len(&self, spec: &StackSpec) -> usize {
        let before = self.adapter_config().ok().flatten().map_or(0, |config| virtual_tokens(&config));
        let room = spec.max_seq_len.saturating_sub(before);
        self.max_seq_len.map_or(room, |len| len.min(room))
    }

    /// Marks what is trained, with fresh adapters where the method has any; gives back how many numbers.
    ///
    /// # Errors
    /// A quantized model; layers for adapters that it does not have.
    pub fn prepare(&self, model: &mut Model, seed: u64) -> Result<u64> {
        model.merge_adapter()?;
        let config = self.adapter_config()?;
        if model.is_quantized() && (config.is_none() || !model.is_nf4()) {
            return Err(Error::failed("the model's weights are quantized and cannot be trained").with_hint(
                "train the model first and compress it afterwards, or train an adapter beside weights in nf4",
            ));
        }
        if self.quantize == Quantize::Nf4 && !model.is_nf4() {
            model.quantize_nf4();
        }
        model.network.set_precision(self.precision.resolve());
        model.set_recompute(self.activation_checkpointing)?;
        match config {
            None => model.set_trainable(|_| true),
            Some(config) => {
                if self.activation_checkpointing && matches!(config.adapter.stands(), Stands::Prefix(_)) {
                    return Err(Error::usage("`activation_checkpointing` does not go with keys before the text")
                        .with_hint("leave it out, or choose a smaller `micro_batch`"));
                }
                model.adapt(&config, seed)?;
                let names: BTreeSet<String> = model.adapter_names().into_iter().collect();
                model.set_trainable(|param| names.contains(param.name()));
            }
        }
        let trained = model.params_mut().iter().filter(|p| p.trainable()).map(|p| p.numel() as u64).sum();
        Ok(trained)
    }

    /// Floating-point operations of training on one token, of which training all parameters takes `full`: with adapters,
    /// the gradients of the weights themselves, a third of the whole, are not computed.
    pub fn training_flops(&self, full: f64) -> f64 {
        if matches!(self.method, Method::Full) { full } else { full * 2.0 / 3.0 }
    }

    /// Evaluates, trains, evaluates; gives back the figures from before as well.
    ///
    /// # Errors
    /// As [`train`].
    pub fn run(
        &self,
        model: &mut Model,
        objective: &mut dyn Objective,
        context: &StageContext<'_>,
        steps: u64,
        lr: f64,
    ) -> Result<(Vec<(String, f64)>, TrainSummary)> {
        let before = objective.evaluate(&model.frozen())?;
        let settings = TrainSettings {
            steps,
            lr,
            schedule: self.schedule_for(steps),
            optimizer: OptimizerConfig { weight_decay: self.weight_decay, beta2: 0.999, ..OptimizerConfig::default() },
            clip: self.clip,
            eval_every: self.eval_every,
            sample_every: 0,
            checkpoint_every: self.checkpoint_every,
            log_every: 1,
            task: context.name.to_owned(),
        };
        let io = TrainIo {
            checkpoints: context.work.join("checkpoints"),
            metrics: context.dir.to_path_buf(),
            progress: context.progress,
        };
        Ok((before, train(model, objective, &settings, &io)?))
    }

    /// Writes the model's directory; with adapters also `adapter/` in PEFT's layout, and the model has them merged. Where an
    /// adapter cannot be merged, the directory is its own, and names its base, which lies within where it was trained too.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, model: &mut Model, tokenizer: &Tokenizer, context: &StageContext<'_>) -> Result<()> {
        let (merges, more) = (model.is_mergeable(), trains_more(model));
        model.set_trainable(|_| false);
        if model.adapted().is_some() {
            let (place, up) = if merges { ("adapter", "../..") } else { ("", "..") };
            let base = match more && !merges {
                // A new head, for one, is no part of the base that was given.
                true => {
                    model.save(&context.dir.join(OWN_BASE))?;
                    OWN_BASE.to_string()
                }
                false => adapter_base(context.input("model")?, up)?,
            };
            save_adapter(model, &base, &context.dir.join(place))?;
        }
        if merges {
            if model.adapted().is_some() && model.is_quantized() {
                model.dequantize();
            }
            model.merge_adapter()?;
            model.save(context.dir)?;
        }
        tokenizer.save(context.dir)?;
        // A chat also ends where a turn does.
        let (bos, own, pad) = model.spec().special();
        let mut eos = own.to_vec();
        eos.extend(tokenizer.stop_ids().iter().filter(|id| !own.contains(id)));
        let generation = json!({"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad});
        let text =
            serde_json::to_string_pretty(&generation).context(|| "cannot write generation_config.json".into())?;
        write_atomic(&context.dir.join("generation_config.json"), format!("{text}\n").as_bytes())
    }

    /// The share of a model's parameters that is trained: exact where the model is there to be looked at.
    fn trained_share(&self, model: Option<&Path>) -> (f64, Option<u64>) {
        let Ok(Some(config)) = self.adapter_config() else { return (1.0, None) };
        let exact = model.and_then(|path| {
            let (family, spec) = Model::read_family(path).ok()?;
            Some((adapter_parameters(family, &spec, &config).ok()?, spec.parameters()))
        });
        match exact {
            Some((trained, all)) => (trained as f64 / all as f64, Some(trained)),
            None => (0.05, None),
        }
    }

    /// What training would cost; `passes` are the forward passes without gradients on the training data.
    pub fn plan(&self, inputs: &PlanInputs<'_>, passes: f64) -> Plan {
        let find = |key: &str| inputs.inputs.iter().find(|(input, _)| input.key == key);
        let mut facts = find("model").and_then(|(_, plan)| plan.map(|p| p.facts.clone())).unwrap_or_default();
        let spec = find("model").and_then(|(input, _)| Model::read_spec(&input.path).ok());
        if let Some(spec) = spec {
            facts.entry("parameters".into()).or_insert(spec.parameters() as f64);
            facts.entry("d_model".into()).or_insert(spec.stack().d_model as f64);
        }
        let parameters = facts.get("parameters").copied().unwrap_or(0.0);
        let bytes =
            find("data").and_then(|(input, _)| std::fs::metadata(&input.path).ok()).map_or(1e6, |m| m.len() as f64);
        // About four bytes to a token; a training pass is worth three forward passes, with adapters two.
        let tokens = bytes / 4.0;
        let train = if matches!(self.method, Method::Full) { 6.0 } else { 4.0 };
        let flops = parameters * tokens * (train * self.epochs + 2.0 * passes);
        let (trained, count) = self.trained_share(find("model").map(|(input, _)| input.path.as_path()));
        let count = count.or(matches!(self.method, Method::Full).then_some(parameters as u64)).filter(|n| *n > 0);
        facts.extend(count.map(|n| ("trainable_parameters".to_string(), n as f64)));
        // Numbers in four bits with their scales.
        let bytes_per_weight = if self.quantize == Quantize::Nf4 { 0.53 } else { 4.0 };
        let merges = !matches!(self.adapter_config(), Ok(Some(config)) if !mergeable(&config));
        Plan {
            facts,
            flops,
            // Weights, and for what is trained its gradient and Adam's two moments; activations of a micro-batch.
            memory_bytes: parameters * (bytes_per_weight + 16.0 * trained) + 3e8,
            disk_bytes: 4.0 * parameters * (if merges { 1.0 } else { 0.0 } + trained * 0.1),
            // Short rows reach about a quarter of the peak.
            seconds: flops / (0.25 * inputs.peak_flops.max(1.0)) + 1.0,
            notes: [format!("about {} tokens, {} epochs", human_count(tokens), self.epochs)]
                .into_iter()
                .chain(count.map(|n| format!("{n} parameters are trained ({})", self.method.name())))
                .collect(),
        }
    }
}

/// Where the base of an adapter lies in its own folder, where it was trained too.
const OWN_BASE: &str = "base";

/// Whether an adapter's model trains more than the adapter.
fn trains_more(model: &mut Model) -> bool {
    let names: BTreeSet<String> = model.adapter_names().into_iter().collect();
    model.params_mut().iter().any(|param| param.trainable() && !names.contains(param.name()))
}

/// Where an adapter's base is: a stage's artifact beside ours, `up` from the adapter; else its full path.
fn adapter_base(model: &Input, up: &str) -> Result<String> {
    if let (Some(_), Some(name)) = (&model.kind, model.path.file_name()) {
        return Ok(format!("{up}/{}", name.to_string_lossy()));
    }
    let path = model.path.canonicalize().context(|| format!("cannot find {}", model.path.display()))?;
    Ok(path.display().to_string())
}

/// The figures that every such stage reports; those of an evaluation also from before, as `…_before`.
pub fn metrics(before: &[(String, f64)], summary: &TrainSummary) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("steps".into(), json!(summary.steps));
    out.insert("tokens".into(), json!(summary.tokens));
    out.insert("train_loss".into(), json!(summary.train_loss));
    for (name, value) in &summary.evaluation {
        out.insert(name.clone(), json!(value));
    }
    for (name, value) in before {
        out.insert(format!("{name}_before"), json!(value));
    }
    out.insert("tokens_per_second".into(), json!(summary.tokens_per_second));
    out.insert("mfu".into(), json!(summary.mfu));
    out.insert("training_seconds".into(), json!(summary.seconds));
    out.insert("peak_memory".into(), json!(summary.peak_memory));
    out
}
