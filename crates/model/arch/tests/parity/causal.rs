//! Models that predict the next token.

use std::sync::Arc;

use cupola_arch::Model;
use cupola_nn::{Batch, Cache, Decoder, Module, Step};
use cupola_ops::{IGNORE, to_vec};
use cupola_testkit::{Golden, assert_close};

use crate::{close, compare_gradients, compare_scaled_gradients, masked};

/// Classes whose hidden states are not those before each block but those after each.
const AFTER_EACH_BLOCK: &[&str] = &["MambaForCausalLM", "Mamba2ForCausalLM", "RwkvForCausalLM"];

pub fn check(golden: &Golden, model: &Model) {
    let decoder = model.decoder().unwrap();
    let (batch, real) = padded(golden, "in", decoder);
    forward(golden, decoder, &batch, &real);
    routers(golden, decoder, &batch, &real);
    backward(golden, &mut model.clone(), &batch);
    generation(golden, decoder);
    cached_equals_whole(golden, decoder);
}

/// The golden batch, and which of its tokens are no padding. Padding is a segment of its own, so that no token attends it.
fn padded(golden: &Golden, prefix: &str, decoder: &Decoder) -> (Batch, Vec<bool>) {
    let (shape, ids) = golden.i64(&format!("{prefix}.input_ids"));
    let key = format!("{prefix}.attention_mask");
    let real: Vec<bool> = match golden.names().contains(&key.as_str()) {
        true => golden.i64(&key).1.iter().map(|m| *m != 0).collect(),
        false => vec![true; ids.len()],
    };
    let segments: Vec<u32> = real.iter().map(|real| u32::from(!real)).collect();
    let mut batch = Batch::segmented(ids.iter().map(|id| *id as u32).collect(), shape[0], &segments);
    if decoder.spec().embedding.positions.is_some_and(|p| p.count_padding) {
        batch.positions = (0..batch.ids.len()).map(|i| (i % batch.seq()) as u32).collect();
    }
    batch.real = Some(real.as_slice().into());
    (batch, real)
}

fn forward(golden: &Golden, decoder: &Decoder, batch: &Batch, real: &[bool]) {
    let class = golden.info["class"].as_str().unwrap_or_default();
    let states = match AFTER_EACH_BLOCK.contains(&class) {
        true => decoder.streams(batch).split_off(1),
        false => decoder.hidden_states(batch),
    };
    let golden_states = golden.names().iter().filter(|name| name.starts_with("out.hidden_states.")).count();
    assert_eq!(states.len(), golden_states, "hidden states");
    for (i, state) in states.iter().enumerate() {
        let halved = if i + 1 < states.len() { rwkv_halvings(golden, i + 1) } else { 0 };
        let state = to_vec(state).into_iter().map(|v| v / f32::from(1_u16 << halved)).collect();
        close(golden, &format!("out.hidden_states.{i}"), state, real);
    }
    close(golden, "out.logits", to_vec(&decoder.logits(states.last().unwrap().clone())), real);
}

/// What routers say of each token, and how even their choices are.
fn routers(golden: &Golden, decoder: &Decoder, batch: &Batch, real: &[bool]) {
    let routing = decoder.routing(batch);
    let has = |name: &str| golden.names().contains(&name);
    let golden_routers = golden.names().iter().filter(|name| name.starts_with("out.router_logits.")).count();
    assert!(golden_routers == 0 || golden_routers == routing.len(), "router logits");
    for i in 0..golden_routers {
        let key = format!("out.router_logits.{i}");
        let (shape, want) = golden.f32(&key);
        let (atol, rtol) = golden.tolerance(&key);
        assert_eq!(shape, routing[i].logits.dims());
        let got = masked(to_vec(&routing[i].logits), real);
        assert_close(&key, &got, &masked(want, real), atol, rtol);
    }
    if has("out.aux_loss") {
        golden.check("out.aux_loss", &to_vec(&cupola_nn::balance_loss(&routing, batch.real.as_deref())));
    }
}

/// Labels shifted by one, as the causal loss wants them.
fn targets(golden: &Golden, seq: usize) -> Arc<[i32]> {
    let (_, labels) = golden.i64("in.labels");
    labels.chunks(seq).flat_map(|row| row[1..].iter().map(|l| *l as i32).chain([IGNORE])).collect()
}

fn backward(golden: &Golden, model: &mut Model, batch: &Batch) {
    model.set_trainable(|_| true);
    let targets = targets(golden, batch.seq());
    let counted = targets.iter().filter(|t| **t != IGNORE).count() as f32;
    let weights: Arc<[f32]> = vec![1.0 / counted; targets.len()].into();
    let loss = model.decoder().unwrap().loss(batch, &targets, &weights);
    golden.check("out.loss", &to_vec(&loss));
    if golden.info["class"] != "RwkvForCausalLM" {
        return compare_gradients(golden, model, loss);
    }
    // Layers that write to a stream that the reference has halved are divided there, too.
    let scale = |name: &str| {
        let mut parts = name.split('.');
        let block: usize = parts.nth(2).and_then(|n| n.parse().ok()).unwrap_or(0);
        let writes = name.ends_with(".attention.output.weight") || name.ends_with(".feed_forward.value.weight");
        if writes { f32::from(1_u16 << rwkv_halvings(golden, block)) } else { 1.0 }
    };
    compare_scaled_gradients(golden, model, loss, &scale);
}

/// How often the reference has halved RWKV's residual stream before a block, as it does where it does not train, for the
/// sake of 16-bit floats. The norms take that away again but for what is added to the variance.
fn rwkv_halvings(golden: &Golden, block: usize) -> usize {
    if golden.info["class"] != "RwkvForCausalLM" {
        return 0;
    }
    let config = std::fs::read(golden.dir().join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["rescale_every"].as_u64().filter(|every| *every > 0).map_or(0, |every| block / every as usize)
}

/// The best of a row of logits.
fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

/// Greedy decoding of all rows at once without their padding, with caches: the tokens, and the logits of each step.
fn generation(golden: &Golden, decoder: &Decoder) {
    let (batch, real) = padded(golden, "gen.in", decoder);
    let ((_, sequences), (sizes, logits)) = (golden.i64("gen.sequences"), golden.f32("gen.step_logits"));
    let (atol, rtol) = golden.tolerance("gen.step_logits");
    let (rows, seq, steps, vocab) = (batch.batch, batch.seq(), sizes[1], sizes[2]);
    let prompt = |row: usize| (row * seq..(row + 1) * seq).filter(|i| real[*i]).map(|i| batch.ids[i]).collect();
    let padding = |row: usize| real[row * seq..(row + 1) * seq].iter().filter(|real| !**real).count();
    let mut new: Vec<Vec<u32>> = (0..rows).map(prompt).collect();
    let class = golden.info["class"].as_str().unwrap_or_default();
    let steps_of_zamba2 = (class == "Zamba2ForCausalLM").then(|| without_limits(golden));
    let mut before: Vec<Cache> = vec![];
    let mut caches: Vec<Cache> = (0..rows).map(|row| decoder.cache().after_padding(padding(row))).collect();
    for step in 0..steps {
        let ids: Arc<[u32]> = new.concat().into();
        let mut spans: Vec<Step<'_>> =
            caches.iter_mut().zip(&new).map(|(cache, new)| Step { cache, rows: new.len() }).collect();
        let stepper = steps_of_zamba2.as_ref().filter(|_| step > 0).map_or(decoder, |model| model.decoder().unwrap());
        let mut all = to_vec(&stepper.logits(stepper.step(&ids, &mut spans)));
        if class == "RwkvForCausalLM" && step > 0 {
            all = rwkv_of_the_reference(decoder, &mut before, &ids);
            caches.clone_from(&before);
        }
        before.clone_from(&caches);
        let mut end = 0;
        for (row, new) in new.iter_mut().enumerate() {
            end += new.len();
            let got = &all[(end - 1) * vocab..end * vocab];
            let want = &logits[(row * steps + step) * vocab..][..vocab];
            assert_close(&format!("row {row}, step {step}"), got, want, atol, rtol);
            let token = best(got);
            assert_eq!(i64::from(token), sequences[row * (seq + steps) + seq + step], "row {row}, step {step}");
            *new = vec![token];
        }
    }
}

/// Zamba 2 without a least time step: the reference forgets the limit where a single token goes on, though its whole
/// sequences have it, and so have our steps.
fn without_limits(golden: &Golden) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let config = std::fs::read(golden.dir().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["time_step_min"] = 0.0.into();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(golden.dir().join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    Model::load(dir.path(), &burn::tensor::Device::flex()).unwrap()
}

/// What the reference makes of a further token `ids[row]` of several sequences at once: its first layer takes the vectors
/// that all rows remember for one sequence of shifted vectors, `[B, D]` where `[B, 1, D]` was meant, so that each row sees
/// its token once for every row of the batch. A row alone, and whole sequences, are right there, and compared elsewhere.
fn rwkv_of_the_reference(decoder: &Decoder, caches: &mut [Cache], ids: &[u32]) -> Vec<f32> {
    let shifted: Vec<Vec<f32>> = caches.iter_mut().map(|cache| cache.layers_mut()[0].numbers[0].clone()).collect();
    let mut last = Vec::new();
    for (cache, id) in caches.iter_mut().zip(ids) {
        let mut logits = Vec::new();
        for shifted in &shifted {
            cache.layers_mut()[0].numbers[0].clone_from(shifted);
            let hidden = decoder.step(&vec![*id].into(), &mut [Step { cache: &mut *cache, rows: 1 }]);
            logits = to_vec(&decoder.logits(hidden));
        }
        last.extend(logits);
    }
    last
}

/// Prompts in pieces give what the whole sequence gives, and the cache is as large as the spec says.
fn cached_equals_whole(golden: &Golden, decoder: &Decoder) {
    let (_, ids) = golden.i64("in.input_ids");
    let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    let whole = to_vec(&decoder.hidden(&Batch::causal(ids.clone(), 1)));
    for pieces in [vec![1; ids.len()], vec![3, 1, 5, 2, 1], vec![7, 4]] {
        let (mut cache, mut got, mut at, mut widths) = (decoder.cache(), vec![], 0, pieces.iter().cycle());
        while at < ids.len() {
            let rows = (*widths.next().unwrap()).min(ids.len() - at);
            let new: Arc<[u32]> = ids[at..at + rows].to_vec().into();
            got.extend(to_vec(&decoder.step(&new, &mut [Step { cache: &mut cache, rows }])));
            at += rows;
            assert!(cache.bytes() <= decoder.spec().cache_bytes(at), "cache of {at} tokens");
            if at <= 4 {
                assert_eq!(cache.bytes(), decoder.spec().cache_bytes(at), "cache of {at} tokens");
            }
        }
        assert_close("hidden states in pieces", &got, &whole, 1e-4, 1e-4);
    }
}
