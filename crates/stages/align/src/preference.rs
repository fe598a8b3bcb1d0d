//! Preference optimization: answers that somebody preferred in, a model directory out.

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, StageContext};
use cupola_artifact::{Error, Result, human_count, parse_config, unknown_name};
use cupola_generate::load_to_change;
use cupola_nn::{Decoder, DecoderSpec};
use cupola_tokenizer::Tokenizer;
use cupola_train::Objective;
use cupola_train::batching::Layout;
use cupola_train::conversation::{Example, prompt_key, with_system};
use cupola_train::finetune::{FineTune, metrics, split_keys};
use cupola_train::loader::Steps;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::algorithm::Algorithm;
use crate::dataset::{Encoded, Gathered, encode_answer, encode_pair};
use crate::doctor::conclude;
use crate::loss::{self, Divergence, LossSettings, PairLoss, Reward};
use crate::pairs::{Pair, PairAlignment, ScoredPair};
use crate::records::{Verdict, read_verdicts};
use crate::reference::reference_logps;
use crate::singles::{Single, SingleAlignment, mismatch};
use crate::stage::KIND;
use crate::unpaired::{self, SingleLoss, SingleSettings};

/// Learns from preferences, offline.
pub struct Preference;

/// The settings beside those of [`FineTune`]. Not set, the numbers are the loss's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Own {
    /// The loss, by its name.
    loss: String,
    /// How strongly the model is held to the reference.
    beta: Option<f64>,
    /// The share of the pairs taken to be the wrong way round.
    label_smoothing: Option<f64>,
    /// What holds the model to the reference.
    divergence: Option<Divergence>,
    /// The margin that is asked for.
    gamma: Option<f64>,
    /// The curve of the reward.
    alpha: Option<f64>,
    /// The temperature of the blend.
    tau: Option<f64>,
    /// The weight of the chosen answers' negative log-likelihood.
    nll_weight: Option<f64>,
    /// What a good answer counts.
    desirable_weight: Option<f64>,
    /// What a bad answer counts.
    undesirable_weight: Option<f64>,
}

impl Default for Own {
    fn default() -> Self {
        Self {
            loss: "sigmoid".into(),
            beta: None,
            label_smoothing: None,
            divergence: None,
            gamma: None,
            alpha: None,
            tau: None,
            nll_weight: None,
            desirable_weight: None,
            undesirable_weight: None,
        }
    }
}

/// The settings by name.
const KEYS: &[&str] = &[
    "loss",
    "beta",
    "label_smoothing",
    "divergence",
    "gamma",
    "alpha",
    "tau",
    "nll_weight",
    "desirable_weight",
    "undesirable_weight",
];

/// What losses on single answers heed.
const SINGLE_KEYS: &[&str] = &["beta", "desirable_weight", "undesirable_weight"];

/// The learning rate times the model's width: 3e-6 at 4096, within the 5e-7 to 5e-6 that is usual for models of seven
/// billion parameters (Tunstall et al. 2023, Zephyr), and 5e-5 at 256.
pub(crate) const LR_SCALE: f64 = 0.0128;

/// A loss with its settings.
#[derive(Clone, Copy)]
enum Loss {
    Pairs(&'static dyn PairLoss, LossSettings),
    Singles(&'static dyn SingleLoss, SingleSettings),
}

struct Aligned {
    shared: FineTune,
    loss: Loss,
}

impl Algorithm for Preference {
    fn name(&self) -> &'static str {
        "preference"
    }

    fn about(&self) -> &'static str {
        "learns from answers that somebody preferred, without answering itself (DPO and its kin)"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let (own, shared) = split_keys(KIND, table, KEYS)?;
        let given: Vec<String> = own.keys().cloned().collect();
        let loss = parse_config::<Own>(KIND, own)?.resolve(&given)?;
        let shared = FineTune::read(KIND, shared, 1.0)?;
        if let (Loss::Pairs(loss, _), Some(_)) = (&loss, shared.micro_batch)
            && loss.compares_pairs()
        {
            let message = format!("the loss `{}` in [{KIND}] compares the pairs of a step", loss.name());
            return Err(Error::usage(message).with_hint("leave `micro_batch` out, and choose a smaller `batch_size`"));
        }
        Ok(Box::new(Aligned { shared, loss }))
    }
}

impl Own {
    fn resolve(&self, given: &[String]) -> Result<Loss> {
        let pairs = loss::ALL.iter().copied().find(|loss| loss.name() == self.loss);
        let singles = unpaired::ALL.iter().copied().find(|loss| loss.name() == self.loss);
        let (keys, found) = match (pairs, singles) {
            (Some(loss), _) => (loss.keys(), Loss::Pairs(loss, self.of_pairs(loss.defaults()))),
            (_, Some(loss)) => (SINGLE_KEYS, Loss::Singles(loss, self.of_singles())),
            _ => {
                let known = loss::ALL.iter().map(|l| l.name()).chain(unpaired::ALL.iter().map(|l| l.name()));
                let known: Vec<&str> = known.collect();
                let what = format!("`loss` in [{KIND}] cannot be `{}`", self.loss);
                return Err(unknown_name(&what, &self.loss, "loss", &known));
            }
        };
        if let Some(key) = given.iter().find(|key| *key != "loss" && !keys.contains(&key.as_str())) {
            let hint = match keys {
                [] => "it has no settings".into(),
                keys => format!("it has `{}`", keys.join("`, `")),
            };
            return Err(Error::usage(format!("the loss `{}` in [{KIND}] has no `{key}`", self.loss)).with_hint(hint));
        }
        found.check()?;
        Ok(found)
    }

    fn of_pairs(&self, defaults: LossSettings) -> LossSettings {
        LossSettings {
            beta: self.beta.unwrap_or(defaults.beta),
            label_smoothing: self.label_smoothing.unwrap_or(defaults.label_smoothing),
            divergence: self.divergence.unwrap_or(defaults.divergence),
            gamma: self.gamma.unwrap_or(defaults.gamma),
            alpha: self.alpha.unwrap_or(defaults.alpha),
            tau: self.tau.unwrap_or(defaults.tau),
            nll_weight: self.nll_weight.unwrap_or(defaults.nll_weight),
        }
    }

    fn of_singles(&self) -> SingleSettings {
        SingleSettings {
            beta: self.beta.unwrap_or(0.1),
            desirable_weight: self.desirable_weight.unwrap_or(1.0),
            undesirable_weight: self.undesirable_weight.unwrap_or(1.0),
        }
    }
}

impl Loss {
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::usage(format!("in [{KIND}], {what}")));
        let beta = match self {
            Loss::Pairs(_, settings) => settings.beta,
            Loss::Singles(_, settings) => settings.beta,
        };
        if !(beta.is_finite() && beta > 0.0) {
            return wrong("`beta` must be above 0");
        }
        match self {
            Loss::Pairs(_, s) if !(0.0..0.5).contains(&s.label_smoothing) => {
                wrong("`label_smoothing` must be from 0 to below 0.5")
            }
            Loss::Pairs(loss, s) if loss.name() == "exo_pair" && s.label_smoothing == 0.0 => {
                wrong("`label_smoothing` of the loss `exo_pair` must be above 0")
            }
            Loss::Pairs(_, s)
                if !(s.tau > 0.0 && s.nll_weight >= 0.0 && s.gamma.is_finite() && s.alpha.is_finite()) =>
            {
                wrong("`tau` must be above 0, `nll_weight` not negative, `gamma` and `alpha` finite")
            }
            Loss::Singles(_, s) if !(s.desirable_weight >= 0.0 && s.undesirable_weight >= 0.0) => {
                wrong("`desirable_weight` and `undesirable_weight` must not be negative")
            }
            _ => Ok(()),
        }
    }

    fn needs_reference(&self) -> bool {
        match self {
            Loss::Pairs(loss, _) => loss.reward() == Reward::Ratio,
            Loss::Singles(..) => true,
        }
    }

    /// Its name and settings as a recipe has them.
    fn config(&self) -> Vec<(String, Value)> {
        let (name, keys, all) = match self {
            Loss::Pairs(loss, s) => (
                loss.name(),
                loss.keys(),
                json!({"beta": s.beta, "label_smoothing": s.label_smoothing, "divergence": s.divergence, "gamma": s.gamma,
                    "alpha": s.alpha, "tau": s.tau, "nll_weight": s.nll_weight}),
            ),
            Loss::Singles(loss, s) => (
                loss.name(),
                SINGLE_KEYS,
                json!({"beta": s.beta, "desirable_weight": s.desirable_weight, "undesirable_weight": s.undesirable_weight}),
            ),
        };
        let settings = keys.iter().map(|key| ((*key).to_owned(), all[key].clone()));
        [("loss".to_owned(), json!(name))].into_iter().chain(settings).collect()
    }
}

/// What answers are laid out and scored with.
struct Bench<'a> {
    context: &'a StageContext<'a>,
    reference: &'a Decoder,
    tokenizer: &'a Tokenizer,
    max_len: usize,
    layout: Layout,
    pad: u32,
    spec: &'a DecoderSpec,
}

impl Bench<'_> {
    /// The reference's log-probabilities of answers; zeros where nobody asks for them.
    fn reference(&self, answers: &[&Example], needed: bool, file: &str) -> Result<Vec<f32>> {
        if !needed {
            return Ok(vec![0.0; answers.len()]);
        }
        let (layout, file) = ((self.layout, self.pad), self.context.work.join(file));
        reference_logps(self.reference, answers, layout, &file, self.context.progress)
    }
}

impl Aligned {
    fn pairs(&self, bench: &Bench<'_>) -> Result<Gathered<Pair>> {
        Gathered::read(&self.shared, bench.context, ("pairs", bench.max_len), |record| {
            Ok(vec![encode_pair(&self.shared, bench.tokenizer, record, bench.max_len)?])
        })
    }

    fn verdicts(&self, bench: &Bench<'_>) -> Result<Gathered<Single>> {
        Gathered::read(&self.shared, bench.context, ("answers", bench.max_len), |record| {
            let encode = |verdict: Verdict| -> Result<Encoded<Single>> {
                let prompt = with_system(verdict.prompt, self.shared.system.as_deref());
                let both = (&prompt[..], &verdict.answer[..]);
                let (answer, fit) = encode_answer(bench.tokenizer, record, both, bench.max_len)?;
                let single = Single { answer, desirable: verdict.desirable, reference: 0.0, mismatched: None };
                Ok((prompt_key(&prompt), single, fit))
            };
            read_verdicts(record)?.into_iter().map(encode).collect()
        })
    }

    /// The objective on pairs, and the counts of its data.
    fn on_pairs(&self, bench: &Bench<'_>, loss: &'static dyn PairLoss, settings: LossSettings) -> Result<Made> {
        let mut data = self.pairs(bench)?;
        let mut counts = serde_json::Map::new();
        data.report("pairs", &mut counts);
        let learned = data.train.len();
        data.train.append(&mut data.validation);
        let answers: Vec<&Example> = data.train.iter().flat_map(|p| [&p.chosen, &p.rejected]).collect();
        let flops_per_token = self.flops_per_token(bench, &answers);
        let reference = bench.reference(&answers, self.loss.needs_reference(), "reference.safetensors")?;
        let scored = data.train.into_iter().zip(reference.as_chunks::<2>().0);
        let mut train: Vec<ScoredPair> = scored.map(|(pair, r)| ScoredPair { pair, reference: *r }).collect();
        let validation = train.split_off(learned);
        let objective = PairAlignment {
            steps: self.steps(learned, bench),
            train,
            validation,
            layout: bench.layout,
            pad: bench.pad,
            loss,
            settings,
            flops_per_token,
            parts: vec![],
        };
        Ok(Made { objective: Box::new(objective), things: "pairs", learned, counts })
    }

    /// The objective on single answers, and the counts of its data.
    fn on_singles(&self, bench: &Bench<'_>, loss: &'static dyn SingleLoss, settings: SingleSettings) -> Result<Made> {
        let data = self.verdicts(bench)?;
        let mut counts = serde_json::Map::new();
        data.report("answers", &mut counts);
        let good = data.train.iter().filter(|single| single.desirable).count();
        if good == 0 || good == data.train.len() {
            let what = if good == 0 { "bad" } else { "good" };
            return Err(Error::failed(format!("all {} answers to learn from are {what}", data.train.len()))
                .with_hint("this loss learns from good and bad answers; for good ones alone use `tune`"));
        }
        counts.insert("desirable".into(), json!(good));
        let answers: Vec<&Example> = data.train.iter().map(|single| &single.answer).collect();
        let flops_per_token = self.flops_per_token(bench, &answers);
        let learned = data.train.len();
        let part = |singles: Vec<Single>, name: &str| self.scored(bench, singles, loss.needs_divergence(), name);
        let objective = SingleAlignment {
            steps: self.steps(learned, bench),
            train: part(data.train, "train")?,
            validation: part(data.validation, "validation")?,
            layout: bench.layout,
            pad: bench.pad,
            loss,
            settings,
            flops_per_token,
            parts: vec![],
            divergence: 0.0,
        };
        Ok(Made { objective: Box::new(objective), things: "answers", learned, counts })
    }

    /// Answers with the reference's log-probabilities; each prompt also with the answer of the next that has another one.
    fn scored(&self, bench: &Bench<'_>, mut singles: Vec<Single>, divergence: bool, name: &str) -> Result<Vec<Single>> {
        let answers: Vec<&Example> = singles.iter().map(|single| &single.answer).collect();
        let reference = bench.reference(&answers, true, &format!("reference-{name}.safetensors"))?;
        if divergence && singles.len() > 1 {
            let n = singles.len();
            let others: Vec<Example> = (0..n)
                .map(|i| {
                    let prompt = &singles[i].answer;
                    let key = |e: &Example| e.ids[..e.learn.iter().position(|l| *l).unwrap_or(0)].to_vec();
                    let own = key(prompt);
                    let other =
                        (1..n).map(|k| (i + k) % n).find(|j| key(&singles[*j].answer) != own).unwrap_or((i + 1) % n);
                    mismatch(prompt, &singles[other].answer, bench.max_len)
                })
                .collect();
            let refs: Vec<&Example> = others.iter().collect();
            let logps = bench.reference(&refs, true, &format!("mismatched-{name}.safetensors"))?;
            let pairs = others.into_iter().zip(logps);
            singles.iter_mut().zip(pairs).for_each(|(single, pair)| single.mismatched = Some(pair));
        }
        singles.iter_mut().zip(reference).for_each(|(single, logp)| single.reference = logp);
        Ok(singles)
    }

    fn flops_per_token(&self, bench: &Bench<'_>, answers: &[&Example]) -> f64 {
        let tokens: usize = answers.iter().map(|answer| answer.inputs()).sum();
        self.shared.training_flops(bench.spec.train_flops_per_token(tokens / answers.len().max(1)))
    }

    fn steps(&self, things: usize, bench: &Bench<'_>) -> Steps {
        Steps::new(things, bench.context.seed, self.shared.batch_size, self.shared.micro_batch)
    }
}

/// An objective with what is told of its data.
struct Made {
    objective: Box<dyn Objective>,
    things: &'static str,
    learned: usize,
    counts: serde_json::Map<String, Value>,
}

impl Configured for Aligned {
    fn references(&self) -> Vec<Reference> {
        self.shared.references()
    }

    fn effective_config(&self) -> Value {
        let mut config = json!(self.shared);
        if let Some(config) = config.as_object_mut() {
            config.insert("algorithm".into(), json!(Preference.name()));
            config.extend(self.loss.config());
        }
        config
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        // The reference's pass.
        Ok(self.shared.plan(inputs, if self.loss.needs_reference() { 1.0 } else { 0.0 }))
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let (settings, input) = (&self.shared, context.input("model")?);
        let device = cupola_ops::open(context.device)?;
        let (mut model, tokenizer) = load_to_change(&input.path, &device)?;
        model.merge_adapter()?;
        // The reference as the model in training: a difference would be a reward.
        model.network.set_precision(settings.precision.resolve());
        let spec = model.decoder()?.spec().clone();
        let max_len = settings.context_len(&spec);
        let reference = model.decoder()?.frozen();
        let bench = Bench {
            context,
            reference: &reference,
            tokenizer: &tokenizer,
            max_len,
            layout: Layout::Packed(max_len),
            pad: spec.pad.or(tokenizer.pad()).unwrap_or(0),
            spec: &spec,
        };
        let Made { mut objective, things, learned, counts } = match self.loss {
            Loss::Pairs(loss, settings) => self.on_pairs(&bench, loss, settings)?,
            Loss::Singles(loss, settings) => self.on_singles(&bench, loss, settings)?,
        };
        drop(reference);

        let trainable = settings.prepare(&mut model, context.seed)?;
        let (steps, (lr, rule)) = (settings.steps(learned), settings.peak_lr(LR_SCALE, &spec));
        context.progress.line(&format!(
            "{learned} {things} to learn from, {} held out; {steps} steps; {} of {} parameters; {rule}",
            counts[&format!("validation_{things}")],
            human_count(trainable as f64),
            human_count(spec.parameters() as f64)
        ));
        let (before, summary) = settings.run(&mut model, objective.as_mut(), context, steps, lr)?;
        settings.save(&mut model, &tokenizer, context)?;

        let mut metrics = metrics(&before, &summary);
        let records = counts["records"].clone();
        metrics.extend(counts);
        metrics.insert("trainable_parameters".into(), json!(trainable));
        metrics.insert("parameters".into(), json!(spec.parameters()));
        metrics.insert("lr".into(), json!(lr));
        conclude(context, &before, &summary, &mut metrics)?;
        let found = |name: &str| summary.evaluation.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
        let came_out = match (found("validation_reward_accuracy"), found("validation_reward_margin")) {
            (Some(accuracy), Some(margin)) => {
                format!("held-out reward accuracy {:.0}%, margin {margin:.3}", 100.0 * accuracy)
            }
            _ => format!("training loss {:.3}", summary.train_loss),
        };
        Ok(Report {
            went_in: format!("model {}, {records} records", input.reference),
            came_out,
            metrics,
            scores: Vec::new(),
        })
    }
}

#[cfg(test)]
#[path = "preference_tests.rs"]
mod tests;
