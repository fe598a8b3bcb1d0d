//! The settings of pretraining, and what follows from its one dial.

use cupola_arch::{ExpertSizes, Family, Form, Sizes, Spec};
use cupola_artifact::{Error, Result};
use cupola_nn::Task;
use cupola_tokenizer::Tokenizer;
use cupola_train::PrecisionSetting;
use cupola_train::optim::{AdjustLr, StateType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::mixture::Phase;

/// One input or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a name or a list of names")]
pub enum Inputs {
    /// One.
    One(String),
    /// Several packs.
    Several(Vec<String>),
}

impl Inputs {
    /// All of them.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(all) => all,
        }
    }
}

/// The settings. Only `data`, `tokenizer` and `depth` are asked for; the others follow from `depth` unless given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// The documents: a data stage, a file, a pack stage, or several of those.
    pub data: Inputs,
    /// The tokenizer: a tokenizer stage or a directory with a `tokenizer.json`; packs bring theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// How much of each of several packs is learned from, by parts of the training; in proportion to their tokens if not
    /// said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curriculum: Vec<Phase>,
    /// The family of the model.
    #[serde(default = "default_family", alias = "architecture")]
    pub family: String,
    /// What is learned, as the family has it: `causal`, the next token; `masked`, hidden tokens; `replaced`, which tokens a
    /// small generator put in.
    pub objective: Option<Learned>,
    /// The share of tokens that are hidden.
    #[serde(default = "default_mask_share")]
    pub mask_share: f64,
    /// Whether the tokens of a word are hidden together.
    #[serde(default)]
    pub whole_word: bool,
    /// Settings of `config.json` that only this family has.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// The one dial: how many blocks. Width, heads, batch, learning rate and tokens follow.
    pub depth: usize,
    /// Width of the residual stream.
    pub d_model: Option<usize>,
    /// Query heads.
    pub n_heads: Option<usize>,
    /// Key and value heads.
    pub n_kv_heads: Option<usize>,
    /// Width of the feed-forward layers.
    pub d_ff: Option<usize>,
    /// Experts of a layer, in a family with experts.
    pub experts: Option<usize>,
    /// Experts that a token goes to.
    pub experts_per_token: Option<usize>,
    /// The share of the load-balancing loss; 0 is none.
    pub balance_loss: Option<f64>,
    /// The share of the routers' z-loss; 0 is none.
    pub router_z_loss: Option<f64>,
    /// Tokens of a sequence, and the model's context.
    pub seq_len: Option<usize>,
    /// Whether the output layer is the embedding.
    #[serde(default)]
    pub tie_embeddings: bool,
    /// Tokens of an optimizer step.
    pub batch_tokens: Option<usize>,
    /// Sequences that pass through the model at once; more are accumulated.
    pub micro_batch: Option<usize>,
    /// Tokens to train on.
    pub tokens: Option<u64>,
    /// The peak learning rate.
    pub lr: Option<f64>,
    /// Optimizer: `adamw`, `lion`, `sgd`, `adafactor` or `muon`.
    #[serde(default = "default_optimizer")]
    pub optimizer: String,
    /// What the optimizer's moments are stored in: `f32`, or `bf16` for half the memory.
    #[serde(default)]
    pub optimizer_state: StateType,
    /// Decay of the momentum of `sgd` and `muon`.
    pub momentum: Option<f32>,
    /// Whether the momentum of `sgd` and `muon` looks one step ahead.
    pub nesterov: Option<bool>,
    /// How `muon` scales the learning rate of a matrix: `match_rms_adamw` or `original`.
    #[serde(default = "default_adjust_lr")]
    pub adjust_lr: AdjustLr,
    /// Schedule after warm-up: `cosine`, `linear` or `constant`.
    #[serde(default = "default_schedule")]
    pub schedule: String,
    /// The share of the steps that warms up.
    #[serde(default = "default_warmup")]
    pub warmup: f64,
    /// The share of the peak learning rate at the end.
    #[serde(default = "default_min_ratio")]
    pub min_lr_ratio: f64,
    /// Weight decay, on matrices only; decoupled, except with `sgd`.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f32,
    /// Decay of the second moment of `adamw`, of the momentum of `lion`.
    #[serde(default = "default_beta2")]
    pub beta2: f32,
    /// The largest norm of the gradient; 0 is none.
    #[serde(default = "default_clip")]
    pub clip: f64,
    /// The share of each target that all tokens divide equally (Szegedy et al. 2016), in training only.
    #[serde(default)]
    pub label_smoothing: f32,
    /// The weight of the squared log-sum-exp of the logits, which keeps them from drifting (Chowdhery et al. 2022), in
    /// training only; PaLM's is 1e-4.
    #[serde(default)]
    pub z_loss: f32,
    /// What matrix products multiply: `auto`, `f32`, `bf16` or `f16`.
    #[serde(default)]
    pub precision: PrecisionSetting,
    /// Whether blocks are computed again in the backward pass instead of kept in memory.
    #[serde(default)]
    pub activation_checkpointing: bool,
    /// Evaluations on the way to the end.
    #[serde(default = "default_evaluations")]
    pub evaluations: u64,
    /// Samples of text on the way to the end.
    #[serde(default = "default_samples")]
    pub samples: u64,
    /// What a sample continues; empty starts a document.
    #[serde(default)]
    pub sample_prompt: String,
    /// Checkpoints on the way to the end.
    #[serde(default = "default_checkpoints")]
    pub checkpoints: u64,
}

/// What a model learns from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learned {
    /// The next token.
    Causal,
    /// Hidden tokens (Devlin et al. 2019).
    Masked,
    /// Which tokens were replaced (Clark et al. 2020).
    Replaced,
    /// A text whole that was damaged (Raffel et al. 2020, Lewis et al. 2020).
    Denoised,
}

fn default_mask_share() -> f64 {
    0.15
}
fn default_family() -> String {
    "llama".into()
}
fn default_optimizer() -> String {
    "adamw".into()
}
/// The derived learning rate is AdamW's, and the parameters that Muon leaves to AdamW share it.
fn default_adjust_lr() -> AdjustLr {
    AdjustLr::MatchRmsAdamw
}
fn default_schedule() -> String {
    "cosine".into()
}
fn default_warmup() -> f64 {
    0.05
}
fn default_min_ratio() -> f64 {
    0.1
}
fn default_weight_decay() -> f32 {
    0.1
}
fn default_beta2() -> f32 {
    0.95
}
fn default_clip() -> f64 {
    1.0
}
fn default_evaluations() -> u64 {
    4
}
fn default_samples() -> u64 {
    3
}
fn default_checkpoints() -> u64 {
    8
}

/// What the dial gives, with the rule for each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Derived {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Width of the feed-forward layers.
    pub d_ff: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Tokens of an optimizer step.
    pub batch_tokens: usize,
    /// Sequences at once.
    pub micro_batch: usize,
    /// The peak learning rate.
    pub lr: f64,
    /// The experts of a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertSizes>,
    /// What the family is made of.
    #[serde(skip)]
    pub form: Form,
    /// One line for each setting: its rule and what it gives.
    #[serde(skip)]
    pub rules: Vec<String>,
}

fn power_of_two_near(x: f64) -> usize {
    1 << x.log2().round().max(0.0) as u32
}

fn round_to(x: f64, multiple: usize) -> usize {
    ((x / multiple as f64).round() as usize).max(1) * multiple
}

impl PretrainConfig {
    /// The settings that follow from `depth`, those given in the recipe taking precedence.
    ///
    /// # Errors
    /// Sizes that do not go together.
    pub fn derive(&self) -> Result<Derived> {
        let several = self.data.all().len();
        if several == 0 || (several == 1 && !self.curriculum.is_empty()) {
            let message = format!("`data` in [pretrain] names {several} inputs");
            return Err(Error::usage(message).with_hint("name one, or several packs that `curriculum` may mix"));
        }
        let family = cupola_arch::family(&self.family)
            .map_err(|e| Error::usage(e.to_string()).with_hint(e.hint().unwrap_or_default()))?;
        let form = family.form();
        let mut rules = Vec::new();
        let mut set = |name: &str, rule: &str, given: Option<usize>, derived: usize| {
            let value = given.unwrap_or(derived);
            rules.push(match given {
                Some(_) => format!("{name} = {value} (from the recipe)"),
                None => format!("{name} = {value} ({rule})"),
            });
            value
        };
        if self.depth == 0 || self.depth > 512 {
            return Err(Error::usage(format!(
                "`depth` in [pretrain] is {}; it counts blocks, from 1 to 512",
                self.depth
            )));
        }
        let d_model =
            set("d_model", "48 · depth, a multiple of 32", self.d_model, round_to(48.0 * self.depth as f64, 32));
        let d_head = if d_model >= 768 { 64 } else { 32 };
        let n_heads =
            set("n_heads", "heads of 32 numbers, of 64 from d_model 768 on", self.n_heads, d_model.div_ceil(d_head));
        let half = if n_heads.is_multiple_of(2) { n_heads / 2 } else { n_heads };
        let (rule, n_kv_heads) = match form.grouped_queries {
            true => ("half the query heads (grouped queries)", half),
            false => ("as many as query heads", n_heads),
        };
        let n_kv_heads = set("n_kv_heads", rule, self.n_kv_heads, n_kv_heads);
        let (rule, d_ff) = match form.gated {
            true => ("8/3 · d_model, a multiple of 32 (SwiGLU)", round_to(d_model as f64 * 8.0 / 3.0, 32)),
            false => ("4 · d_model", 4 * d_model),
        };
        let d_ff = set("d_ff", rule, self.d_ff, d_ff);
        let derived_seq = power_of_two_near(64.0 * self.depth as f64).clamp(128, 2048);
        let seq_len = set("seq_len", "64 · depth, a power of two from 128 to 2048", self.seq_len, derived_seq);
        let batch = power_of_two_near(128.0 * (self.depth * self.depth) as f64).max(seq_len);
        let batch_tokens = set("batch_tokens", "128 · depth², a power of two", self.batch_tokens, batch);
        let micro = (batch_tokens / seq_len).clamp(1, (16_384 / seq_len).max(1));
        let micro_batch =
            set("micro_batch", "as many sequences as make at most 16,384 tokens", self.micro_batch, micro);
        let lr = self.lr.unwrap_or(0.04 / (d_model as f64).sqrt());
        rules.push(match self.lr {
            Some(_) => format!("lr = {lr:.2e} (from the recipe)"),
            None => format!("lr = {lr:.2e} (0.04 / sqrt(d_model))"),
        });
        let wrong = |what: String| Err(Error::usage(format!("{what} in [pretrain]")));
        if !d_model.is_multiple_of(n_heads) || !(d_model / n_heads).is_multiple_of(2) {
            return wrong(format!("d_model = {d_model} does not divide into {n_heads} heads of an even width"));
        }
        if n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
            return wrong(format!("n_kv_heads = {n_kv_heads} does not divide n_heads = {n_heads}"));
        }
        if !form.grouped_queries && n_kv_heads != n_heads {
            return wrong(format!(
                "n_kv_heads = {n_kv_heads}, but the family `{}` has no grouped queries",
                self.family
            ));
        }
        if seq_len < 2 || batch_tokens < seq_len || micro_batch == 0 {
            return wrong(format!("batch_tokens = {batch_tokens} does not hold a sequence of seq_len = {seq_len}"));
        }
        if !(lr > 0.0 && lr.is_finite() && (0.0..=1.0).contains(&self.warmup)) {
            return wrong(format!("lr = {lr} must be positive and warmup = {} between 0 and 1", self.warmup));
        }
        if !(self.mask_share > 0.0 && self.mask_share < 1.0) {
            return wrong(format!("mask_share = {} is not between 0 and 1", self.mask_share));
        }
        if !((0.0..1.0).contains(&self.label_smoothing) && self.z_loss >= 0.0 && self.z_loss.is_finite()) {
            return wrong(format!(
                "label_smoothing = {} must be at least 0 and below 1, and z_loss = {} at least 0",
                self.label_smoothing, self.z_loss
            ));
        }
        let d_head = d_model / n_heads;
        let experts = self.experts(family, &mut rules)?;
        Ok(Derived {
            d_model,
            n_heads,
            n_kv_heads,
            d_head,
            d_ff,
            seq_len,
            batch_tokens,
            micro_batch,
            lr,
            experts,
            form,
            rules,
        })
    }

    /// The experts of a family that has any.
    fn experts(&self, family: &dyn Family, rules: &mut Vec<String>) -> Result<Option<ExpertSizes>> {
        let given = [
            ("experts", self.experts.is_some()),
            ("experts_per_token", self.experts_per_token.is_some()),
            ("balance_loss", self.balance_loss.is_some()),
            ("router_z_loss", self.router_z_loss.is_some()),
        ];
        let Some(usual) = family.experts() else {
            return match given.iter().find(|(_, given)| *given) {
                Some((key, _)) => {
                    Err(Error::usage(format!("`{key}` in [pretrain], but the family `{}` has no experts", self.family)))
                }
                None => Ok(None),
            };
        };
        let experts = ExpertSizes {
            count: self.experts.unwrap_or(usual.count),
            per_token: self.experts_per_token.unwrap_or(usual.per_token),
            balance_loss: self.balance_loss.unwrap_or(usual.balance_loss),
            z_loss: self.router_z_loss.unwrap_or(usual.z_loss),
        };
        if experts.per_token == 0 || experts.per_token > experts.count {
            return Err(Error::usage(format!(
                "experts_per_token = {} of experts = {} in [pretrain]",
                experts.per_token, experts.count
            )));
        }
        if ![experts.balance_loss, experts.z_loss].iter().all(|share| *share >= 0.0 && share.is_finite()) {
            return Err(Error::usage("`balance_loss` and `router_z_loss` in [pretrain] must not be negative"));
        }
        let values = [
            format!("experts = {}", experts.count),
            format!("experts_per_token = {}", experts.per_token),
            format!("balance_loss = {}", experts.balance_loss),
            format!("router_z_loss = {}", experts.z_loss),
        ];
        let rule = |given: bool| if given { "from the recipe" } else { "usual in the family" };
        rules.extend(values.iter().zip(given).map(|(value, (_, given))| format!("{value} ({})", rule(given))));
        Ok(Some(experts))
    }

    /// The model's sizes for a vocabulary; the tokenizer, where there is one, names the special tokens.
    pub fn sizes(&self, derived: &Derived, vocab_size: usize, tokenizer: Option<&Tokenizer>) -> Sizes {
        Sizes {
            vocab_size,
            d_model: derived.d_model,
            n_layers: self.depth,
            n_heads: derived.n_heads,
            n_kv_heads: derived.n_kv_heads,
            d_head: derived.d_head,
            d_ff: derived.d_ff,
            experts: derived.experts.unwrap_or_default(),
            max_seq_len: derived.seq_len,
            tie_embeddings: self.tie_embeddings,
            bos: tokenizer.and_then(Tokenizer::bos),
            eos: tokenizer.map(|t| t.stop_ids().to_vec()).unwrap_or_default(),
            pad: tokenizer.and_then(Tokenizer::pad),
            settings: self.settings.clone(),
        }
    }

    /// What a model of these numbers learns.
    ///
    /// # Errors
    /// When the recipe asks for something else.
    pub fn learned(&self, spec: &Spec) -> Result<Learned> {
        let learned = match spec {
            Spec::Encoder(spec) => match spec.head.map(|head| head.task) {
                Some(Task::Replaced) => Learned::Replaced,
                _ => Learned::Masked,
            },
            Spec::EncoderDecoder(_) => Learned::Denoised,
            Spec::Decoder(_) => Learned::Causal,
        };
        match self.objective {
            Some(asked) if asked != learned => {
                let message = format!("the family `{}` does not learn `objective = {asked:?}`", self.family);
                Err(Error::usage(message.to_lowercase())
                    .with_hint(format!("leave it out: it learns {learned:?}").to_lowercase()))
            }
            _ => Ok(learned),
        }
    }

    /// Tokens to train on, and the rule: 20 for each parameter in a matrix (Hoffmann et al. 2022), but no more than
    /// eight rounds through the data (Muennighoff et al. 2023 find little gain past four).
    pub fn token_budget(&self, matrix_parameters: u64, data_tokens: u64) -> (u64, String) {
        if let Some(tokens) = self.tokens {
            return (tokens, format!("tokens = {tokens} (from the recipe)"));
        }
        let tokens = (20 * matrix_parameters).min(8 * data_tokens.max(1));
        (tokens, format!("tokens = {tokens} (20 · matrix parameters, at most 8 rounds through the data)"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(more: &str) -> PretrainConfig {
        toml::from_str(&format!("data = 'd'\ntokenizer = 't'\ndepth = 4\n{more}")).unwrap()
    }

    #[test]
    fn a_gpt2_has_as_many_key_value_heads_as_query_heads_and_four_times_the_width() {
        let config = config("family = 'gpt2'");
        let derived = config.derive().unwrap();
        let sizes = config.sizes(&derived, 1000, None);
        assert_eq!((sizes.n_kv_heads, sizes.d_ff), (sizes.n_heads, 4 * sizes.d_model));
    }

    #[test]
    fn experts_are_as_the_recipe_says_and_refused_where_the_family_has_none() {
        let derived = config("family = 'mixtral'\nexperts = 6\nexperts_per_token = 3").derive().unwrap();
        let experts = derived.experts.unwrap();
        assert_eq!((experts.count, experts.per_token), (6, 3));
        assert!(derived.rules.iter().any(|rule| rule == "experts = 6 (from the recipe)"), "{:?}", derived.rules);
        let usual = config("family = 'deepseek_v3'").derive().unwrap().experts.unwrap();
        assert_eq!((usual.count, usual.per_token, usual.z_loss), (8, 2, 0.0));
        assert_eq!(config("").derive().unwrap().experts, None);
        let error = |more: &str| config(more).derive().unwrap_err().to_string();
        assert!(error("experts = 4").contains("the family `llama` has no experts"));
        assert!(error("family = 'mixtral'\nexperts = 1").contains("experts_per_token = 2 of experts = 1"));
        assert!(error("family = 'mixtral'\nbalance_loss = -1.0").contains("must not be negative"));
    }

    #[test]
    fn settings_of_the_loss_outside_their_range_are_refused() {
        assert!(config("label_smoothing = 0.1\nz_loss = 1e-4").derive().is_ok());
        for wrong in ["label_smoothing = 1.0", "label_smoothing = -0.1", "z_loss = -1e-4", "z_loss = inf"] {
            let error = config(wrong).derive().unwrap_err();
            assert!(error.to_string().contains("label_smoothing = "), "{wrong}: {error}");
        }
    }

    #[test]
    fn settings_of_the_family_reach_its_configuration_and_others_are_refused() {
        let fresh = |more: &str| {
            let config = config(more);
            let sizes = config.sizes(&config.derive()?, 1000, None);
            cupola_arch::Model::fresh_spec(cupola_arch::family(&config.family)?, &sizes).map(|s| s.parameters())
        };
        let bond = |bond: usize| fresh(&format!("family = 'cupola_mps'\nsettings = {{ bond_dimension = {bond} }}"));
        assert!(bond(4).unwrap() < bond(8).unwrap());
        let error = fresh("family = 'cupola_mps'\nsettings = { bond_dimensions = 4 }").unwrap_err();
        assert!(error.to_string().contains("`cupola_mps` has no setting `bond_dimensions`"), "{error}");
        assert!(error.hint().unwrap().contains("`bond_dimension`"));
        assert!(fresh("settings = { bond_dimension = 4 }").is_err());
    }

    #[test]
    fn grouped_queries_are_refused_where_the_family_has_none() {
        let error = config("family = 'gpt2'\nn_kv_heads = 1").derive().unwrap_err();
        assert!(error.to_string().contains("has no grouped queries"), "{error}");
    }
}
