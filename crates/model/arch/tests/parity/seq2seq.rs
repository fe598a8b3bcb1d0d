//! Models that read a text and write another.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_arch::Model;
use cupola_nn::{Batch, BlockSpec, Cache, EncoderDecoder, LayerSpec, Module, Pairs, Step, row_balance, shifted};
use cupola_ops::{IGNORE, to_vec};
use cupola_testkit::{Golden, assert_close};

use crate::{close, compare_gradients};

pub fn check(golden: &Golden, model: &Model) {
    let network = model.encoder_decoder().unwrap();
    let (source, parts, real) = padded(golden, "in");
    let (shape, labels) = golden.i64("in.labels");
    let labels: Arc<[i32]> = labels.into_iter().map(|l| l as i32).collect();
    let spec = network.spec();
    let inputs = shifted(&labels, shape[1], [spec.start, spec.padding()]);
    let pairs = Pairs::new(source, &parts, Batch::causal(inputs, shape[0]));
    forward(golden, network, &pairs, &real);
    backward(golden, &mut model.clone(), &pairs, &labels);
    routers(golden, network, &pairs, &real);
    generation(golden, network);
    cached_equals_whole(golden, network);
}

/// The golden texts, the part of each row that is no padding, and which tokens these are.
fn padded(golden: &Golden, prefix: &str) -> (Batch, Vec<Range<usize>>, Vec<bool>) {
    let (shape, ids) = golden.i64(&format!("{prefix}.input_ids"));
    let real: Vec<bool> = golden.i64(&format!("{prefix}.attention_mask")).1.iter().map(|m| *m != 0).collect();
    let part = |row: &[bool]| {
        let start = row.iter().position(|r| *r).unwrap();
        start..start + row.iter().filter(|r| **r).count()
    };
    let parts: Vec<Range<usize>> = real.chunks(shape[1]).map(part).collect();
    let mut batch = Batch::padded(ids.iter().map(|id| *id as u32).collect(), &parts, true);
    let global = format!("{prefix}.global_attention_mask");
    if golden.names().contains(&global.as_str()) {
        batch.global = Some(golden.i64(&global).1.iter().map(|g| *g != 0).collect());
    }
    (batch, parts, real)
}

fn forward(golden: &Golden, network: &EncoderDecoder, pairs: &Pairs, real: &[bool]) {
    let states = network.hidden_states(pairs);
    let all = vec![true; pairs.target.ids.len()];
    for (side, states, real) in [("encoder", &states.encoder, real), ("decoder", &states.decoder, &all[..])] {
        let start = format!("out.{side}_hidden_states.");
        let golden_states = golden.names().iter().filter(|name| name.starts_with(&start)).count();
        assert_eq!(states.len(), golden_states, "hidden states of the {side}");
        for (i, state) in states.iter().enumerate() {
            close(golden, &format!("{start}{i}"), to_vec(state), real);
        }
    }
    close(golden, "out.encoder_last_hidden_state", to_vec(states.encoder.last().unwrap()), real);
    let logits = network.logits(states.decoder.last().unwrap().clone());
    close(golden, "out.logits", to_vec(&logits), &all);
}

fn backward(golden: &Golden, model: &mut Model, pairs: &Pairs, labels: &Arc<[i32]>) {
    model.set_trainable(|_| true);
    let counted = labels.iter().filter(|t| **t != IGNORE).count() as f32;
    let weights: Arc<[f32]> = vec![1.0 / counted; labels.len()].into();
    let network = model.encoder_decoder().unwrap();
    let loss = network.loss(pairs, labels, &weights);
    golden.check("out.loss", &to_vec(&loss));
    let nll = to_vec(&network.nll(pairs, labels)).iter().sum::<f32>() / counted;
    let extra: f32 = network.hidden(pairs).extra.iter().map(|e| to_vec(e)[0]).sum();
    golden.check("out.loss", &[nll + extra]);
    compare_gradients(golden, model, loss);
    // Blocks that are computed again give the same.
    model.set_recompute(true).unwrap();
    let loss = model.encoder_decoder().unwrap().loss(pairs, labels, &weights);
    golden.check("out.loss", &to_vec(&loss));
    compare_gradients(golden, model, loss);
}

/// What routers decide, and what they add to the loss.
fn routers(golden: &Golden, network: &EncoderDecoder, pairs: &Pairs, real: &[bool]) {
    let routing = network.hidden(pairs).routing;
    let blocks = |blocks: &[BlockSpec]| blocks.iter().filter(|block| capacity(block).is_some()).count();
    let (read, written) = routing.split_at(blocks(&network.spec().encoder.blocks));
    assert_eq!(written.len(), blocks(&network.spec().decoder.blocks));
    let all = vec![true; pairs.target.ids.len()];
    for (side, routing, batch, real) in
        [("encoder", read, &pairs.source, real), ("decoder", written, &pairs.target, &all[..])]
    {
        for (i, routing) in routing.iter().enumerate() {
            close(golden, &format!("out.{side}_router_logits.{i}"), to_vec(&routing.logits), real);
        }
        if let Some(balance) = row_balance(routing, batch.batch) {
            golden.check(&format!("out.{side}_aux_loss"), &to_vec(&balance));
            let logits = Tensor::cat(routing.iter().map(|r| r.logits.clone()).collect(), 0);
            golden.check(&format!("out.{side}_z_loss"), &to_vec(&cupola_ops::router_z_loss(logits)));
        }
    }
    let losses = golden.names().iter().filter(|name| name.ends_with("_aux_loss")).count();
    assert_eq!(losses, [read, written].iter().filter(|side| !side.is_empty()).count());
}

/// How many tokens of a row an expert of the block takes.
fn capacity(block: &BlockSpec) -> Option<usize> {
    block.layers.iter().find_map(|(_, layer)| match layer {
        LayerSpec::Switch(spec) => Some(spec.capacity),
        _ => None,
    })
}

/// The best of a row of logits.
fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

/// Greedy decoding of all rows at once, with caches: the tokens, and the logits of each step.
fn generation(golden: &Golden, network: &EncoderDecoder) {
    let (batch, parts, _) = padded(golden, "gen.in");
    let ((_, sequences), (sizes, logits)) = (golden.i64("gen.sequences"), golden.f32("gen.step_logits"));
    let (atol, rtol) = golden.tolerance("gen.step_logits");
    let (rows, steps, vocab) = (batch.batch, sizes[1], sizes[2]);
    let mut caches = network.read_batch(&batch, &parts);
    let mut new: Vec<u32> = vec![network.spec().start; rows];
    for row in 0..rows {
        assert_eq!(i64::from(new[row]), sequences[row * (steps + 1)], "the start");
    }
    for step in 0..steps {
        let mut spans: Vec<Step<'_>> = caches.iter_mut().map(|cache| Step { cache, rows: 1 }).collect();
        let all = to_vec(&network.logits(network.step(&new.clone().into(), &mut spans)));
        for (row, new) in new.iter_mut().enumerate() {
            let got = &all[row * vocab..][..vocab];
            let want = &logits[(row * steps + step) * vocab..][..vocab];
            assert_close(&format!("row {row}, step {step}"), got, want, atol, rtol);
            *new = best(got);
            assert_eq!(i64::from(*new), sequences[row * (steps + 1) + 1 + step], "row {row}, step {step}");
        }
    }
}

/// Answers in pieces give what the whole pair gives, and the cache is as large as the spec says.
fn cached_equals_whole(golden: &Golden, network: &EncoderDecoder) {
    let (_, ids) = golden.i64("in.input_ids");
    let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    let (text, mut answer) = (&ids[..11], &ids[11..]);
    // A row that is longer than its experts' capacity loses tokens which come one by one do not.
    if let Some(capacity) = network.spec().decoder.blocks.iter().find_map(capacity) {
        answer = &answer[..capacity];
    }
    let target = Batch::causal(answer.to_vec(), 1);
    let all = 0..text.len();
    let all = std::slice::from_ref(&all);
    let whole = Pairs::new(Batch::padded(text.to_vec(), all, true), all, target);
    let whole = to_vec(&network.hidden(&whole).last);
    for pieces in [vec![1; answer.len()], vec![3, 1, 5, 2, 1], vec![7, 4]] {
        let (mut cache, mut got, mut at, mut widths) = (first(network, text), vec![], 0, pieces.iter().cycle());
        while at < answer.len() {
            let rows = (*widths.next().unwrap()).min(answer.len() - at);
            let new: Arc<[u32]> = answer[at..at + rows].to_vec().into();
            got.extend(to_vec(&network.step(&new, &mut [Step { cache: &mut cache, rows }])));
            at += rows;
            assert_eq!(cache.bytes(), network.spec().cache_bytes(text.len(), at), "cache of {at} tokens");
        }
        assert_close("hidden states in pieces", &got, &whole, 1e-4, 1e-4);
    }
}

fn first(network: &EncoderDecoder, text: &[u32]) -> Cache {
    network.read(&[text]).remove(0)
}
