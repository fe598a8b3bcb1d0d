//! OpenAI's penalties on what the answer already holds: `logit - count · frequency - (count > 0) · presence`, where `count`
//! is how often the token was generated; the prompt does not count.

use super::{Apply, History, Processor, range};
use crate::SamplingParams;

pub const FREQUENCY_PENALTY: Processor = Processor {
    name: "frequency_penalty",
    about: "is taken from a token's logit for each time that it was generated",
    wanted: |params| params.frequency_penalty != 0.0,
    check: |params, _| range("frequency_penalty", params.frequency_penalty, -2.0..=2.0),
    apply: Apply::Logits(frequency_penalty),
};

fn frequency_penalty(logits: &mut [f32], params: &SamplingParams, history: &History<'_>) {
    for (id, count) in history.counts() {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit -= count as f32 * params.frequency_penalty;
        }
    }
}
