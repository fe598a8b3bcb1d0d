//! What changes the logits before a token is chosen: one file each, in the order in which they are applied.

mod bad_words;
mod candidates;
mod epsilon_cutoff;
mod eta_cutoff;
mod forced;
mod frequency_penalty;
mod logit_bias;
mod min_p;
mod min_tokens;
mod no_repeat_ngram;
mod presence_penalty;
mod repetition_penalty;
mod temperature;
#[cfg(test)]
mod tests;
mod top_h;
mod top_k;
mod top_p;
mod typical_p;

use std::ops::RangeInclusive;

use crate::SamplingParams;

pub(crate) use candidates::best;
pub use candidates::{Candidate, Candidates};

/// All of them, in transformers' order: first those that look at what was written, on the logits of the whole
/// vocabulary; then those that narrow the choice down, each among what the ones before it left. OpenAI's two penalties,
/// which transformers lacks, follow the repetition penalty.
pub const ALL: &[Processor] = &[
    logit_bias::LOGIT_BIAS,
    repetition_penalty::REPETITION_PENALTY,
    frequency_penalty::FREQUENCY_PENALTY,
    presence_penalty::PRESENCE_PENALTY,
    no_repeat_ngram::NO_REPEAT_NGRAM,
    bad_words::BAD_WORDS,
    min_tokens::MIN_TOKENS,
    forced::FORCED,
    temperature::TEMPERATURE,
    top_h::TOP_H,
    top_k::TOP_K,
    top_p::TOP_P,
    min_p::MIN_P,
    typical_p::TYPICAL_P,
    epsilon_cutoff::EPSILON_CUTOFF,
    eta_cutoff::ETA_CUTOFF,
];

/// A way to change what may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Processor {
    /// The setting that asks for it.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// Whether the settings ask for it.
    pub wanted: fn(&SamplingParams) -> bool,
    /// Whether its settings make sense for a vocabulary of a size.
    pub check: fn(&SamplingParams, usize) -> Result<(), Unfit>,
    /// What it does.
    pub apply: Apply,
}

/// What a processor changes. A removed token has a logit of minus infinity, or is no candidate any more; the likeliest
/// candidate always stays.
#[derive(Clone, Copy, Debug)]
pub enum Apply {
    /// The logits, `[V]`, seen together with what was written.
    Logits(fn(&mut [f32], &SamplingParams, &History<'_>)),
    /// Which tokens may be chosen; for sampling only.
    Candidates(fn(&mut Candidates, &SamplingParams)),
}

/// What precedes the token to choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct History<'a> {
    /// The prompt's tokens and those generated since.
    pub ids: &'a [u32],
    /// How many are the prompt's.
    pub prompt: usize,
    /// The tokens that end a text.
    pub stop_ids: &'a [u32],
}

impl History<'_> {
    /// The tokens generated so far.
    pub fn generated(&self) -> &[u32] {
        self.ids.get(self.prompt..).unwrap_or_default()
    }

    /// The different tokens generated so far, and how often each was.
    pub fn counts(&self) -> Vec<(u32, usize)> {
        let mut sorted = self.generated().to_vec();
        sorted.sort_unstable();
        sorted.chunk_by(u32::eq).map(|equal| (equal[0], equal.len())).collect()
    }
}

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The setting.
    pub field: &'static str,
    /// A sentence with the setting, its range and its value.
    pub message: String,
}

impl SamplingParams {
    /// Whether all settings are in their ranges, for a vocabulary of a size.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self, vocab_size: usize) -> Result<(), Unfit> {
        ALL.iter().try_for_each(|processor| (processor.check)(self, vocab_size))
    }

    /// Applies what looks at the text so far and changes logits, `[V]`; what narrows a random choice down is left out.
    pub fn process(&self, logits: &mut [f32], history: &History<'_>) {
        for processor in ALL.iter().filter(|p| (p.wanted)(self)) {
            if let Apply::Logits(apply) = processor.apply {
                apply(logits, self, history);
            }
        }
    }

    /// Applies what narrows a random choice down.
    pub fn narrow(&self, candidates: &mut Candidates) {
        for processor in ALL.iter().filter(|p| (p.wanted)(self)) {
            if let Apply::Candidates(apply) = processor.apply {
                apply(candidates, self);
            }
        }
    }
}

/// Whether a setting lies in its range, both ends included.
fn range(field: &'static str, value: f32, range: RangeInclusive<f32>) -> Result<(), Unfit> {
    let message = || match (*range.start(), *range.end()) {
        (start, f32::MAX) => format!("`{field}` must be {start} or more, but is {value}"),
        (start, end) => format!("`{field}` must be from {start} to {end}, but is {value}"),
    };
    if range.contains(&value) { Ok(()) } else { Err(Unfit { field, message: message() }) }
}

/// Whether a setting lies in its range, the lower end excluded.
fn range_above(field: &'static str, value: f32, range: RangeInclusive<f32>) -> Result<(), Unfit> {
    let message = || match (*range.start(), *range.end()) {
        (start, f32::MAX) => format!("`{field}` must be above {start}, but is {value}"),
        (start, end) => format!("`{field}` must be above {start} and at most {end}, but is {value}"),
    };
    let inside = value > *range.start() && value <= *range.end();
    if inside { Ok(()) } else { Err(Unfit { field, message: message() }) }
}

/// Whether the model knows a token.
fn check_token(field: &'static str, token: u32, vocab_size: usize) -> Result<(), Unfit> {
    match (token as usize) < vocab_size {
        true => Ok(()),
        false => {
            let message = format!("`{field}` names the token {token}, but the model knows only {vocab_size}");
            Err(Unfit { field, message })
        }
    }
}
