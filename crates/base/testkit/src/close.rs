//! Comparison of numbers within a tolerance.

/// Panics unless `|got - want| <= atol + rtol |want|` everywhere; names the worst place and both values.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f32], atol: f32, rtol: f32) {
    assert_eq!(got.len(), want.len(), "{what}: {} values, {} expected", got.len(), want.len());
    let allowed = |w: f32| f64::from(atol) + f64::from(rtol) * f64::from(w).abs();
    let wrong = |(g, w): (&f32, &f32)| {
        // A NaN on either side is never close; equal infinities are.
        let error = (f64::from(*g) - f64::from(*w)).abs();
        g != w && (!error.is_finite() || error > allowed(*w))
    };
    let count = got.iter().zip(want).filter(|&pair| wrong(pair)).count();
    if count == 0 {
        return;
    }
    let first = got.iter().zip(want).position(wrong).unwrap();
    let (worst, error) = largest_error(got, want);
    panic!(
        "{what}: {count} of {} values differ by more than {atol:e} + {rtol:e} |want|; \
         first at [{first}]: got {}, want {}; largest error {error:e} at [{worst}]: got {}, want {}",
        got.len(),
        got[first],
        want[first],
        got[worst],
        want[worst],
    );
}

/// The index and size of the largest absolute difference; a NaN on one side counts as infinite.
pub fn largest_error(got: &[f32], want: &[f32]) -> (usize, f64) {
    let mut worst = (0, 0.0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = if g == w { 0.0 } else { (f64::from(*g) - f64::from(*w)).abs() };
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > worst.1 {
            worst = (i, error);
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_within_tolerance_pass() {
        assert_close("near", &[1.0, 2.0, f32::INFINITY], &[1.05, 2.1, f32::INFINITY], 0.0, 0.06);
    }

    #[test]
    #[should_panic(expected = "first at [1]: got 2, want 3; largest error 5e0 at [2]")]
    fn the_first_and_the_worst_value_are_named() {
        assert_close("far", &[1.0, 2.0, 4.0], &[1.0, 3.0, 9.0], 0.1, 0.0);
    }

    #[test]
    #[should_panic(expected = "1 of 1 values differ")]
    fn a_number_is_never_close_to_infinity() {
        assert_close("infinity", &[1.0], &[f32::INFINITY], 1.0, 1.0);
    }

    #[test]
    #[should_panic(expected = "1 of 2 values differ")]
    fn nan_is_never_close() {
        assert_close("nan", &[f32::NAN, 1.0], &[0.0, 1.0], 1e9, 0.0);
    }
}
