#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use cupola_arch::Model;
use cupola_artifact::Class;
use cupola_testkit::{Golden, TempDir, fixture, tiny_llama_dir};
use serde_json::Value;

use super::*;
use crate::CachedBeams;

#[test]
fn beams_of_llama_equal_transformers() {
    let golden = Golden::load("sampling");
    let decoder = Model::load(&fixture("llama"), &cupola_ops::open("cpu").unwrap()).unwrap().decoder().unwrap().clone();
    let (shape, ids) = golden.i64("beam.llama.prompt");
    let prompts: Vec<Vec<u32>> = ids.chunks(shape[1]).map(|p| p.iter().map(|id| *id as u32).collect()).collect();
    let (full, sequences) = golden.i64("beam.llama.sequences");
    let (_, scores) = golden.f32("beam.llama.scores");
    let params = SamplingParams { max_tokens: 8, ..Default::default() };
    let options = BeamOptions { beams: 3, returned: 3, stop_ids: vec![2], params, ..Default::default() };
    let together = beam_search(&mut CachedBeams::new(&decoder), &prompts, &options).unwrap();
    let (atol, rtol) = golden.tolerance("beam.llama.scores");
    for (beam, (want, score)) in together.concat().iter().zip(sequences.chunks(full[1]).zip(&scores)) {
        assert_ids(&beam.ids, &want[shape[1]..], "llama");
        assert!((beam.score as f32 - score).abs() <= atol + rtol * score.abs(), "{} is not {score}", beam.score);
    }
    assert_eq!(together.concat().len(), scores.len());
    for (prompt, found) in prompts.iter().zip(&together) {
        let alone = beam_search(&mut CachedBeams::new(&decoder), std::slice::from_ref(prompt), &options).unwrap();
        let ids = |beams: &[Beam]| beams.iter().map(|b| b.ids.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&alone[0]), ids(found));
    }
}

/// The same tokens; what follows an end is filled up with one token.
fn assert_ids(got: &[u32], want: &[i64], name: &str) {
    let got: Vec<i64> = got.iter().map(|id| i64::from(*id)).collect();
    assert_eq!(got, want[..got.len()], "{name}");
    assert!(want[got.len()..].windows(2).all(|pair| pair[0] == pair[1]), "{name}: {got:?} ends before {want:?}");
}

/// Reads a case of the fixture `generation`.
fn options_of(case: &Value) -> BeamOptions {
    let mut rest = case.clone();
    let mut take = |name: &str| rest.as_object_mut().unwrap().remove(name).unwrap();
    let size = |value: Value| value.as_u64().unwrap() as usize;
    let (beams, returned) = (size(take("beams")), size(take("returned")));
    let length_penalty = take("length_penalty").as_f64().unwrap();
    let early_stopping = match take("early_stopping") {
        Value::Bool(false) => EarlyStopping::Likely,
        Value::Bool(true) => EarlyStopping::AtOnce,
        never => {
            assert_eq!(never, "never");
            EarlyStopping::Never
        }
    };
    let stop_ids = serde_json::from_value(take("stop_ids")).unwrap();
    let params = serde_json::from_value(rest).unwrap();
    BeamOptions { beams, returned, length_penalty, early_stopping, stop_ids, params }
}

#[test]
fn beams_with_many_settings_equal_transformers() {
    let golden = Golden::load("generation");
    let decoder = Model::load(&fixture("llama"), &cupola_ops::open("cpu").unwrap()).unwrap().decoder().unwrap().clone();
    let (shape, ids) = golden.i64("beam.prompt");
    let prompts: Vec<Vec<u32>> = ids.chunks(shape[1]).map(|p| p.iter().map(|id| *id as u32).collect()).collect();
    let cases = golden.info["beams"].as_array().unwrap();
    assert!(cases.len() > 50);
    for (number, case) in cases.iter().enumerate() {
        let found = beam_search(&mut CachedBeams::new(&decoder), &prompts, &options_of(case)).unwrap().concat();
        let (full, sequences) = golden.i64(&format!("beam.{number}.sequences"));
        let (_, scores) = golden.f32(&format!("beam.{number}.scores"));
        assert_eq!(found.len(), scores.len());
        for (beam, (want, score)) in found.iter().zip(sequences.chunks(full[1]).zip(&scores)) {
            assert_ids(&beam.ids, &want[shape[1]..], &case.to_string());
            assert!((beam.score as f32 - score).abs() <= 1e-4 + 1e-5 * score.abs(), "{case}: {} {score}", beam.score);
        }
    }
}

/// The log-probability of each token depends on the token before and on how many precede.
struct Table {
    vocab: usize,
    /// Sequences seen at each step.
    steps: Vec<usize>,
}

impl Table {
    fn new(vocab: usize) -> Self {
        Self { vocab, steps: vec![] }
    }

    fn row(&self, ids: &[u32]) -> Vec<f32> {
        let (last, n) = (ids[ids.len() - 1] as usize, ids.len());
        (0..self.vocab).map(|t| ((t * 7 + last * 13 + n * 5 + 1).pow(5) % 1009) as f32 / 250.0).collect()
    }
}

impl BeamModel for Table {
    fn next(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
        self.steps.push(sequences.len());
        Ok(sequences.iter().flat_map(|ids| self.row(ids)).collect())
    }

    fn reorder(&mut self, _: &[usize]) {}
}

/// All texts of at most `max` tokens with their scores, best first.
fn exhaustive(model: &Table, prompt: &[u32], options: &BeamOptions) -> Vec<Beam> {
    let mut open = vec![(prompt.to_vec(), 0.0)];
    let mut found = Vec::new();
    for length in 1..=options.params.max_tokens {
        let mut next = Vec::new();
        for (ids, sum) in open {
            for (token, log) in log_softmax(&model.row(&ids)).unwrap().into_iter().enumerate() {
                let (ids, sum) = ([&ids[..], &[token as u32]].concat(), sum + f64::from(log));
                if length == options.params.max_tokens || options.stop_ids.contains(&(token as u32)) {
                    let score = sum / (length as f64).powf(options.length_penalty);
                    found.push(Beam { ids: ids[prompt.len()..].to_vec(), score });
                } else {
                    next.push((ids, sum));
                }
            }
        }
        open = next;
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found
}

#[test]
fn as_many_beams_as_there_are_texts_find_the_best_ones() {
    for length_penalty in [0.0, 1.0, 2.0] {
        let params = SamplingParams { max_tokens: 4, ..Default::default() };
        let options = BeamOptions {
            beams: 300,
            returned: 5,
            length_penalty,
            early_stopping: EarlyStopping::Never,
            stop_ids: vec![0],
            params,
        };
        let prompts = [vec![1, 2], vec![3]];
        let found = beam_search(&mut Table::new(4), &prompts, &options).unwrap();
        for (prompt, found) in prompts.iter().zip(&found) {
            let want = exhaustive(&Table::new(4), prompt, &options);
            for (got, want) in found.iter().zip(&want[..5]) {
                assert_eq!(got.ids, want.ids);
                assert!((got.score - want.score).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn one_beam_is_greedy_decoding() {
    let mut model = Table::new(11);
    let params = SamplingParams { max_tokens: 12, ..Default::default() };
    let options = BeamOptions { beams: 1, params, ..Default::default() };
    let found = beam_search(&mut model, &[vec![5]], &options).unwrap();
    let mut ids = vec![5];
    for _ in 0..12 {
        let row = model.row(&ids);
        ids.push((0..11).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32);
    }
    assert_eq!(found[0][0].ids, ids[1..]);
}

#[test]
fn stopping_at_once_takes_the_fewest_steps_and_never_finds_no_worse() {
    let search = |early_stopping, length_penalty| {
        let mut model = Table::new(9);
        let params = SamplingParams { max_tokens: 40, ..Default::default() };
        let stop_ids = vec![0, 1, 2];
        let options = BeamOptions { beams: 4, length_penalty, early_stopping, stop_ids, params, ..Default::default() };
        let found = beam_search(&mut model, &[vec![5]], &options).unwrap();
        (model.steps.len(), found[0][0].score)
    };
    for length_penalty in [0.5, 1.0, 1.5] {
        let [at_once, likely, never] = [EarlyStopping::AtOnce, EarlyStopping::Likely, EarlyStopping::Never]
            .map(|early| search(early, length_penalty));
        assert!(at_once.0 <= likely.0 && likely.0 <= never.0, "{at_once:?} {likely:?} {never:?}");
        assert!(at_once.1 <= likely.1 && likely.1 <= never.1, "{at_once:?} {likely:?} {never:?}");
        assert!(at_once.0 < never.0 && never.0 <= 40);
    }
}

#[test]
fn a_prompt_that_is_done_takes_no_part_in_further_steps() {
    let mut model = Table::new(9);
    let params = SamplingParams { max_tokens: 6, ..Default::default() };
    let options = BeamOptions {
        beams: 2,
        stop_ids: vec![0],
        early_stopping: EarlyStopping::AtOnce,
        params,
        ..Default::default()
    };
    beam_search(&mut model, &(1..9).map(|t| vec![t; t as usize]).collect::<Vec<_>>(), &options).unwrap();
    assert_eq!(model.steps[..2], [8, 16], "{:?}", model.steps);
    assert!(model.steps[1..].is_sorted_by(|a, b| a >= b), "{:?}", model.steps);
    assert!(model.steps[model.steps.len() - 1] < 16, "{:?}", model.steps);
}

#[test]
fn processors_see_each_text() {
    let params = SamplingParams { max_tokens: 6, no_repeat_ngram_size: 1, min_tokens: 3, ..Default::default() };
    let options = BeamOptions { beams: 4, returned: 4, stop_ids: vec![0], params, ..Default::default() };
    for beam in &beam_search(&mut Table::new(9), &[vec![5]], &options).unwrap()[0] {
        let mut sorted = [&beam.ids[..], &[5]].concat();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), beam.ids.len() + 1);
        assert!(beam.ids.iter().position(|id| *id == 0).is_none_or(|at| at >= 3));
    }
}

#[test]
fn what_cannot_be_searched_is_an_error() {
    struct Broken(f32);
    impl BeamModel for Broken {
        fn next(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
            Ok(vec![self.0; 3 * sequences.len()])
        }
        fn reorder(&mut self, _: &[usize]) {}
    }
    let options = BeamOptions::default();
    let error = beam_search(&mut Broken(f32::NAN), &[vec![1]], &options).unwrap_err();
    assert!(error.chain().contains("not finite"));
    let usage = |prompt: Vec<u32>, options: &BeamOptions, word: &str| {
        let error = beam_search(&mut Broken(0.0), &[prompt], options).unwrap_err();
        assert_eq!(error.class(), Class::Usage);
        assert!(error.chain().contains(word), "{}", error.chain());
    };
    usage(vec![1], &BeamOptions { beams: 2, returned: 3, ..options.clone() }, "3 texts");
    usage(vec![1], &BeamOptions { beams: 0, ..options.clone() }, "0 beams");
    usage(vec![1], &BeamOptions { length_penalty: f64::NAN, ..options.clone() }, "length_penalty");
    usage(vec![], &options, "empty");
    assert_eq!(beam_search(&mut Broken(0.0), &[], &options).unwrap(), Vec::<Vec<Beam>>::new());
    let dir = TempDir::new("beams");
    tiny_llama_dir(dir.path(), 1);
    let decoder = Model::load(dir.path(), &cupola_ops::open("cpu").unwrap()).unwrap().decoder().unwrap().clone();
    for (prompt, word) in [(vec![1; 250], "may have 256 tokens"), (vec![320], "320")] {
        let error = beam_search(&mut CachedBeams::new(&decoder), &[prompt], &options).unwrap_err();
        assert!(error.chain().contains(word), "{}", error.chain());
    }
}
