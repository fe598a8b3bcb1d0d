#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use super::*;

/// Logits whose softmax is exactly `[1, 2, 4, 1] / 8`.
fn logits() -> Vec<f32> {
    [1.0_f32, 2.0, 4.0, 1.0].iter().map(|p| p.ln()).collect()
}

fn check(temperature: f32, top_k: usize, top_p: f32, want: &[(u32, f64)]) {
    let params = SamplingParams { temperature, top_k, top_p, ..Default::default() };
    let got = Sampler::new(&params, 0).distribution(&logits()).unwrap();
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
    check(1.0, 2, 1.0, &[(1, 1.0 / 3.0), (2, 2.0 / 3.0)]);
    // What is as likely as the last of the k stays.
    check(1.0, 3, 1.0, &[(0, 0.125), (1, 0.25), (2, 0.5), (3, 0.125)]);
    check(1.0, 0, 0.5, &[(2, 1.0)]);
    check(1.0, 0, 0.51, &[(1, 1.0 / 3.0), (2, 2.0 / 3.0)]);
    // Of equals, the lower id is kept.
    check(1.0, 0, 0.8, &[(0, 1.0 / 7.0), (1, 2.0 / 7.0), (2, 4.0 / 7.0)]);
    check(1.0, 0, 0.0, &[(2, 1.0)]);
    // top_p counts within what top_k kept: 2/3 reaches 0.6.
    check(1.0, 2, 0.6, &[(2, 1.0)]);
    check(1.0, 9, 1.0, &[(0, 0.125), (1, 0.25), (2, 0.5), (3, 0.125)]);
}

#[test]
fn temperature_zero_takes_the_largest_and_of_equals_the_lowest_id() {
    let mut sampler = Sampler::new(&SamplingParams { temperature: 0.0, ..Default::default() }, 1);
    assert_eq!(sampler.sample(&[0.0, 3.0, 3.0, -1.0]).unwrap(), 1);
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -5.0]).unwrap(), 1);
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
fn logits_that_are_no_numbers_are_an_error_whatever_the_settings() {
    let narrow = SamplingParams {
        top_k: 3,
        top_p: 0.9,
        top_h: 0.5,
        typical_p: 0.5,
        eta_cutoff: 0.1,
        repetition_penalty: 2.0,
        ..Default::default()
    };
    let greedy = SamplingParams { temperature: 0.0, ..Default::default() };
    for params in [SamplingParams::default(), narrow, greedy] {
        let mut sampler = Sampler::new(&params, 0);
        for bad in [&[0.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 2], &[]] {
            let error = sampler.sample(bad).unwrap_err();
            assert!(error.chain().contains("not finite"), "{bad:?}: {}", error.chain());
        }
        // Numbers as far apart as they can be are numbers still.
        assert_eq!(sampler.sample(&[f32::MIN, f32::MAX, -1.0]).unwrap(), 1);
    }
}

#[test]
fn settings_that_remove_every_token_are_an_error() {
    let params = SamplingParams { bad_words_ids: vec![vec![0], vec![1]], ..Default::default() };
    for temperature in [0.0, 1.0] {
        let mut sampler = Sampler::new(&SamplingParams { temperature, ..params.clone() }, 0);
        assert!(sampler.sample(&[1.0, 2.0]).unwrap_err().chain().contains("leave no token"));
        assert_eq!(sampler.sample(&[1.0, 2.0, 0.0]).unwrap(), 2);
    }
}

#[test]
fn a_sampler_remembers_the_prompt_and_what_it_chose() {
    let params = SamplingParams { temperature: 0.0, no_repeat_ngram_size: 1, ..Default::default() };
    let mut sampler = Sampler::new(&params, 0).with_prompt(&[2], &[]);
    let chosen: Vec<u32> = (0..3).map(|_| sampler.sample(&logits()).unwrap()).collect();
    assert_eq!(chosen, [1, 0, 3]);
    assert!(sampler.sample(&logits()).is_err());
}
