//! Makes tokens that have occurred, in the prompt or since, less likely (Keskar et al. 2019, CTRL).

use super::{Apply, History, Processor, range_above};
use crate::SamplingParams;

pub const REPETITION_PENALTY: Processor = Processor {
    name: "repetition_penalty",
    about: "divides positive logits of tokens that occurred, and multiplies negative ones; 1 changes nothing",
    wanted: |params| params.repetition_penalty != 1.0,
    check: |params, _| range_above("repetition_penalty", params.repetition_penalty, 0.0..=f32::MAX),
    apply: Apply::Logits(repetition_penalty),
};

fn repetition_penalty(logits: &mut [f32], params: &SamplingParams, history: &History<'_>) {
    let penalty = params.repetition_penalty;
    let known = || history.ids.iter().map(|id| *id as usize).filter(|id| *id < logits.len());
    let lowered =
        known().map(|id| (id, logits[id])).map(|(id, l)| (id, if l < 0.0 { l * penalty } else { l / penalty }));
    // All are read before one is written: a token that occurs twice pays once.
    for (id, logit) in lowered.collect::<Vec<_>>() {
        logits[id] = logit;
    }
}
