//! The choice of the next token.

use cupola_artifact::{Error, Result};
use cupola_nn::Rng;

use crate::SamplingParams;
use crate::processors::{Candidates, History};

/// Chooses one sequence's tokens. The n-th choice depends on the logits, the settings, the seed and what was written
/// before alone, so not on what else is generated at the same time.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    rng: Rng,
    /// The prompt and what was chosen since.
    ids: Vec<u32>,
    prompt: usize,
    stop_ids: Vec<u32>,
}

impl Sampler {
    /// A sampler for one sequence without a prompt.
    pub fn new(params: &SamplingParams, seed: u64) -> Self {
        Self { params: params.clone(), rng: Rng::new(seed, "sample"), ids: vec![], prompt: 0, stop_ids: vec![] }
    }

    /// Tells it the prompt, and the tokens that end a text.
    #[must_use]
    pub fn with_prompt(mut self, prompt: &[u32], stop_ids: &[u32]) -> Self {
        (self.ids, self.prompt, self.stop_ids) = (prompt.to_vec(), prompt.len(), stop_ids.to_vec());
        self
    }

    fn history(&self) -> History<'_> {
        History { ids: &self.ids, prompt: self.prompt, stop_ids: &self.stop_ids }
    }

    /// The next token.
    ///
    /// # Errors
    /// Logits that are not numbers to choose by; settings that leave no token.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        // Always one draw, so that the n-th choice takes the n-th number.
        let draw = self.rng.uniform();
        let token = match self.params.temperature > 0.0 {
            true => pick(&self.distribution(logits)?, draw),
            false => likeliest(&self.processed(logits)?),
        };
        let token = token.ok_or_else(nothing_left)?;
        self.ids.push(token);
        Ok(token)
    }

    /// The tokens that may be chosen next and their probabilities, by id.
    ///
    /// # Errors
    /// As [`Self::sample`].
    pub fn distribution(&self, logits: &[f32]) -> Result<Vec<(u32, f64)>> {
        let mut candidates = Candidates::new(&self.processed(logits)?);
        self.params.narrow(&mut candidates);
        let probabilities = candidates.log_probabilities().map(f64::exp);
        Ok(candidates.list.iter().map(|c| c.token).zip(probabilities).collect())
    }

    fn processed(&self, logits: &[f32]) -> Result<Vec<f32>> {
        let mut logits = logits.to_vec();
        check_finite(&logits)?;
        self.params.process(&mut logits, &self.history());
        Ok(logits)
    }
}

/// Whether logits are numbers to choose by: none NaN or infinite but those of removed tokens, and one left.
pub(crate) fn check_finite(logits: &[f32]) -> Result<()> {
    let below = |l: &f32| *l < f32::INFINITY;
    match logits.iter().all(below) && logits.iter().any(|l| l.is_finite()) {
        true => Ok(()),
        false => Err(Error::failed("the model's logits are not finite numbers")),
    }
}

fn nothing_left() -> Error {
    Error::failed("the sampling settings leave no token to choose")
        .with_hint("`logit_bias`, `bad_words_ids`, `no_repeat_ngram_size` and `min_tokens` remove tokens")
}

/// The token with the largest logit, the lowest id where several have it; `None` when all are removed.
fn likeliest(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &logit) in logits.iter().enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |(_, b)| b) {
            best = Some((i, logit));
        }
    }
    best.map(|(i, _)| i as u32)
}

/// The token at which the sum of the probabilities passes a number from 0 to 1.
fn pick(distribution: &[(u32, f64)], draw: f64) -> Option<u32> {
    let mut sum = 0.0;
    let passed = distribution.iter().find(|(_, probability)| {
        sum += probability;
        draw < sum
    });
    // Rounding may leave the sum a little under one.
    passed.or_else(|| distribution.iter().rev().find(|(_, p)| *p > 0.0)).map(|(token, _)| *token)
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
