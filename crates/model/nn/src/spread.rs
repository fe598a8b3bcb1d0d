//! Fresh parameters of recurrences: numbers spread over a range instead of drawn from it, so that few channels cover it, too.

/// The `i`-th of numbers that fill [0, 1) evenly however many there are: multiples of the golden ratio.
fn even(i: usize) -> f64 {
    (0.5 + i as f64 * 0.618_033_988_749_894_9).fract()
}

/// What `log(1 + e^x)` turns into a step between 0.001 and 0.1, evenly in its logarithm (Gu and Dao 2023).
pub(crate) fn time_step(i: usize) -> f32 {
    let step = (0.001_f64.ln() + even(i) * (0.1_f64 / 0.001).ln()).exp();
    (step + (-(-step).exp_m1()).ln()) as f32
}

/// The λ whose `e^{-log(1 + e^λ)}` has a square between 0.9² and 0.999², evenly (De et al. 2024).
pub(crate) fn decay(i: usize) -> f32 {
    let square = 0.9_f64.powi(2) + even(i) * (0.999_f64.powi(2) - 0.9_f64.powi(2));
    (-0.5 * square.ln()).exp_m1().ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soft(x: f32) -> f64 {
        f64::from(x).exp().ln_1p()
    }

    #[test]
    fn fresh_steps_and_decays_cover_their_ranges() {
        let steps: Vec<f64> = (0..100).map(|i| soft(time_step(i))).collect();
        let decays: Vec<f64> = (0..100).map(|i| (-soft(decay(i))).exp()).collect();
        for (values, low, middle, high) in [(steps, 0.001, 0.01, 0.1), (decays, 0.9, 0.951, 0.999)] {
            assert!(values.iter().all(|v| (low * 0.9999..high * 1.0001).contains(v)));
            let below = values.iter().filter(|v| **v < middle).count();
            assert!((45..=55).contains(&below), "{below} of 100 are below {middle}");
        }
    }
}
