//! The stage itself: preference records in, a model directory out.

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Error, Result, human_count, parse_config, unknown_name};
use cupola_generate::load_to_change;
use cupola_tokenizer::Tokenizer;
use cupola_train::batching::Layout;
use cupola_train::conversation::{Example, Fit, hold_out, prompt_key, read_all, with_system};
use cupola_train::finetune::{FineTune, metrics, split_keys};
use cupola_train::loader::Shuffle;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::loss::{ALL, LossSettings, PairLoss};
use crate::objective::{Alignment, Pair, ScoredPair, reference_logps};
use crate::records::{nothing_left, read_preference};

/// Teaches a model which of two answers is better.
pub struct AlignStage;

/// The settings beside those of [`FineTune`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Own {
    /// The loss: `sigmoid` (DPO), `ipo`, `hinge` or `robust`.
    loss: String,
    /// How strongly the model is held to the reference.
    beta: f64,
    /// The share of the pairs taken to be the wrong way round (`sigmoid` and `robust`).
    label_smoothing: f64,
}

impl Default for Own {
    fn default() -> Self {
        Self { loss: "sigmoid".into(), beta: 0.1, label_smoothing: 0.0 }
    }
}

/// The learning rate times the model's width: 3e-6 at 4096, within the 5e-7 to 5e-6 that is usual for models of seven
/// billion parameters (Tunstall et al. 2023, Zephyr), and 5e-5 at 256.
const LR_SCALE: f64 = 0.0128;

struct Align {
    own: Own,
    shared: FineTune,
    loss: &'static dyn PairLoss,
}

impl Stage for AlignStage {
    fn kind(&self) -> &'static str {
        "align"
    }

    fn about(&self) -> &'static str {
        "teaches a model which of two answers is better (DPO)"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let (own, shared) = split_keys(self.kind(), table, &["loss", "beta", "label_smoothing"])?;
        let own: Own = parse_config(self.kind(), own)?;
        let known: Vec<&str> = ALL.iter().map(|loss| loss.name()).collect();
        let loss = ALL.iter().copied().find(|loss| loss.name() == own.loss).ok_or_else(|| {
            unknown_name(&format!("`loss` in [align] cannot be `{}`", own.loss), &own.loss, "loss", &known)
        })?;
        if !(own.beta.is_finite() && own.beta > 0.0 && (0.0..0.5).contains(&own.label_smoothing)) {
            return Err(Error::usage("in [align], `beta` must be above 0 and `label_smoothing` from 0 to below 0.5"));
        }
        if own.label_smoothing > 0.0 && !loss.smooths() {
            return Err(Error::usage(format!("the loss `{}` in [align] has no label smoothing", own.loss))
                .with_hint("use `sigmoid` or `robust`, or leave `label_smoothing` out"));
        }
        Ok(Box::new(Align { own, shared: FineTune::read(self.kind(), shared, 1.0)?, loss }))
    }
}

/// The pairs of a data set, and how many did not come through whole.
struct Pairs {
    records: usize,
    truncated: usize,
    dropped: usize,
    train: Vec<Pair>,
    validation: Vec<Pair>,
}

impl Align {
    fn pairs(&self, context: &StageContext<'_>, tokenizer: &Tokenizer, max_len: usize) -> Result<Pairs> {
        let path = &context.input("data")?.path;
        let records = read_all(path)?;
        let encoded: Vec<(String, Pair, [Fit; 2])> = records
            .par_iter()
            .map(|record| {
                let preference = read_preference(record)?;
                let prompt = with_system(preference.prompt, self.shared.system.as_deref());
                let place = || format!("{}: line {}", record.source.display(), record.line);
                let encode = |answer| Example::completion(tokenizer, &prompt, answer).map_err(|e| e.wrap(place()));
                let (mut chosen, mut rejected) = (encode(&preference.chosen)?, encode(&preference.rejected)?);
                let fits = [chosen.cut(max_len), rejected.cut(max_len)];
                Ok((prompt_key(&prompt), Pair { chosen, rejected }, fits))
            })
            .collect::<Result<_>>()?;
        // Two equal answers teach nothing.
        let keep = |pair: &Pair, fits: &[Fit; 2]| !fits.contains(&Fit::Nothing) && pair.chosen != pair.rejected;
        let kept: Vec<_> = encoded.into_iter().filter(|(_, pair, fits)| keep(pair, fits)).collect();
        let truncated = kept.iter().filter(|(_, _, fits)| fits.contains(&Fit::Cut)).count();
        let dropped = records.len() - kept.len();
        if kept.is_empty() {
            return Err(nothing_left(path, max_len));
        }
        if truncated + dropped > 0 {
            context.progress.warn(&format!(
                "of {} pairs, {truncated} lost the end of an answer (longer than {max_len} tokens), and {dropped} were left out: \
                 a whole answer was beyond that, or both were equal",
                records.len()
            ));
        }
        let kept = kept.into_iter().map(|(key, pair, _)| (key, pair)).collect();
        let (train, validation) = hold_out(kept, self.shared.holdout, self.shared.validation_fraction);
        Ok(Pairs { records: records.len(), truncated, dropped, train, validation })
    }
}

impl Configured for Align {
    fn references(&self) -> Vec<Reference> {
        self.shared.references()
    }

    fn effective_config(&self) -> Value {
        let mut config = json!(self.shared);
        if let (Some(config), Value::Object(own)) = (config.as_object_mut(), json!(self.own)) {
            config.extend(own);
        }
        config
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        // The reference's pass.
        Ok(self.shared.plan(inputs, 1.0))
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
        let Pairs { records, truncated, dropped, mut train, validation } = self.pairs(context, &tokenizer, max_len)?;
        let (pairs, held_out) = (train.len(), validation.len());
        let tokens: usize = train.iter().map(|p| p.chosen.inputs() + p.rejected.inputs()).sum();
        let (layout, pad) = (Layout::Packed(max_len), spec.pad.or(tokenizer.pad()).unwrap_or(0));

        train.extend(validation);
        let file = context.work.join("reference.safetensors");
        let reference = reference_logps(model.decoder()?, &train, (layout, pad), &file, context.progress)?;
        let mut train: Vec<ScoredPair> =
            train.into_iter().zip(reference).map(|(pair, reference)| ScoredPair { pair, reference }).collect();
        let validation = train.split_off(pairs);

        let trainable = settings.prepare(&mut model, context.seed)?;
        let (steps, (lr, rule)) = (settings.steps(pairs), settings.peak_lr(LR_SCALE, &spec));
        context.progress.line(&format!(
            "{pairs} pairs to learn from, {held_out} held out; {steps} steps; {} of {} parameters; {rule}",
            human_count(trainable as f64),
            human_count(spec.parameters() as f64)
        ));
        let mut objective = Alignment {
            shuffle: Shuffle::new(pairs, context.seed),
            train,
            validation,
            batch_size: settings.batch_size,
            micro_batch: settings.micro_batch,
            layout,
            pad,
            loss: self.loss,
            settings: LossSettings { beta: self.own.beta, label_smoothing: self.own.label_smoothing },
            flops_per_token: settings.flops_per_token(&spec, tokens / (2 * pairs)),
            parts: vec![],
        };
        let (before, summary) = settings.run(&mut model, &mut objective, context, steps, lr)?;
        settings.save(&mut model, &tokenizer, context)?;

        let mut metrics = metrics(&before, &summary);
        let counts = [("records", records), ("pairs", pairs), ("validation_pairs", held_out)];
        let lost = [("truncated", truncated), ("dropped", dropped)];
        metrics.extend(counts.into_iter().chain(lost).map(|(name, n)| (name.to_owned(), json!(n))));
        metrics.insert("trainable_parameters".into(), json!(trainable));
        metrics.insert("parameters".into(), json!(spec.parameters()));
        metrics.insert("lr".into(), json!(lr));
        let found = |name: &str| summary.evaluation.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
        let came_out = match (found("validation_reward_accuracy"), found("validation_reward_margin")) {
            (Some(accuracy), Some(margin)) => {
                format!("held-out reward accuracy {:.0}%, margin {margin:.3}", 100.0 * accuracy)
            }
            _ => format!("training loss {:.3}", summary.train_loss),
        };
        Ok(Report {
            went_in: format!("model {}, {records} pairs", input.reference),
            came_out,
            metrics,
            scores: Vec::new(),
        })
    }
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
