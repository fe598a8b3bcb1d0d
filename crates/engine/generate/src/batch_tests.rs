#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use cupola_arch::Model;
use cupola_nn::{Batch, Rng};
use cupola_testkit::{Golden, TempDir, assert_close, tiny_llama_dir};

use super::*;
use crate::{Sampler, SamplingParams};

fn greedy() -> Sampler {
    Sampler::new(&SamplingParams { temperature: 0.0, ..Default::default() }, 0)
}

/// Generates `count` tokens for each prompt, all at the same time; gives the tokens and the logits they came from.
fn generate(decoder: &Decoder, prompts: &[Vec<u32>], count: usize, chunk: usize) -> (Vec<Vec<u32>>, Vec<Vec<f32>>) {
    let mut slots: Vec<Slot> = prompts.iter().map(|p| Slot::new(decoder, p.clone())).collect();
    let mut logits = vec![Vec::new(); prompts.len()];
    let done = |slot: &Slot, i: usize| slot.len() == prompts[i].len() + count;
    while slots.iter().enumerate().any(|(i, s)| !done(s, i)) {
        let open: Vec<usize> = (0..slots.len()).filter(|&i| !done(&slots[i], i)).collect();
        let mut chosen: Vec<&mut Slot> =
            slots.iter_mut().enumerate().filter(|(i, _)| open.contains(i)).map(|(_, s)| s).collect();
        let pending: Vec<usize> = chosen.iter().map(|s| s.pending()).collect();
        let out = step(decoder, &mut chosen, &share(&pending, chunk));
        for (i, row) in out.iter() {
            chosen[i].push(greedy().sample(row).unwrap());
            logits[open[i]].extend_from_slice(row);
        }
    }
    (slots.into_iter().zip(prompts).map(|(s, p)| s.tokens[p.len()..].to_vec()).collect(), logits)
}

#[test]
fn greedy_generation_is_that_of_transformers() {
    for name in ["llama", "llama-linear-rope"] {
        let golden = Golden::load(name);
        let decoder = Model::load(golden.dir(), &cupola_ops::open("cpu").unwrap()).unwrap().decoder().unwrap().clone();
        let (shape, ids) = golden.i64("gen.in.input_ids");
        let (_, mask) = golden.i64("gen.in.attention_mask");
        let (full, sequences) = golden.i64("gen.sequences");
        let (logits_shape, want_logits) = golden.f32("gen.step_logits");
        let (width, count) = (shape[1], logits_shape[1]);
        // Our sequences need no padding.
        let prompts: Vec<Vec<u32>> = (0..shape[0])
            .map(|r| (r * width..(r + 1) * width).filter(|&i| mask[i] == 1).map(|i| ids[i] as u32).collect())
            .collect();
        let want: Vec<Vec<u32>> =
            sequences.chunks(full[1]).map(|s| s[width..].iter().map(|&t| t as u32).collect()).collect();
        let (atol, rtol) = golden.tolerance("gen.step_logits");
        for chunk in [256, 1] {
            let (tokens, logits) = generate(&decoder, &prompts, count, chunk);
            assert_eq!(tokens, want, "{name}");
            assert_close(name, &logits.concat(), &want_logits, atol, rtol);
        }
    }
}

#[test]
fn neither_the_company_nor_the_chunk_changes_what_is_generated() {
    let dir = TempDir::new("batch");
    tiny_llama_dir(dir.path(), 11);
    let decoder = Model::load(dir.path(), &cupola_ops::open("cpu").unwrap()).unwrap().decoder().unwrap().clone();
    let prompts: Vec<Vec<u32>> = (1..7_u32).map(|n| (0..n * n).map(|i| (i * 37 + n) % 256).collect()).collect();
    let alone: Vec<_> = prompts.iter().map(|p| generate(&decoder, std::slice::from_ref(p), 20, 256)).collect();
    for chunk in [1, 5, 256] {
        let (tokens, logits) = generate(&decoder, &prompts, 20, chunk);
        for (i, (alone_tokens, alone_logits)) in alone.iter().enumerate() {
            assert_eq!(tokens[i], alone_tokens[0], "prompt {i}, chunk {chunk}");
            assert_close("logits", &logits[i], &alone_logits[0], 1e-4, 1e-4);
        }
    }
}

/// The logits at every position of several sequences: random pieces of random ones of them in each step.
fn cached_logits(decoder: &Decoder, sequences: &[Vec<u32>], rng: &mut Rng) -> Vec<Vec<f32>> {
    let mut slots: Vec<Slot> = sequences.iter().map(|s| Slot::new(decoder, s.clone())).collect();
    let mut logits = vec![Vec::new(); sequences.len()];
    while slots.iter().any(|slot| slot.pending() > 0) {
        let (mut chosen, mut owners, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (i, slot) in slots.iter_mut().enumerate() {
            if slot.pending() > 0 && rng.below(3) > 0 {
                // Single tokens and whole rests come as often as pieces.
                let most = [1, slot.pending(), 1 + rng.below(slot.pending())][rng.below(3)];
                rows.push(most);
                owners.push(i);
                chosen.push(slot);
            }
        }
        if chosen.is_empty() {
            continue;
        }
        let all = cupola_ops::to_vec(&decoder.logits(hidden(decoder, &mut chosen, &rows)));
        let mut rest = &all[..];
        for (i, n) in owners.into_iter().zip(rows) {
            let (own, others) = rest.split_at(n * decoder.spec().vocab_size);
            logits[i].extend_from_slice(own);
            rest = others;
        }
    }
    logits
}

#[test]
fn the_cached_path_equals_the_full_forward_at_every_position() {
    let dir = TempDir::new("cached");
    tiny_llama_dir(dir.path(), 12);
    let folders = ["llama", "llama-linear-rope", "gpt2"].map(cupola_testkit::fixture);
    let mut rng = Rng::new(3, "cached");
    for folder in folders.iter().map(|f| &**f).chain([dir.path()]) {
        let decoder = Model::load(folder, &cupola_ops::open("cpu").unwrap()).unwrap().decoder().unwrap().clone();
        let (longest, vocab) = (decoder.spec().max_seq_len, decoder.spec().vocab_size);
        // The shortest, the longest, and random lengths between.
        let lengths = (0..6).map(|_| 1 + rng.below(longest)).chain([1, longest]).collect::<Vec<_>>();
        let sequences: Vec<Vec<u32>> =
            lengths.iter().map(|&n| (0..n).map(|_| rng.below(vocab) as u32).collect()).collect();
        let full: Vec<Vec<f32>> = sequences
            .iter()
            .map(|ids| cupola_ops::to_vec(&decoder.logits(decoder.hidden(&Batch::causal(ids.clone(), 1)))))
            .collect();
        for _ in 0..3 {
            let cached = cached_logits(&decoder, &sequences, &mut rng);
            for (cached, full) in cached.iter().zip(&full) {
                assert_close(&folder.display().to_string(), cached, full, 1e-4, 1e-4);
            }
        }
    }
}

#[test]
fn prompts_share_a_step_evenly_and_nobody_starves() {
    assert_eq!(share(&[1, 1000, 1], 256), [1, 256, 1]);
    assert_eq!(share(&[1000, 10, 1, 300], 256), [123, 10, 1, 123]);
    assert_eq!(share(&[5, 5, 5], 2), [1, 1, 1]);
    assert_eq!(share(&[4, 3], 256), [4, 3]);
    assert_eq!(share(&[], 256), [0_usize; 0]);
}
