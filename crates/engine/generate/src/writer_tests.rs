#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use cupola_arch::Model;
use cupola_testkit::{Golden, TempDir, fixture, tiny_tokenizer_files};
use cupola_tokenizer::Tokenizer;

use super::*;
use crate::batch::{Slot, share, step};
use crate::{AnswerBeams, BeamOptions, Engine, EngineOptions, Request, SamplingParams, beam_search};

fn load(name: &str) -> EncoderDecoder {
    let model = Model::load(&fixture(name), &cupola_ops::open("cpu").unwrap()).unwrap();
    model.encoder_decoder().unwrap().clone()
}

/// Rows of golden ids without their padding.
fn texts(golden: &Golden) -> Vec<Vec<u32>> {
    let ((shape, ids), (_, mask)) = (golden.i64("gen.in.input_ids"), golden.i64("gen.in.attention_mask"));
    let rows = ids.chunks(shape[1]).zip(mask.chunks(shape[1]));
    rows.map(|(ids, mask)| ids.iter().zip(mask).filter(|(_, m)| **m == 1).map(|(id, _)| *id as u32).collect()).collect()
}

#[test]
fn answers_are_those_of_transformers_whoever_is_in_the_batch() {
    for name in ["t5", "t5-v1.1", "mt5"] {
        let (golden, network) = (Golden::load(name), load(name));
        let (shape, sequences) = golden.i64("gen.sequences");
        let texts = texts(&golden);
        let want: Vec<Vec<u32>> = sequences.chunks(shape[1]).map(|s| s.iter().map(|t| *t as u32).collect()).collect();
        for together in [vec![0, 1], vec![0], vec![1]] {
            let mut slots: Vec<Slot> = together.iter().map(|i| Slot::answer(&network, texts[*i].clone())).collect();
            while slots[0].len() < shape[1] {
                let rows = share(&slots.iter().map(Slot::pending).collect::<Vec<_>>(), 8);
                let logits = step(&network, &mut slots.iter_mut().collect::<Vec<_>>(), &rows);
                let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
                let tokens: Vec<(usize, u32)> = logits.iter().map(|(i, row)| (i, best(row))).collect();
                tokens.into_iter().for_each(|(i, token)| slots[i].push(token));
            }
            for (i, slot) in together.iter().zip(&slots) {
                assert_eq!(slot.tokens(), want[*i], "{name}");
            }
        }
    }
}

#[test]
fn beams_of_t5_equal_transformers() {
    let (golden, network) = (Golden::load("sampling"), load("t5"));
    let (shape, ids) = golden.i64("beam.t5.prompt");
    let texts: Vec<Vec<u32>> = ids.chunks(shape[1]).map(|p| p.iter().map(|id| *id as u32).collect()).collect();
    let ((full, sequences), (_, scores)) = (golden.i64("beam.t5.sequences"), golden.f32("beam.t5.scores"));
    let params = SamplingParams { max_tokens: 8, ..Default::default() };
    let options = BeamOptions { beams: 3, returned: 3, stop_ids: vec![2], params, ..Default::default() };
    let (mut model, starts) = AnswerBeams::new(&network, &texts);
    let found = beam_search(&mut model, &starts, &options).unwrap().concat();
    assert_eq!(found.len(), scores.len());
    let (atol, rtol) = golden.tolerance("beam.t5.scores");
    for (beam, (want, score)) in found.iter().zip(sequences.chunks(full[1]).zip(&scores)) {
        let got: Vec<i64> = beam.ids.iter().map(|id| i64::from(*id)).collect();
        assert_eq!(got, want[1..1 + got.len()]);
        assert!(want[1 + got.len()..].iter().all(|id| *id == 0), "{got:?} ends before {want:?}");
        assert!((beam.score as f32 - score).abs() <= atol + rtol * score.abs(), "{} is not {score}", beam.score);
    }
}

#[test]
fn the_engine_answers_prompts_that_an_encoder_reads() {
    let dir = TempDir::new("answers");
    tiny_tokenizer_files(dir.path());
    let model = Model::load(&fixture("t5"), &cupola_ops::open("cpu").unwrap()).unwrap();
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let engine = Engine::new(model, tokenizer, &EngineOptions::default()).unwrap();
    let golden = Golden::load("t5");
    let (shape, sequences) = golden.i64("gen.sequences");
    let params = SamplingParams { temperature: 0.0, max_tokens: 12, ignore_eos: true, ..Default::default() };
    for (prompt, want) in texts(&golden).into_iter().zip(sequences.chunks(shape[1])) {
        let read = prompt.len();
        let (ids, _, usage) = engine.generate_ids(Request { prompt, params: params.clone() }).unwrap();
        assert_eq!(ids, want[1..].iter().map(|id| *id as u32).collect::<Vec<_>>());
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (read, 12));
    }
    let long = Request { prompt: vec![5; engine.max_seq_len()], params: params.clone() };
    let error = engine.generate(long).unwrap_err().to_string();
    assert!(error.contains("reads at most"), "{error}");
    let options = BeamOptions { beams: 2, params, ..Default::default() };
    let prompts = texts(&golden);
    assert_eq!(engine.beam_search(&prompts, &options).unwrap().len(), prompts.len());
}

#[test]
fn a_prompt_that_is_read_apart_takes_no_room_from_the_answer() {
    assert_eq!(Limits { sequence: 10, read: None }.room(7), 3);
    assert_eq!(Limits { sequence: 10, read: Some(50) }.room(40), 9);
}
