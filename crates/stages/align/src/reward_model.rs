//! Reward models: a number for an answer, learned from pairs.

use burn::tensor::Tensor;
use cupola_arch::{Model, NewHead, Problem};
use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, StageContext};
use cupola_artifact::{Error, Result, human_count, parse_config};
use cupola_nn::{Encoder, Module};
use cupola_tokenizer::Tokenizer;
use cupola_train::batching::groups;
use cupola_train::finetune::{FineTune, metrics, split_keys};
use cupola_train::loader::Steps;
use cupola_train::{Objective, Part};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::algorithm::Algorithm;
use crate::dataset::{Gathered, encode_pair};
use crate::doctor::conclude;
use crate::pairs::Pair;
use crate::records::margin_of;
use crate::reward_loss::reward_loss;
use crate::stage::KIND;

/// Learns to tell better answers from worse ones by a number.
pub struct RewardModel;

/// The settings beside those of [`FineTune`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Own {
    /// How strongly the rewards of a pair are pulled to a mean of 0 (Eisenstein et al. 2023, who take 0.01).
    centering: f64,
}

/// The learning rate times the model's width: 1e-5 at 4096 (Touvron et al. 2023, section 3.2.2, take 5e-6 to 1e-5).
const LR_SCALE: f64 = 0.041;

struct Rewarding {
    own: Own,
    shared: FineTune,
}

impl Algorithm for RewardModel {
    fn name(&self) -> &'static str {
        "reward_model"
    }

    fn about(&self) -> &'static str {
        "learns a number that is higher for the better of two answers (Bradley and Terry's model)"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let (own, shared) = split_keys(KIND, table, &["centering"])?;
        let own: Own = parse_config(KIND, own)?;
        if !(own.centering.is_finite() && own.centering >= 0.0) {
            return Err(Error::usage(format!("`centering` in [{KIND}] must not be negative")));
        }
        Ok(Box::new(Rewarding { own, shared: FineTune::read(KIND, shared, 1.0)? }))
    }
}

/// A pair with the margin by which the better answer is to lead.
#[derive(Clone, Debug)]
struct Led {
    pair: Pair,
    margin: f32,
}

/// The scores of texts, `[A, labels]`, each read whole; shorter ones are padded.
pub(crate) fn padded_scores(encoder: &Encoder, texts: &[&[u32]], pad: u32) -> Tensor<2> {
    let width = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
    let mut ids = Vec::with_capacity(width * texts.len());
    let mut places = Vec::with_capacity(texts.len());
    for (row, text) in texts.iter().enumerate() {
        ids.extend_from_slice(text);
        ids.resize((row + 1) * width, pad);
        places.push(0..text.len());
    }
    let batch = encoder.spec().batch(ids, &places);
    encoder.scores(encoder.hidden(&batch), &batch)
}

/// The rewards of texts, `[A]`, each read after its last token; and how many tokens were read.
fn rewards(encoder: &Encoder, texts: &[&[u32]], pad: u32) -> (Tensor<1>, usize) {
    let scores = padded_scores(encoder, texts, pad); // [A, 1]
    (scores.reshape([texts.len()]), texts.iter().map(|ids| ids.len()).sum())
}

struct Objects {
    train: Vec<Led>,
    validation: Vec<Led>,
    steps: Steps,
    pad: u32,
    centering: f64,
    flops_per_token: f64,
    parts: Vec<Vec<usize>>,
}

const FIGURES: [&str; 4] = ["reward_accuracy", "reward_margin", "rewards_chosen", "rewards_rejected"];

impl Objects {
    /// The sum of the losses of some pairs, `[1]`, sums of their figures, and their tokens.
    fn losses(&self, encoder: &Encoder, pairs: &[&Led]) -> (Tensor<1>, [f64; 4], usize) {
        let n = pairs.len();
        let chosen = pairs.iter().map(|led| &led.pair.chosen.ids[..]);
        let texts: Vec<&[u32]> = chosen.chain(pairs.iter().map(|led| &led.pair.rejected.ids[..])).collect();
        let (scores, tokens) = rewards(encoder, &texts, self.pad);
        let values = cupola_ops::to_vec(&scores);
        let (chosen, rejected) = (scores.clone().narrow(0, 0, n), scores.narrow(0, n, n));
        let margins: Vec<f32> = pairs.iter().map(|led| led.margin).collect();
        let margin = margins.iter().any(|m| *m != 0.0);
        let margin = margin.then(|| cupola_ops::from_vec::<1>(margins, [n], &chosen.device()));
        let loss = reward_loss(chosen, rejected, margin, self.centering).sum();
        let mut sums = [0.0; 4];
        for i in 0..n {
            let (good, bad) = (f64::from(values[i]), f64::from(values[n + i]));
            let own = [f64::from(u8::from(good > bad)), good - bad, good, bad];
            sums.iter_mut().zip(own).for_each(|(sum, value)| *sum += value);
        }
        (loss, sums, tokens)
    }
}

impl Objective for Objects {
    fn begin_step(&mut self, _: &Model, _: u64) -> Result<usize> {
        let train = &self.train;
        self.parts = self.steps.draw_parts(|i| train[i].pair.inputs());
        Ok(self.parts.len())
    }

    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let pairs: Vec<&Led> = self.parts[index].iter().map(|i| &self.train[*i]).collect();
        let (loss, sums, tokens) = self.losses(model.encoder()?, &pairs);
        let share = 1.0 / self.steps.batch_size as f64;
        let figures = FIGURES.into_iter().zip(sums.map(|sum| sum * share)).collect();
        Ok(Part { loss: loss.mul_scalar(share), tokens, figures })
    }

    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        if self.validation.is_empty() {
            return Ok(vec![]);
        }
        let encoder = model.encoder()?;
        let lengths: Vec<usize> = self.validation.iter().map(|led| led.pair.inputs()).collect();
        let (mut loss, mut sums) = (0.0, [0.0; 4]);
        for group in groups(&lengths, self.steps.micro_batch) {
            let pairs: Vec<&Led> = self.validation[group].iter().collect();
            let (sum, figures, _) = self.losses(encoder, &pairs);
            loss += f64::from(cupola_ops::scalar(&sum));
            sums.iter_mut().zip(figures).for_each(|(all, new)| *all += new);
        }
        let n = self.validation.len() as f64;
        let named = FIGURES.into_iter().zip(sums).map(|(name, sum)| (format!("validation_{name}"), sum / n));
        Ok([("validation_loss".to_owned(), loss / n)].into_iter().chain(named).collect())
    }

    fn flops_per_token(&self) -> f64 {
        self.flops_per_token
    }

    fn position(&self) -> Value {
        self.steps.position()
    }

    fn restore(&mut self, position: &Value) -> Result<()> {
        self.steps.restore(position)
    }
}

impl Rewarding {
    fn data(&self, context: &StageContext<'_>, tokenizer: &Tokenizer, max_len: usize) -> Result<Gathered<Led>> {
        Gathered::read(&self.shared, context, ("pairs", max_len), |record| {
            let margin = margin_of(record)?;
            let (key, pair, fit) = encode_pair(&self.shared, tokenizer, record, max_len)?;
            Ok(vec![(key, Led { pair, margin }, fit)])
        })
    }
}

impl Configured for Rewarding {
    fn references(&self) -> Vec<Reference> {
        self.shared.references()
    }

    fn effective_config(&self) -> Value {
        let mut config = json!(self.shared);
        if let Some(config) = config.as_object_mut() {
            config.insert("algorithm".into(), json!(RewardModel.name()));
            config.insert("centering".into(), json!(self.own.centering));
        }
        config
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        Ok(self.shared.plan(inputs, 0.0))
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let (settings, input) = (&self.shared, context.input("model")?);
        let device = cupola_ops::open(context.device)?;
        let tokenizer = Tokenizer::load(&input.path)?;
        let head = NewHead::Text { problem: Problem::Regression, labels: vec!["reward".into()] };
        let mut model = Model::load_with_head(&input.path, &head, context.seed, &device)?;
        let spec = model.encoder()?.spec().clone();
        let max_len = settings.context_len(&spec.stack);
        let data = self.data(context, &tokenizer, max_len)?;
        let mut counts = serde_json::Map::new();
        data.report("pairs", &mut counts);
        settings.prepare(&mut model, context.seed)?;
        model.train_head();
        let trainable: u64 = model.params_mut().iter().filter(|p| p.trainable()).map(|p| p.numel() as u64).sum();
        let (steps, (lr, rule)) = (settings.steps(data.train.len()), settings.peak_lr(LR_SCALE, &spec.stack));
        context.progress.line(&format!(
            "{} pairs to learn from, {} held out; {steps} steps; {} of {} parameters; {rule}",
            data.train.len(),
            data.validation.len(),
            human_count(trainable as f64),
            human_count(spec.parameters() as f64)
        ));
        let tokens: usize = data.train.iter().map(|led| led.pair.inputs()).sum();
        let mut objective = Objects {
            steps: Steps::new(data.train.len(), context.seed, settings.batch_size, settings.micro_batch),
            flops_per_token: settings.training_flops(spec.train_flops_per_token(tokens / (2 * data.train.len()))),
            train: data.train,
            validation: data.validation,
            pad: spec.pad.or(tokenizer.pad()).unwrap_or(0),
            centering: self.own.centering,
            parts: vec![],
        };
        let (before, summary) = settings.run(&mut model, &mut objective, context, steps, lr)?;
        settings.save(&mut model, &tokenizer, context)?;
        let mut metrics = metrics(&before, &summary);
        let records = counts["records"].clone();
        metrics.extend(counts);
        metrics.insert("trainable_parameters".into(), json!(trainable));
        metrics.insert("parameters".into(), json!(spec.parameters()));
        metrics.insert("lr".into(), json!(lr));
        conclude(context, &before, &summary, &mut metrics)?;
        let found = |name: &str| summary.evaluation.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
        let came_out = match found("validation_reward_accuracy") {
            Some(accuracy) => format!("held-out accuracy {:.0}%", 100.0 * accuracy),
            None => format!("training loss {:.3}", summary.train_loss),
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
#[path = "reward_model_tests.rs"]
mod tests;
