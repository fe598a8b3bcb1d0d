//! The loop: answers, then some optimizer steps on them.

use cupola_arch::Model;
use cupola_artifact::stage::Progress;
use cupola_artifact::{Context, Error, Result};
use cupola_nn::Rng;
use cupola_ops::from_vec;
use cupola_train::batching::groups;
use cupola_train::conversation::Example;
use cupola_train::loader::Steps;
use cupola_train::{Objective, Part};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Baseline;
use super::rollout::{Answer, Judged, Judges, Prompt, figures, is_dead, warn_unjudged};
use crate::gae::value_loss;
use crate::policy::{PolicyBatch, policy_loss};

/// Rounds of further prompts that are asked in the place of dead groups.
const MAX_ROUNDS: usize = 4;

/// Held-out prompts that are answered to measure, at most.
const MAX_MEASURED: usize = 128;

/// What a checkpoint in the middle of a step's updates needs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    steps: Value,
    answers: Vec<Answer>,
    kl_coefficient: f64,
    asked: u64,
    figures: Vec<(String, f64)>,
}

/// Learning from the rewards of the policy's own answers.
pub(super) struct Learning<'a> {
    judges: Judges<'a>,
    train: Vec<Prompt>,
    validation: Vec<Prompt>,
    steps: Steps,
    progress: &'a dyn Progress,
    flops_per_token: f64,
    /// The answers that are learned from now.
    answers: Vec<Answer>,
    kl_coefficient: f64,
    /// How often answers were asked for.
    asked: u64,
    /// What is told of them.
    told: Vec<(String, f64)>,
    /// The answers of this update, by micro-batch.
    parts: Vec<Vec<usize>>,
}

/// The names of figures, which the trainer wants for good.
const NAMES: &[&str] = &[
    "reward",
    "reward_deviation",
    "kl",
    "length",
    "entropy",
    "ended",
    "dead_groups",
    "unjudged",
    "kl_coefficient",
    "sampler_gap",
];

impl<'a> Learning<'a> {
    pub fn new(
        judges: Judges<'a>,
        (train, validation): (Vec<Prompt>, Vec<Prompt>),
        steps: Steps,
        progress: &'a dyn Progress,
        flops_per_token: f64,
    ) -> Self {
        let kl_coefficient = judges.config.kl_coefficient;
        Self {
            judges,
            train,
            validation,
            steps,
            progress,
            flops_per_token,
            answers: vec![],
            kl_coefficient,
            asked: 0,
            told: vec![],
            parts: vec![],
        }
    }

    /// Asks for a step's answers and compares them.
    fn roll_out(&mut self, model: &Model) -> Result<()> {
        let (each, wanted) = (self.judges.config.group_size, self.steps.batch_size);
        let (mut answers, mut dead, mut asked) = (vec![], 0, 0);
        let (mut ended, mut gap) = (0.0, 0.0_f32);
        for round in 0..MAX_ROUNDS {
            let missing = wanted - answers.len() / each;
            let drawn: Vec<usize> = self.steps.draw().into_iter().take(missing).collect();
            let prompts: Vec<&Prompt> = drawn.iter().map(|i| &self.train[*i]).collect();
            let name = format!("step {} round {round}", self.asked);
            let judged = self.judges.ask(model, &prompts, each, &name)?;
            asked += prompts.len();
            ended += judged.ended * prompts.len() as f64;
            gap = gap.max(judged.gap);
            for group in judged.answers.chunks(each) {
                let is_dead = each > 1 && is_dead(group);
                dead += usize::from(is_dead);
                // In the last round they are taken nevertheless: then a step learns little, and says so.
                if !(is_dead && self.judges.config.replace_dead_groups && round + 1 < MAX_ROUNDS) {
                    answers.extend_from_slice(group);
                }
            }
            if answers.len() == wanted * each {
                break;
            }
        }
        warn_unjudged(&answers, self.progress);
        if answers.iter().all(|answer| answer.reward.is_none()) {
            return Err(Error::failed("no answer of a step could be judged by the rewards").with_hint(
                "look at the rewards: a model may give numbers that are not finite, or a judge not answer",
            ));
        }
        self.judges.compare(&mut answers, each, self.kl_coefficient);
        let mut told: Vec<(String, f64)> = figures(&answers).into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        told.push(("ended".into(), ended / asked as f64));
        if each > 1 {
            told.push(("dead_groups".into(), dead as f64 / asked as f64));
        }
        told.push(("kl_coefficient".into(), self.kl_coefficient));
        told.push(("sampler_gap".into(), f64::from(gap)));
        self.steer(told.iter().find(|(name, _)| name == "kl").map(|(_, kl)| *kl));
        answers.retain(|answer| answer.reward.is_some());
        (self.answers, self.told) = (answers, told);
        self.asked += 1;
        Ok(())
    }

    /// Moves the coefficient towards the target (Ziegler et al. 2019, section 2.2).
    fn steer(&mut self, kl: Option<f64>) {
        if let (Some(target), Some(kl)) = (self.judges.config.kl_target, kl) {
            self.kl_coefficient *= 1.0 + 0.1 * ((kl - target) / target).clamp(-0.2, 0.2);
        }
    }

    /// The answers of an update: all of them, or a share in an order that changes with every iteration.
    fn chosen(&self, phase: u64) -> Vec<usize> {
        let (n, minibatches) = (self.answers.len(), self.judges.config.minibatches);
        if minibatches == 1 {
            return (0..n).collect();
        }
        let (iteration, index) = (phase / minibatches, (phase % minibatches) as usize);
        let order = Rng::new(self.judges.seed, &format!("minibatches {} {iteration}", self.asked)).permutation(n);
        let each = n.div_ceil(minibatches as usize);
        order.into_iter().skip(index * each).take(each).map(|i| i as usize).collect()
    }
}

impl Objective for Learning<'_> {
    fn begin_step(&mut self, model: &Model, step: u64) -> Result<usize> {
        let phase = step % self.judges.config.updates();
        if phase == 0 {
            self.roll_out(&model.frozen())?;
        }
        let mut chosen = self.chosen(phase);
        if chosen.is_empty() {
            // Fewer answers than minibatches were left: the last ones take from the front.
            chosen = (0..self.answers.len().min(1)).collect();
        }
        let lengths: Vec<usize> = chosen.iter().map(|i| self.answers[*i].example.ids.len()).collect();
        self.parts = groups(&lengths, self.steps.micro_batch).into_iter().map(|group| chosen[group].to_vec()).collect();
        Ok(self.parts.len())
    }

    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let (decoder, config) = (model.decoder()?, self.judges.config);
        let answers: Vec<&Answer> = self.parts[index].iter().map(|i| &self.answers[*i]).collect();
        let examples: Vec<Example> = answers.iter().map(|answer| answer.example()).collect();
        let rows = self.judges.rows(&examples.iter().collect::<Vec<_>>());
        let hidden = decoder.hidden(&rows.batch);
        let policy = decoder.nll_of_hidden(hidden.clone(), &rows.targets, config.temperature).neg();
        let device = policy.device();
        let n = rows.targets.len();
        let placed = |of: &dyn Fn(&Answer) -> &[f32]| {
            let numbers: Vec<&[f32]> = answers.iter().map(|answer| of(answer)).collect();
            from_vec::<1>(rows.place(&numbers), [n], &device)
        };
        let step: Vec<&Answer> = self.parts.iter().flatten().map(|i| &self.answers[*i]).collect();
        let step_tokens = step.iter().map(|answer| answer.tokens()).sum();
        let answer_advantages = answers.iter().map(|a| a.advantages.first().copied().unwrap_or(0.0)).collect();
        let batch = PolicyBatch {
            policy,
            old: placed(&|answer| &answer.old),
            reference: (config.policy.beta > 0.0).then(|| placed(&|answer| &answer.reference)),
            advantages: placed(&|answer| &answer.advantages),
            answer_advantages: from_vec(answer_advantages, [answers.len()], &device),
            members: rows.members(&device),
            lengths: answers.iter().map(|answer| answer.tokens()).collect(),
            step_answers: step.len(),
            step_tokens,
        };
        let mut loss = policy_loss(config.loss, &batch, &config.policy);
        let mut told = vec![("clipped", clipped_share(&batch, config.policy.epsilon_low, config.policy.epsilon_high))];
        if config.algorithm.baseline == Baseline::Value {
            let (old, returns) = (placed(&|answer| &answer.values), placed(&|answer| &answer.returns));
            let each = value_loss(model.values(hidden)?, old, returns, config.value_clip);
            let mean = (each * batch.mask()).sum().div_scalar(step_tokens.max(1) as f64);
            told.push(("value_loss", f64::from(cupola_ops::scalar(&mean))));
            loss = loss + mean.mul_scalar(config.value_coefficient);
        }
        if index == 0 {
            let known = |name: &str| NAMES.iter().find(|known| **known == name).copied();
            told.splice(0..0, self.told.iter().filter_map(|(name, value)| Some((known(name)?, *value))));
        }
        Ok(Part { loss, tokens: rows.tokens, figures: told })
    }

    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        let prompts: Vec<&Prompt> = self.validation.iter().take(MAX_MEASURED).collect();
        if prompts.is_empty() {
            return Ok(vec![]);
        }
        // The same chances before and after.
        let Judged { answers, ended, .. } = self.judges.ask(model, &prompts, 1, "evaluation")?;
        let named = figures(&answers).into_iter().filter(|(name, _)| *name != "unjudged");
        let named = named.map(|(name, value)| (format!("validation_{name}"), value));
        Ok(named.chain([("validation_ended".to_owned(), ended)]).collect())
    }

    fn sample(&mut self, model: &Model) -> Result<Option<String>> {
        let Some(prompt) = self.validation.first() else { return Ok(None) };
        let Judged { answers, .. } = self.judges.ask(model, &[prompt], 1, "sample")?;
        let text = |answer: &Answer| self.judges.tokenizer.decode(&answer.example.ids[answer.example.prompt..]);
        answers.first().map(text).transpose()
    }

    fn flops_per_token(&self) -> f64 {
        self.flops_per_token
    }

    fn position(&self) -> Value {
        json!(Kept {
            steps: self.steps.position(),
            answers: self.answers.clone(),
            kl_coefficient: self.kl_coefficient,
            asked: self.asked,
            figures: self.told.clone(),
        })
    }

    fn restore(&mut self, position: &Value) -> Result<()> {
        let kept: Kept = serde_json::from_value(position.clone())
            .context(|| "the checkpoint has no answers to go on with".into())?;
        self.steps.restore(&kept.steps)?;
        (self.answers, self.kl_coefficient, self.asked, self.told) =
            (kept.answers, kept.kl_coefficient, kept.asked, kept.figures);
        Ok(())
    }
}

/// The share of the step's tokens whose ratio is outside the bounds.
fn clipped_share(batch: &PolicyBatch, low: f64, high: f64) -> f64 {
    let outside = |log: &&f32| {
        let ratio = f64::from(**log).exp();
        ratio < 1.0 - low || ratio > 1.0 + high
    };
    cupola_ops::to_vec(&batch.log_ratio()).iter().filter(outside).count() as f64 / batch.step_tokens.max(1) as f64
}
