//! The choice of the next token.

use cupola_nn::Rng;

use crate::SamplingParams;

/// Chooses one sequence's tokens. The n-th choice depends on the logits, the settings, the seed and n alone, so not on
/// what else is generated at the same time.
#[derive(Clone, Debug)]
pub struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    rng: Rng,
}

impl Sampler {
    /// A sampler for one sequence.
    pub fn new(params: &SamplingParams, seed: u64) -> Self {
        let SamplingParams { temperature, top_k, top_p, .. } = *params;
        Self { temperature, top_k, top_p, rng: Rng::new(seed, "sample") }
    }

    /// The next token; `None` when the logits are not numbers to choose by.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        // Always one draw, so that the n-th choice takes the n-th number.
        let draw = self.rng.uniform();
        let likeliest = argmax(logits)?;
        if self.temperature <= 0.0 {
            return Some(likeliest);
        }
        let kept = distribution(logits, self.temperature, self.top_k, self.top_p)?;
        let mut sum = 0.0;
        for (token, probability) in &kept {
            sum += probability;
            if draw < sum {
                return Some(*token);
            }
        }
        // Rounding may leave the sum a little under one.
        kept.iter().rev().find(|(_, p)| *p > 0.0).map(|(token, _)| *token)
    }
}

/// The token with the largest logit, the lowest id where several have it; `None` when there is none or one is NaN.
fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, b)| logit > b) {
            best = Some((i, logit));
        }
    }
    best.filter(|(_, b)| b.is_finite()).map(|(i, _)| i as u32)
}

/// The tokens that may be chosen and their probabilities: `softmax(logits / temperature)`, of it the `top_k` most
/// likely tokens (0: all), of those the smallest set whose share reaches `top_p` (Holtzman et al. 2020), the same order
/// as in transformers. Most likely first when anything was cut, else by id. `None` when the logits are not finite.
pub fn distribution(logits: &[f32], temperature: f32, top_k: usize, top_p: f32) -> Option<Vec<(u32, f64)>> {
    let max = logits[argmax(logits)? as usize];
    let weight = |logit: f32| (f64::from(logit - max) / f64::from(temperature)).exp();
    let mut kept: Vec<(u32, f64)> = logits.iter().enumerate().map(|(i, &l)| (i as u32, weight(l))).collect();
    let by_weight = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if top_k > 0 && top_k < kept.len() {
        kept.select_nth_unstable_by(top_k - 1, by_weight);
        kept.truncate(top_k);
        kept.sort_unstable_by(by_weight);
    }
    if top_p < 1.0 {
        let total: f64 = kept.iter().map(|(_, w)| w).sum();
        // The tokens below this line have less than 1 - top_p together: none of them is in the set, no need to sort
        // them.
        let line = (1.0 - f64::from(top_p)) * total / kept.len() as f64;
        kept.retain(|(_, w)| *w >= line);
        kept.sort_unstable_by(by_weight);
        let mut sum = 0.0;
        let enough = kept.iter().position(|(_, w)| {
            sum += w;
            sum >= f64::from(top_p) * total
        });
        kept.truncate(enough.map_or(kept.len(), |i| i + 1));
    }
    let total: f64 = kept.iter().map(|(_, w)| w).sum();
    kept.iter_mut().for_each(|(_, w)| *w /= total);
    Some(kept)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    /// Logits whose softmax is exactly `[1, 2, 4, 1] / 8`.
    fn logits() -> Vec<f32> {
        [1.0_f32, 2.0, 4.0, 1.0].iter().map(|p| p.ln()).collect()
    }

    fn check(temperature: f32, top_k: usize, top_p: f32, want: &[(u32, f64)]) {
        let got = distribution(&logits(), temperature, top_k, top_p).unwrap();
        assert_eq!(got.len(), want.len(), "{got:?}");
        for (g, w) in got.iter().zip(want) {
            assert!(g.0 == w.0 && (g.1 - w.1).abs() < 1e-6, "{got:?} is not {want:?}");
        }
    }

    #[test]
    fn probabilities_are_exact() {
        check(1.0, 0, 1.0, &[(0, 0.125), (1, 0.25), (2, 0.5), (3, 0.125)]);
        // Half the temperature squares the probabilities.
        check(0.5, 0, 1.0, &[(0, 1.0 / 22.0), (1, 4.0 / 22.0), (2, 16.0 / 22.0), (3, 1.0 / 22.0)]);
        check(1.0, 2, 1.0, &[(2, 2.0 / 3.0), (1, 1.0 / 3.0)]);
        // Of equals, the lower id is kept.
        check(1.0, 3, 1.0, &[(2, 4.0 / 7.0), (1, 2.0 / 7.0), (0, 1.0 / 7.0)]);
        check(1.0, 0, 0.5, &[(2, 1.0)]);
        check(1.0, 0, 0.51, &[(2, 2.0 / 3.0), (1, 1.0 / 3.0)]);
        check(1.0, 0, 0.8, &[(2, 4.0 / 7.0), (1, 2.0 / 7.0), (0, 1.0 / 7.0)]);
        check(1.0, 0, 0.0, &[(2, 1.0)]);
        // top_p counts within what top_k kept: 2/3 reaches 0.6.
        check(1.0, 2, 0.6, &[(2, 1.0)]);
        check(1.0, 9, 1.0, &[(0, 0.125), (1, 0.25), (2, 0.5), (3, 0.125)]);
    }

    #[test]
    fn temperature_zero_takes_the_largest_and_of_equals_the_lowest_id() {
        let mut sampler = Sampler::new(&SamplingParams { temperature: 0.0, ..Default::default() }, 1);
        assert_eq!(sampler.sample(&[0.0, 3.0, 3.0, -1.0]), Some(1));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -5.0]), Some(1));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let mut sampler = Sampler::new(&SamplingParams::default(), 7);
        let mut counts = [0_u32; 4];
        (0..8000).for_each(|_| counts[sampler.sample(&logits()).unwrap() as usize] += 1);
        // Four standard deviations of a binomial count.
        for (count, p) in counts.iter().zip([0.125, 0.25, 0.5, 0.125]) {
            let (mean, deviation) = (8000.0 * p, (8000.0_f64 * p * (1.0 - p)).sqrt());
            assert!((f64::from(*count) - mean).abs() < 4.0 * deviation, "{counts:?}");
        }
    }

    #[test]
    fn the_same_seed_repeats_and_another_does_not() {
        let run = |seed| {
            let mut sampler = Sampler::new(&SamplingParams::default(), seed);
            (0..64).map(|_| sampler.sample(&logits()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }

    #[test]
    fn logits_that_are_no_numbers_are_not_sampled() {
        let mut sampler = Sampler::new(&SamplingParams::default(), 0);
        for bad in [&[0.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 2], &[]] {
            assert_eq!(sampler.sample(bad), None, "{bad:?}");
        }
    }
}
