//! Learning from single answers that are good or bad.

use burn::tensor::Tensor;
use cupola_arch::Model;
use cupola_artifact::Result;
use cupola_nn::Decoder;
use cupola_train::batching::{Layout, groups};
use cupola_train::conversation::Example;
use cupola_train::loader::Steps;
use cupola_train::{Objective, Part};
use serde_json::Value;

use crate::pairs::logps;
use crate::unpaired::{SingleLogps, SingleLoss, SingleSettings};

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Single {
    /// The prompt and the answer.
    pub answer: Example,
    /// Whether it is good.
    pub desirable: bool,
    /// The reference's log-probability.
    pub reference: f32,
    /// The prompt with an answer to another prompt, and the reference's log-probability of that; only where the loss
    /// needs the divergence.
    pub mismatched: Option<(Example, f32)>,
}

/// The prompt of one example with the answer of another, as long as the context takes.
pub fn mismatch(prompt: &Example, answer: &Example, max_len: usize) -> Example {
    let begins = |e: &Example| e.learn.iter().position(|learned| *learned).unwrap_or(e.learn.len());
    let (kept, from) = (begins(prompt), begins(answer));
    let mut out = Example {
        ids: [&prompt.ids[..kept], &answer.ids[from..]].concat(),
        learn: [&prompt.learn[..kept], &answer.learn[from..]].concat(),
    };
    out.cut(max_len);
    out
}

/// Preference optimization on single answers: the mean loss of each step's answers.
pub struct SingleAlignment {
    /// What is learned from.
    pub train: Vec<Single>,
    /// What is measured on.
    pub validation: Vec<Single>,
    /// The order of the training answers.
    pub steps: Steps,
    /// How answers are laid out.
    pub layout: Layout,
    /// What fills rows up.
    pub pad: u32,
    /// The loss.
    pub loss: &'static dyn SingleLoss,
    /// Its settings.
    pub settings: SingleSettings,
    /// Floating-point operations of training on a token.
    pub flops_per_token: f64,
    /// The answers of the step, by micro-batch.
    pub parts: Vec<Vec<usize>>,
    /// The divergence of the step.
    pub divergence: f64,
}

/// Sums over good answers, then over bad ones: how many, their rewards, and how many rewards are above the others' mean.
#[derive(Clone, Copy, Default)]
struct Sums {
    loss: f64,
    count: [f64; 2],
    rewards: [f64; 2],
    logps: [f64; 2],
    right: f64,
}

impl SingleAlignment {
    /// The mean of the answers' ratios, each to another prompt; 0 where the loss does not ask.
    fn divergence_of(&self, model: &Decoder, answers: &[&Single]) -> f64 {
        let mismatched: Vec<(&Example, f32)> =
            answers.iter().filter_map(|a| a.mismatched.as_ref().map(|(example, logp)| (example, *logp))).collect();
        if mismatched.is_empty() {
            return 0.0;
        }
        let lengths: Vec<usize> = mismatched.iter().map(|(example, _)| example.inputs()).collect();
        let mut sum = 0.0;
        for group in groups(&lengths, self.steps.micro_batch) {
            let some = &mismatched[group];
            let examples: Vec<&Example> = some.iter().map(|(example, _)| *example).collect();
            let policy = cupola_ops::to_vec(&logps(model, &examples, self.layout, self.pad).0);
            sum += policy.iter().zip(some).map(|(p, (_, r))| f64::from(p - r)).sum::<f64>();
        }
        sum / mismatched.len() as f64
    }

    /// The sum of the losses of some answers, `[1]`, sums of figures, and their tokens.
    fn losses(&self, model: &Decoder, answers: &[&Single], divergence: f64) -> (Tensor<1>, Sums, usize) {
        let examples: Vec<&Example> = answers.iter().map(|a| &a.answer).collect();
        let (policy, tokens) = logps(model, &examples, self.layout, self.pad);
        let reference = answers.iter().map(|a| a.reference).collect();
        let reference = cupola_ops::from_vec::<1>(reference, [answers.len()], &policy.device());
        let desirable = answers.iter().map(|a| a.desirable).collect();
        let logps = SingleLogps { policy, reference, desirable, divergence };
        let loss = self.loss.loss(&logps, &self.settings).sum();
        let mut sums = Sums { loss: f64::from(cupola_ops::scalar(&loss)), ..Sums::default() };
        for (logp, answer) in cupola_ops::to_vec(&logps.policy).into_iter().zip(answers) {
            let reward = self.settings.beta * f64::from(logp - answer.reference);
            let kind = usize::from(!answer.desirable);
            sums.count[kind] += 1.0;
            sums.rewards[kind] += reward;
            sums.logps[kind] += f64::from(logp);
            sums.right += f64::from(u8::from((reward > self.settings.beta * divergence.max(0.0)) == answer.desirable));
        }
        (loss, sums, tokens)
    }
}

impl Objective for SingleAlignment {
    fn begin_step(&mut self, model: &Model, _: u64) -> Result<usize> {
        let train = &self.train;
        self.parts = self.steps.draw_parts(|i| train[i].answer.inputs());
        if self.loss.needs_divergence() {
            let drawn: Vec<&Single> = self.parts.iter().flatten().map(|i| &self.train[*i]).collect();
            self.divergence = self.divergence_of(model.frozen().decoder()?, &drawn);
        }
        Ok(self.parts.len())
    }

    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let answers: Vec<&Single> = self.parts[index].iter().map(|i| &self.train[*i]).collect();
        let (loss, sums, tokens) = self.losses(model.decoder()?, &answers, self.divergence);
        let share = 1.0 / self.steps.batch_size as f64;
        let all: Vec<&Single> = self.parts.iter().flatten().map(|i| &self.train[*i]).collect();
        let good = all.iter().filter(|a| a.desirable).count();
        let mean = |sum: f64, n: usize| sum / n.max(1) as f64;
        let figures = vec![
            ("reward_accuracy", sums.right * share),
            ("rewards_desirable", mean(sums.rewards[0], good)),
            ("rewards_undesirable", mean(sums.rewards[1], all.len() - good)),
            ("divergence", self.divergence / self.parts.len() as f64),
        ];
        Ok(Part { loss: loss.mul_scalar(share), tokens, figures })
    }

    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        if self.validation.is_empty() {
            return Ok(vec![]);
        }
        let decoder = model.decoder()?;
        let all: Vec<&Single> = self.validation.iter().collect();
        let divergence = if self.loss.needs_divergence() { self.divergence_of(decoder, &all) } else { 0.0 };
        let lengths: Vec<usize> = all.iter().map(|a| a.answer.inputs()).collect();
        let mut total = Sums::default();
        for group in groups(&lengths, self.steps.micro_batch) {
            let (_, sums, _) = self.losses(decoder, &all[group], divergence);
            total.loss += sums.loss;
            total.right += sums.right;
            for kind in 0..2 {
                total.count[kind] += sums.count[kind];
                total.rewards[kind] += sums.rewards[kind];
                total.logps[kind] += sums.logps[kind];
            }
        }
        let n = all.len() as f64;
        let mean = |sums: [f64; 2], kind: usize| sums[kind] / total.count[kind].max(1.0);
        let figures = [
            ("loss", total.loss / n),
            ("reward_accuracy", total.right / n),
            ("reward_margin", mean(total.rewards, 0) - mean(total.rewards, 1)),
            ("rewards_desirable", mean(total.rewards, 0)),
            ("rewards_undesirable", mean(total.rewards, 1)),
            ("logps_desirable", mean(total.logps, 0)),
            ("logps_undesirable", mean(total.logps, 1)),
            ("divergence", divergence),
        ];
        Ok(figures.into_iter().map(|(name, value)| (format!("validation_{name}"), value)).collect())
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
