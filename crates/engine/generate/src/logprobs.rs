//! How likely the model finds tokens.

use cupola_artifact::Result;

use crate::TokenLogprob;
use crate::processors::best;
use crate::sampler::check_finite;

/// `logits - log Σ exp(logits)`.
///
/// # Errors
/// Logits that are not finite numbers.
pub(crate) fn log_softmax(logits: &[f32]) -> Result<Vec<f32>> {
    check_finite(logits)?;
    let max = f64::from(logits.iter().fold(f32::NEG_INFINITY, |max, l| max.max(*l)));
    let sum = max + logits.iter().map(|l| (f64::from(*l) - max).exp()).sum::<f64>().ln();
    Ok(logits.iter().map(|l| (f64::from(*l) - sum) as f32).collect())
}

/// The log-probability of a token and of the `count` likeliest.
///
/// # Errors
/// As [`log_softmax`].
pub(crate) fn token_logprob(logits: &[f32], token: u32, count: usize) -> Result<TokenLogprob> {
    let all = log_softmax(logits)?;
    let by_token = all.iter().enumerate().map(|(i, logprob)| (i as u32, *logprob));
    let top = best(count, by_token, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let logprob = all.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    Ok(TokenLogprob { token, logprob, top })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_of_equals_the_lower_id() {
        let logits: Vec<f32> = [1.0_f32, 2.0, 4.0, 1.0].iter().map(|p| p.ln() + 50.0).collect();
        let told = token_logprob(&logits, 3, 3).unwrap();
        let close = |a: f32, p: f32| (a - p.ln()).abs() < 1e-5;
        assert!(told.token == 3 && close(told.logprob, 0.125));
        assert_eq!(told.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [2, 1, 0]);
        assert!(told.top.iter().zip([0.5, 0.25, 0.125]).all(|((_, l), p)| close(*l, p)));
        assert_eq!(token_logprob(&logits, 0, 9).unwrap().top.len(), 4);
        assert!(token_logprob(&logits, 0, 0).unwrap().top.is_empty());
        assert!(token_logprob(&[f32::NAN], 0, 1).is_err());
    }
}
