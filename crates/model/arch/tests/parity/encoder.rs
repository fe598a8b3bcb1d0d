//! Models that read whole texts: scores and losses of their heads.

use std::ops::Range;
use std::sync::Arc;

use cupola_arch::Model;
use cupola_nn::{Batch, Encoder, Module, Targets, Task};
use cupola_ops::{IGNORE, to_vec};
use cupola_testkit::Golden;

use crate::{close, compare_gradients};

pub fn check(golden: &Golden, model: &Model) {
    let encoder = model.encoder().unwrap();
    let (batch, real) = texts(golden, encoder);
    let states = encoder.hidden_states(&batch);
    let golden_states = golden.names().iter().filter(|name| name.starts_with("out.hidden_states.")).count();
    assert_eq!(states.len(), golden_states, "hidden states");
    for (i, state) in states.iter().enumerate() {
        close(golden, &format!("out.hidden_states.{i}"), to_vec(state), &real);
    }
    let scores = |name: &str, values: Vec<f32>| match values.len() % real.len() {
        0 => close(golden, name, values, &real),
        _ => golden.check(name, &values),
    };
    let got = to_vec(&encoder.scores(encoder.hidden(&batch), &batch));
    match encoder.spec().head.map(|head| head.task) {
        Some(Task::Span) => {
            for (i, name) in ["out.start_logits", "out.end_logits"].into_iter().enumerate() {
                scores(name, got.iter().skip(i).step_by(2).copied().collect());
            }
        }
        Some(Task::Summary) => scores("out.pooler_output", got),
        Some(_) => scores("out.logits", got),
        None => {}
    }
    if golden.names().contains(&"out.loss") {
        backward(golden, &mut model.clone(), &batch, &real);
    }
}

/// The golden batch, and which of its tokens are no padding.
fn texts(golden: &Golden, encoder: &Encoder) -> (Batch, Vec<bool>) {
    let has = |key: &str| golden.names().contains(&key);
    let (shape, ids) = golden.i64("in.input_ids");
    let real: Vec<bool> = golden.i64("in.attention_mask").1.iter().map(|m| *m != 0).collect();
    let of_row = |row: &[bool]| -> Range<usize> {
        let start = row.iter().position(|real| *real).unwrap();
        start..row.iter().rposition(|real| *real).unwrap() + 1
    };
    let texts: Vec<_> = real.chunks(shape[1]).map(of_row).collect();
    let mut batch = encoder.spec().batch(ids.iter().map(|id| *id as u32).collect(), &texts);
    let numbers = |key: &str| golden.i64(key).1;
    batch.types = has("in.token_type_ids").then(|| numbers("in.token_type_ids").iter().map(|t| *t as u32).collect());
    batch.global =
        has("in.global_attention_mask").then(|| numbers("in.global_attention_mask").iter().map(|m| *m != 0).collect());
    (batch, real)
}

/// What the golden labels ask for, and each row's weight.
fn targets(golden: &Golden, task: Task, real: &[bool]) -> (Targets, Arc<[f32]>) {
    let even = |rows: usize| vec![1.0 / rows as f32; rows].into();
    let classes = |key: &str| -> Arc<[i32]> { golden.i64(key).1.iter().map(|label| *label as i32).collect() };
    match task {
        Task::Span => {
            let ends = [classes("in.start_positions"), classes("in.end_positions")];
            let rows = ends[0].len();
            (Targets::Spans(ends), even(rows))
        }
        Task::Replaced => {
            let count = real.iter().filter(|real| **real).count() as f32;
            let weights = real.iter().map(|real| if *real { 1.0 / count } else { 0.0 }).collect();
            (Targets::Values(classes("in.labels").iter().map(|label| *label as f32).collect()), weights)
        }
        Task::Labels | Task::Numbers => {
            let (shape, values) = golden.f32("in.labels");
            (Targets::Values(values.into()), even(shape[0]))
        }
        _ => {
            let classes = classes("in.labels");
            let count = classes.iter().filter(|class| **class != IGNORE).count() as f32;
            let weights = vec![1.0 / count; classes.len()].into();
            (Targets::Classes(classes), weights)
        }
    }
}

fn backward(golden: &Golden, model: &mut Model, batch: &Batch, real: &[bool]) {
    model.set_trainable(|_| true);
    let encoder = model.encoder().unwrap();
    let task = encoder.spec().head.unwrap().task;
    let (targets, weights) = targets(golden, task, real);
    let loss = encoder.loss(batch, &targets, &weights).unwrap();
    golden.check("out.loss", &to_vec(&loss));
    compare_gradients(golden, model, loss);
}
