//! Removes tokens below a probability that falls with the entropy (Hewitt et al. 2022, eta sampling); the likeliest
//! stays.

use super::{Apply, Candidates, Processor, range};
use crate::SamplingParams;

pub const ETA_CUTOFF: Processor = Processor {
    name: "eta_cutoff",
    about: "removes tokens less probable than min(eta, sqrt(eta) · exp(-entropy)); 0 keeps all",
    wanted: |params| params.eta_cutoff > 0.0,
    check: |params, _| range("eta_cutoff", params.eta_cutoff, 0.0..=1.0),
    apply: Apply::Candidates(eta_cutoff),
};

fn eta_cutoff(candidates: &mut Candidates, params: &SamplingParams) {
    let eta = f64::from(params.eta_cutoff);
    candidates.keep_above(eta.min(eta.sqrt() * (-candidates.entropy()).exp()));
}
