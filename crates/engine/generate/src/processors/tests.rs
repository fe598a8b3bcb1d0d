#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::collections::BTreeMap;

use cupola_nn::Rng;
use cupola_testkit::{Golden, assert_close};

use super::candidates::{best, likelier, reaching};
use super::*;

/// What the settings make of logits; removed tokens are minus infinity.
fn applied(params: &SamplingParams, logits: &[f32], history: &History<'_>) -> Vec<f32> {
    let mut logits = logits.to_vec();
    params.process(&mut logits, history);
    let mut candidates = Candidates::new(&logits);
    params.narrow(&mut candidates);
    logits.fill(f32::NEG_INFINITY);
    candidates.list.iter().for_each(|c| logits[c.token as usize] = c.logit);
    logits
}

#[test]
fn every_processor_equals_transformers() {
    let golden = Golden::load("sampling");
    let (_, ids) = golden.i64("in.ids");
    let (shape, logits) = golden.f32("in.logits");
    let (rows, vocab) = (shape[0], shape[1]);
    let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    let base = SamplingParams::default;
    let cases = [
        ("temperature", SamplingParams { temperature: 0.7, ..base() }),
        ("top_k", SamplingParams { top_k: 5, ..base() }),
        ("top_p", SamplingParams { top_p: 0.8, ..base() }),
        ("min_p", SamplingParams { min_p: 0.1, ..base() }),
        ("typical_p", SamplingParams { typical_p: 0.6, ..base() }),
        ("epsilon", SamplingParams { epsilon_cutoff: 0.03, ..base() }),
        ("eta", SamplingParams { eta_cutoff: 0.05, ..base() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 1.3, ..base() }),
        ("no_repeat_ngram", SamplingParams { no_repeat_ngram_size: 1, ..base() }),
        ("top_h", SamplingParams { top_h: 0.5, ..base() }),
    ];
    for (name, params) in &cases {
        params.check(vocab).unwrap();
        let (_, want) = golden.f32(name);
        let per_row = ids.len() / rows;
        for row in 0..rows {
            let history = History { ids: &ids[row * per_row..][..per_row], prompt: per_row, ..Default::default() };
            let got = applied(params, &logits[row * vocab..][..vocab], &history);
            compare(&golden, name, &got, &want[row * vocab..][..vocab]);
        }
    }
    // The fixture holds no other processor.
    let known = |name: &str| cases.iter().any(|(case, _)| *case == name);
    let names = golden.names();
    assert!(names.iter().all(|name| known(name) || name.starts_with("in.") || name.starts_with("beam.")), "{names:?}");
}

#[test]
fn processors_one_after_another_equal_transformers() {
    let golden = Golden::load("generation");
    let (shape, ids) = golden.i64("in.ids");
    let (_, logits) = golden.f32("in.logits");
    let (rows, width, vocab) = (shape[0], shape[1], logits.len() / shape[0]);
    let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    let prompt = golden.info["prompt"].as_u64().unwrap() as usize;
    let stop_ids: Vec<u32> = serde_json::from_value(golden.info["stop_ids"].clone()).unwrap();
    let cases = golden.info["processors"].as_array().unwrap();
    assert!(cases.len() > 10);
    for (number, case) in cases.iter().enumerate() {
        let params: SamplingParams = serde_json::from_value(case.clone()).unwrap();
        params.check(vocab).unwrap();
        let name = format!("processors.{number}");
        let (_, want) = golden.f32(&name);
        for row in 0..rows {
            let history = History { ids: &ids[row * width..][..width], prompt, stop_ids: &stop_ids };
            let got = applied(&params, &logits[row * vocab..][..vocab], &history);
            compare(&golden, &format!("{name} {case}, row {row}"), &got, &want[row * vocab..][..vocab]);
        }
    }
}

/// The same tokens are removed, and the others' logits are the same.
fn compare(golden: &Golden, name: &str, got: &[f32], want: &[f32]) {
    let (atol, rtol) = golden.tolerance(name);
    let removed = |values: &[f32]| values.iter().map(|v| *v == f32::NEG_INFINITY).collect::<Vec<_>>();
    assert_eq!(removed(got), removed(want), "{name}");
    let kept = |values: &[f32]| values.iter().copied().filter(|v| v.is_finite()).collect::<Vec<_>>();
    assert_close(name, &kept(got), &kept(want), atol, rtol);
}

fn history<'a>(ids: &'a [u32], prompt: usize) -> History<'a> {
    History { ids, prompt, stop_ids: &[3] }
}

const GONE: f32 = f32::NEG_INFINITY;

#[test]
fn penalties_count_what_was_generated_and_not_the_prompt() {
    let logits = [1.0, 2.0, -1.0, 4.0, 0.0];
    let past = history(&[0, 2, 1, 1, 2, 1], 2);
    let params = SamplingParams { frequency_penalty: 0.5, presence_penalty: 0.25, ..Default::default() };
    assert_eq!(applied(&params, &logits, &past), [1.0, 2.0 - 1.5 - 0.25, -1.0 - 0.5 - 0.25, 4.0, 0.0]);
    let params = SamplingParams { repetition_penalty: 2.0, ..Default::default() };
    assert_eq!(applied(&params, &logits, &past), [0.5, 1.0, -2.0, 4.0, 0.0]);
}

#[test]
fn an_ngram_is_not_repeated() {
    let logits = [0.0; 5];
    let with = |n, ids: &[u32]| {
        let params = SamplingParams { no_repeat_ngram_size: n, ..Default::default() };
        applied(&params, &logits, &history(ids, 0))
    };
    assert_eq!(with(2, &[1, 2, 3, 1]), [0.0, 0.0, GONE, 0.0, 0.0]);
    assert_eq!(with(2, &[1, 1]), [0.0, GONE, 0.0, 0.0, 0.0]);
    assert_eq!(with(3, &[1, 2, 3, 4, 1, 2]), [0.0, 0.0, 0.0, GONE, 0.0]);
    assert_eq!(with(3, &[1, 2]), logits);
    assert_eq!(with(9, &[]), logits);
}

#[test]
fn bad_words_lose_their_last_token_where_the_others_stand() {
    let params =
        SamplingParams { bad_words_ids: vec![vec![4], vec![1, 2], vec![0, 1, 0], vec![3]], ..Default::default() };
    // A lone end token stays.
    assert_eq!(applied(&params, &[0.0; 5], &history(&[0, 1], 0)), [GONE, 0.0, GONE, 0.0, GONE]);
    assert_eq!(applied(&params, &[0.0; 5], &history(&[], 0)), [0.0, 0.0, 0.0, 0.0, GONE]);
}

#[test]
fn ends_wait_and_forced_tokens_come_in_their_place() {
    let params = SamplingParams {
        min_tokens: 2,
        max_tokens: 4,
        forced_first_token: Some(1),
        forced_last_token: Some(2),
        ..Default::default()
    };
    let at = |generated: usize| applied(&params, &[5.0; 4], &history(&[0; 7][..3 + generated], 3));
    assert_eq!(at(0), [GONE, 0.0, GONE, GONE]);
    assert_eq!(at(1), [5.0, 5.0, 5.0, GONE]);
    assert_eq!(at(2), [5.0; 4]);
    assert_eq!(at(3), [GONE, GONE, 0.0, GONE]);
}

#[test]
fn biases_are_added_and_apply_before_what_narrows_down() {
    let params = SamplingParams { logit_bias: BTreeMap::from([(0, 3.0), (2, -100.0)]), top_k: 2, ..Default::default() };
    assert_eq!(applied(&params, &[0.0, 1.0, 2.0], &history(&[], 0)), [3.0, 1.0, GONE]);
}

#[test]
fn the_likeliest_token_always_stays() {
    let base = SamplingParams::default;
    for params in [
        SamplingParams { top_k: 1, ..base() },
        SamplingParams { top_p: 0.0, ..base() },
        SamplingParams { min_p: 1.0, ..base() },
        SamplingParams { top_h: 1e-6, ..base() },
        SamplingParams { typical_p: 1.0, top_k: 1, ..base() },
        SamplingParams { epsilon_cutoff: 1.0, ..base() },
    ] {
        for logits in [vec![0.5], vec![1.0, 3.0, 2.0], (0..300).map(|i| (i * 37 % 300) as f32 * 0.01).collect()] {
            let got = applied(&params, &logits, &History::default());
            let max = logits.iter().fold(GONE, |m, l| m.max(*l));
            let want: Vec<f32> = logits.iter().map(|l| if *l == max { *l } else { GONE }).collect();
            assert_eq!(got, want, "{params:?}");
        }
    }
}

/// Logits in steps of an eighth, so that many are equal.
fn random_logits(rng: &mut Rng, n: usize) -> Vec<f32> {
    rng.normal(n, 2.0).into_iter().map(|l| (l * 8.0).round() / 8.0).collect()
}

#[test]
fn selections_equal_a_sort_of_all() {
    let mut rng = Rng::new(5, "selections");
    for n in [1, 2, 3, 7, 100, 1013] {
        for round in 0..20 {
            let all = Candidates::new(&random_logits(&mut rng, n)).list;
            let mut sorted = all.clone();
            sorted.sort_by(likelier);
            let count = round * n / 16;
            assert_eq!(best(count, all.iter().copied(), likelier), sorted[..count.min(n)]);
            let weight = |c: &Candidate| f64::from(c.logit.exp());
            let total: f64 = all.iter().map(weight).sum();
            let need = total * rng.uniform();
            let mut sum = 0.0;
            let want = sorted.iter().find(|c| {
                sum += weight(c);
                sum >= need
            });
            let mut weighed: Vec<_> = all.iter().map(|c| (*c, weight(c))).collect();
            assert_eq!(reaching(need, &mut weighed, likelier).map(|found| found.0), want.copied());
            assert_eq!(reaching(2.0 * total, &mut weighed, likelier).map(|found| found.0), sorted.last().copied());
        }
    }
    assert_eq!(reaching::<u8>(1.0, &mut [], u8::cmp), None);
}

#[test]
fn a_nucleus_is_the_smallest_set_that_reaches_its_share() {
    let mut rng = Rng::new(6, "nucleus");
    for n in [2, 5, 1000] {
        let logits = random_logits(&mut rng, n);
        for top_p in [0.1, 0.5, 0.9, 0.999] {
            let all = Candidates::new(&logits);
            let probabilities: Vec<f64> = all.log_probabilities().map(f64::exp).collect();
            let mut kept = all.clone();
            SamplingParams { top_p, ..Default::default() }.narrow(&mut kept);
            let share = |list: &[Candidate]| list.iter().map(|c| probabilities[c.token as usize]).sum::<f64>();
            kept.list.sort_by(likelier);
            assert!(share(&kept.list) >= f64::from(top_p) - 1e-9);
            assert!(share(&kept.list[..kept.list.len() - 1]) < f64::from(top_p));
        }
    }
}

#[test]
fn settings_out_of_range_are_told_with_field_range_and_value() {
    let base = SamplingParams::default;
    base().check(1).unwrap();
    for (params, field, message) in [
        (SamplingParams { temperature: -0.5, ..base() }, "temperature", "`temperature` must be 0 or more, but is -0.5"),
        (SamplingParams { temperature: f32::NAN, ..base() }, "temperature", "NaN"),
        (SamplingParams { temperature: f32::INFINITY, ..base() }, "temperature", "inf"),
        (SamplingParams { top_p: 1.5, ..base() }, "top_p", "`top_p` must be from 0 to 1, but is 1.5"),
        (SamplingParams { min_p: -0.1, ..base() }, "min_p", "from 0 to 1"),
        (SamplingParams { typical_p: 0.0, ..base() }, "typical_p", "above 0 and at most 1, but is 0"),
        (SamplingParams { top_h: 2.0, ..base() }, "top_h", "above 0 and at most 1, but is 2"),
        (SamplingParams { epsilon_cutoff: 7.0, ..base() }, "epsilon_cutoff", "from 0 to 1"),
        (SamplingParams { eta_cutoff: -1.0, ..base() }, "eta_cutoff", "from 0 to 1"),
        (SamplingParams { repetition_penalty: 0.0, ..base() }, "repetition_penalty", "above 0"),
        (SamplingParams { frequency_penalty: 2.5, ..base() }, "frequency_penalty", "from -2 to 2, but is 2.5"),
        (SamplingParams { presence_penalty: f32::NAN, ..base() }, "presence_penalty", "from -2 to 2"),
        (SamplingParams { logit_bias: BTreeMap::from([(1, 101.0)]), ..base() }, "logit_bias", "from -100 to 100"),
        (SamplingParams { logit_bias: BTreeMap::from([(9, 1.0)]), ..base() }, "logit_bias", "knows only 9"),
        (SamplingParams { bad_words_ids: vec![vec![]], ..base() }, "bad_words_ids", "no tokens"),
        (SamplingParams { bad_words_ids: vec![vec![1, 9]], ..base() }, "bad_words_ids", "the token 9"),
        (SamplingParams { forced_last_token: Some(9), ..base() }, "forced_last_token", "the token 9"),
        (SamplingParams { min_tokens: 300, ..base() }, "min_tokens", "from 0 to `max_tokens` (256), but is 300"),
    ] {
        let unfit = params.check(9).unwrap_err();
        assert_eq!(unfit.field, field);
        assert!(unfit.message.contains(message), "{}", unfit.message);
    }
}

#[test]
fn settings_that_look_at_the_text_apply_before_those_that_narrow_down() {
    let narrows = |p: &Processor| matches!(p.apply, Apply::Candidates(_));
    assert!(ALL.is_sorted_by_key(narrows));
    let plain = SamplingParams::default();
    assert!(ALL.iter().all(|p| !(p.wanted)(&plain) && !p.about.is_empty()));
}

#[test]
fn biases_are_read_by_token_and_written_again() {
    let want = BTreeMap::from([(5, -1.0), (11, 2.5)]);
    let json: SamplingParams = serde_json::from_str(r#"{"logit_bias": {"5": -1, "11": 2.5}}"#).unwrap();
    assert_eq!(json.logit_bias, want);
    let again: SamplingParams = serde_json::from_str(&serde_json::to_string(&json).unwrap()).unwrap();
    assert_eq!(again, json);
    assert!(serde_json::from_str::<SamplingParams>(r#"{"logit_bias": {"a": 1}}"#).is_err());
}
