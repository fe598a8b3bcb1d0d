//! Answers of the policy itself: asked for, scored, compared.

use cupola_arch::Model;
use cupola_artifact::stage::Progress;
use cupola_artifact::{Error, Result};
use cupola_generate::{Engine, EngineOptions, FinishReason, Request, Sampled, SamplingParams};
use cupola_nn::{Decoder, Rng};
use cupola_tokenizer::{Message, Tokenizer};
use cupola_train::batching::{Layout, Rows, groups};
use cupola_train::conversation::Example;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Baseline;
use super::config::OnlineConfig;
use crate::gae::{advantages, group_advantages, leave_one_out, token_rewards, whiten};
use crate::reward::{Answered, Reward};

/// A prompt.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    /// What is asked.
    pub messages: Vec<Message>,
    /// As the model reads it.
    pub ids: Vec<u32>,
    /// The record that it is from.
    pub record: Value,
}

/// An answer, and what is learned from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Prompt and answer.
    pub example: Kept,
    /// What it is worth by the rewards; absent where that could not be told.
    pub reward: Option<f64>,
    /// Its tokens' log-probabilities under the policy that gave it.
    pub old: Vec<f32>,
    /// Under the reference; empty without one.
    pub reference: Vec<f32>,
    /// By the value function; empty without one.
    pub values: Vec<f32>,
    /// How much better than expected its tokens are.
    pub advantages: Vec<f32>,
    /// What the value function should have said.
    pub returns: Vec<f32>,
}

/// An example as checkpoints keep it: tokens, and where the answer begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The tokens.
    pub ids: Vec<u32>,
    /// How many are the prompt's.
    pub prompt: usize,
}

impl Answer {
    /// What is learned.
    pub fn example(&self) -> Example {
        let learn = (0..self.example.ids.len()).map(|i| i >= self.example.prompt).collect();
        Example { ids: self.example.ids.clone(), learn }
    }

    /// Its tokens.
    pub fn tokens(&self) -> usize {
        self.example.ids.len() - self.example.prompt
    }

    /// Its divergence from the reference, the sum of `log π_old - log π_ref` over its tokens, nats.
    pub fn divergence(&self) -> f64 {
        self.old.iter().zip(&self.reference).map(|(old, reference)| f64::from(old - reference)).sum()
    }
}

/// What the policy's answers are made and judged with.
pub(super) struct Judges<'a> {
    pub config: &'a OnlineConfig,
    pub tokenizer: &'a Tokenizer,
    pub rewards: &'a [(Box<dyn Reward>, f64)],
    pub reference: Option<&'a Decoder>,
    pub pad: u32,
    pub seed: u64,
}

/// Sequences that are answered at the same time.
const MAX_BATCH: usize = 64;

/// The answers to some prompts, `group_size` in a row to each, with their rewards.
pub(super) struct Judged {
    pub answers: Vec<Answer>,
    /// The share that ended by themselves.
    pub ended: f64,
    /// The largest difference between what the sampler and the trainer found a token's log-probability, where both were
    /// asked.
    pub gap: f32,
}

impl Judges<'_> {
    /// Asks for answers to prompts, `each` times each, and judges them; `name` tells these answers from others.
    pub fn ask(&self, model: &Model, prompts: &[&Prompt], each: usize, name: &str) -> Result<Judged> {
        let mut requests = Vec::with_capacity(prompts.len() * each);
        for (i, prompt) in prompts.iter().enumerate() {
            for k in 0..each {
                let seed = Rng::new(self.seed, &format!("{name} {i} {k}")).next_u64();
                requests.push(Request { prompt: prompt.ids.clone(), params: self.params(seed) });
            }
        }
        let options = EngineOptions { max_batch: MAX_BATCH, max_waiting: requests.len(), prefill_chunk: 2048 };
        let engine = Engine::new(model.clone(), self.tokenizer.clone(), &options)?;
        let sampled = engine.sample_many(requests, &mut |_| {})?;
        drop(engine);
        let ended = sampled.iter().filter(|s| s.generated.reason == FinishReason::Stop).count();
        let ended = ended as f64 / sampled.len().max(1) as f64;
        let rewards = self.rewards(prompts, each, &sampled)?;
        let mut answers: Vec<Answer> = sampled
            .into_iter()
            .zip(rewards)
            .enumerate()
            .map(|(i, (sampled, reward))| {
                let prompt = &prompts[i / each].ids;
                let example = Kept { ids: [&prompt[..], &sampled.ids].concat(), prompt: prompt.len() };
                Answer { example, reward, old: sampled.logprobs, ..Answer::default() }
            })
            .collect();
        let gap = self.score(model, &mut answers)?;
        Ok(Judged { answers, ended, gap })
    }

    fn params(&self, seed: u64) -> SamplingParams {
        SamplingParams {
            temperature: self.config.temperature as f32,
            max_tokens: self.config.policy.max_tokens,
            seed: Some(seed),
            ..SamplingParams::default()
        }
    }

    /// The rewards, weighed and added up.
    fn rewards(&self, prompts: &[&Prompt], each: usize, sampled: &[Sampled]) -> Result<Vec<Option<f64>>> {
        let answered: Vec<Answered<'_>> = sampled
            .iter()
            .enumerate()
            .map(|(i, sampled)| Answered {
                prompt: &prompts[i / each].messages,
                text: &sampled.generated.text,
                tokens: sampled.ids.len(),
                ended: sampled.generated.reason == FinishReason::Stop,
                record: &prompts[i / each].record,
            })
            .collect();
        let mut sums = vec![Some(0.0); answered.len()];
        for (reward, weight) in self.rewards {
            let scores = reward.score(&answered)?;
            if scores.len() != sums.len() {
                return Err(Error::failed("a reward did not judge every answer"));
            }
            for (sum, score) in sums.iter_mut().zip(scores) {
                *sum = sum.zip(score.filter(|score| score.is_finite())).map(|(sum, score)| sum + weight * score);
            }
        }
        Ok(sums)
    }

    /// Log-probabilities of the answers under the reference, and as training computes them under the policy where that
    /// is not what the sampler told: in 16 bits and at other temperatures; and the values.
    fn score(&self, model: &Model, answers: &mut [Answer]) -> Result<f32> {
        let decoder = model.decoder()?;
        let values = self.config.algorithm.baseline == Baseline::Value;
        let same = decoder.precision() == cupola_ops::Precision::F32 && self.config.temperature == 1.0;
        let lengths: Vec<usize> = answers.iter().map(|answer| answer.example.ids.len()).collect();
        let mut gap = 0.0_f32;
        for group in groups(&lengths, None) {
            let some = &mut answers[group];
            let examples: Vec<Example> = some.iter().map(Answer::example).collect();
            let rows = self.rows(&examples.iter().collect::<Vec<_>>());
            if values || !same {
                let hidden = decoder.hidden(&rows.batch);
                let nll = decoder.nll_of_hidden(hidden.clone(), &rows.targets, self.config.temperature);
                let found = rows.collect(&cupola_ops::to_vec(&nll.neg()));
                for (answer, found) in some.iter_mut().zip(found) {
                    if self.config.temperature == 1.0 {
                        gap = answer.old.iter().zip(&found).fold(gap, |gap, (a, b)| gap.max((a - b).abs()));
                    }
                    answer.old = found;
                }
                if values {
                    let found = rows.collect(&cupola_ops::to_vec(&model.values(hidden)?));
                    some.iter_mut().zip(found).for_each(|(answer, values)| answer.values = values);
                }
            }
            if let Some(reference) = self.reference {
                let hidden = reference.hidden(&rows.batch);
                let nll = reference.nll_of_hidden(hidden, &rows.targets, self.config.temperature);
                let found = rows.collect(&cupola_ops::to_vec(&nll.neg()));
                some.iter_mut().zip(found).for_each(|(answer, found)| answer.reference = found);
            }
        }
        Ok(gap)
    }

    /// Answers in rows.
    pub fn rows(&self, examples: &[&Example]) -> Rows {
        let longest = examples.iter().map(|e| e.inputs()).max().unwrap_or(1);
        Rows::new(examples, Layout::Packed(longest.max(1)), self.pad)
    }

    /// Turns rewards into advantages; `each` answers in a row are to one prompt.
    pub fn compare(&self, answers: &mut [Answer], each: usize, kl_coefficient: f64) {
        let per_token = |answer: &Answer, reward: f64| {
            let reference = if answer.reference.is_empty() { &answer.old } else { &answer.reference };
            token_rewards(&answer.old, reference, reward, kl_coefficient)
        };
        match self.config.algorithm.baseline {
            Baseline::Group | Baseline::Others => {
                let total = |answer: &Answer| {
                    answer
                        .reward
                        .map(|r| if answer.reference.is_empty() { r } else { r - kl_coefficient * answer.divergence() })
                };
                let grouped: Vec<Vec<f64>> =
                    answers.chunks(each).map(|g| g.iter().filter_map(total).collect()).collect();
                let compared = match self.config.algorithm.baseline {
                    Baseline::Others => leave_one_out(&grouped),
                    _ => group_advantages(&grouped, self.config.scale),
                };
                for (group, compared) in answers.chunks_mut(each).zip(compared) {
                    let judged = group.iter_mut().filter(|answer| answer.reward.is_some());
                    judged.zip(compared).for_each(|(answer, advantage)| {
                        answer.advantages = vec![advantage as f32; answer.tokens()];
                    });
                }
            }
            Baseline::Value | Baseline::Batch => {
                let (gamma, lambda) = (self.config.gamma, self.config.lambda);
                let with_values = self.config.algorithm.baseline == Baseline::Value;
                let mut flat = vec![];
                for answer in answers.iter_mut() {
                    let Some(reward) = answer.reward else { continue };
                    let rewards = per_token(answer, reward);
                    // Without a value function this is what follows each token, discounted.
                    let zeros = vec![0.0; rewards.len()];
                    let (values, lambda) = if with_values { (&answer.values, lambda) } else { (&zeros, 1.0) };
                    let (found, returns) = advantages(&rewards, values, gamma, lambda);
                    answer.returns = returns.into_iter().map(|r| r as f32).collect();
                    flat.extend(found);
                }
                whiten(&mut flat);
                let mut rest = flat.into_iter();
                for answer in answers.iter_mut().filter(|answer| answer.reward.is_some()) {
                    answer.advantages = rest.by_ref().take(answer.tokens()).map(|a| a as f32).collect();
                }
            }
        }
    }
}

/// Whether all answers of a group are worth the same, so that they teach nothing.
pub(super) fn is_dead(group: &[Answer]) -> bool {
    let rewards: Vec<f64> = group.iter().filter_map(|answer| answer.reward).collect();
    let (least, most) = rewards.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), r| (l.min(*r), m.max(*r)));
    rewards.len() < 2 || most - least < 1e-9
}

/// Mean figures of some answers.
pub(super) fn figures(answers: &[Answer]) -> Vec<(&'static str, f64)> {
    let judged: Vec<f64> = answers.iter().filter_map(|answer| answer.reward).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>, n: usize| values.sum::<f64>() / n.max(1) as f64;
    let reward = mean(&mut judged.iter().copied(), judged.len());
    let spread = mean(&mut judged.iter().map(|r| (r - reward).powi(2)), judged.len()).sqrt();
    let tokens: usize = answers.iter().map(Answer::tokens).sum();
    let surprise: f64 = answers.iter().flat_map(|answer| &answer.old).map(|logp| -f64::from(*logp)).sum();
    let mut out = vec![
        ("reward", reward),
        ("reward_deviation", spread),
        ("length", tokens as f64 / answers.len().max(1) as f64),
        ("entropy", surprise / tokens.max(1) as f64),
        ("unjudged", 1.0 - judged.len() as f64 / answers.len().max(1) as f64),
    ];
    if answers.iter().any(|answer| !answer.reference.is_empty()) {
        out.push(("kl", mean(&mut answers.iter().map(Answer::divergence), answers.len())));
    }
    out
}

/// Warns of answers that no reward could judge.
pub(super) fn warn_unjudged(answers: &[Answer], progress: &dyn Progress) {
    let unjudged = answers.iter().filter(|answer| answer.reward.is_none()).count();
    if unjudged > 0 {
        progress.warn(&format!("{unjudged} of {} answers could not be judged and are left out", answers.len()));
    }
}
