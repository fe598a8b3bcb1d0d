//! `softmax(logits / temperature)`: below 1 sharper, above 1 flatter.

use super::{Apply, Candidates, Processor, range};
use crate::SamplingParams;

pub const TEMPERATURE: Processor = Processor {
    name: "temperature",
    about: "divides the logits; 0 takes the likeliest token",
    wanted: |params| params.temperature != 1.0,
    check: |params, _| range("temperature", params.temperature, 0.0..=f32::MAX),
    apply: Apply::Candidates(temperature),
};

fn temperature(candidates: &mut Candidates, params: &SamplingParams) {
    candidates.list.iter_mut().for_each(|c| c.logit /= params.temperature);
}
