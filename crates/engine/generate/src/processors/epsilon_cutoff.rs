//! Removes tokens below a fixed probability (Hewitt et al. 2022, epsilon sampling); the likeliest stays.

use super::{Apply, Candidates, Processor, range};
use crate::SamplingParams;

pub const EPSILON_CUTOFF: Processor = Processor {
    name: "epsilon_cutoff",
    about: "removes tokens with a smaller probability; 0 keeps all",
    wanted: |params| params.epsilon_cutoff > 0.0,
    check: |params, _| range("epsilon_cutoff", params.epsilon_cutoff, 0.0..=1.0),
    apply: Apply::Candidates(epsilon_cutoff),
};

fn epsilon_cutoff(candidates: &mut Candidates, params: &SamplingParams) {
    candidates.keep_above(f64::from(params.epsilon_cutoff));
}
