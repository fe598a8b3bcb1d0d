//! Keeps the tokens whose surprise is closest to the expected one (Meister et al. 2022, locally typical sampling).

use super::candidates::reaching;
use super::{Apply, Candidates, Processor, range_above};
use crate::SamplingParams;

pub const TYPICAL_P: Processor = Processor {
    name: "typical_p",
    about: "keeps the tokens of most typical surprise whose probabilities add up to this; 1 keeps all",
    wanted: |params| params.typical_p < 1.0,
    check: |params, _| range_above("typical_p", params.typical_p, 0.0..=1.0),
    apply: Apply::Candidates(typical_p),
};

fn typical_p(candidates: &mut Candidates, params: &SamplingParams) {
    let entropy = candidates.entropy();
    // How far a token's surprise is from the entropy, and its probability.
    let mut shifts: Vec<(f64, f64)> =
        candidates.log_probabilities().map(|log| ((-log - entropy).abs(), log.exp())).collect();
    let all = shifts.clone();
    let Some((last, _)) = reaching(f64::from(params.typical_p), &mut shifts, f64::total_cmp) else { return };
    let mut all = all.into_iter();
    candidates.list.retain(|_| all.next().is_some_and(|(shift, _)| shift <= last));
}
