//! OpenAI's penalty on tokens that the answer already holds, however often; see the frequency penalty.

use super::{Apply, History, Processor, range};
use crate::SamplingParams;

pub const PRESENCE_PENALTY: Processor = Processor {
    name: "presence_penalty",
    about: "is taken from the logit of each token that was generated",
    wanted: |params| params.presence_penalty != 0.0,
    check: |params, _| range("presence_penalty", params.presence_penalty, -2.0..=2.0),
    apply: Apply::Logits(presence_penalty),
};

fn presence_penalty(logits: &mut [f32], params: &SamplingParams, history: &History<'_>) {
    for (id, _) in history.counts() {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit -= params.presence_penalty;
        }
    }
}
