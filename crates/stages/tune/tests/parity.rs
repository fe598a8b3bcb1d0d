//! The losses of tuning and their gradients equal to transformers': the fixture `loss-language-model` of this repository, and
//! of the folder that `CUPOLA_FIXTURES` names.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use cupola_ops::{IGNORE, LossForm, Precision, from_vec, into_vec, linear_cross_entropy, to_vec};
use cupola_testkit::{Golden, fixture};

/// The cases that this build has no loss for: a student's towards a teacher.
const DISTILLATION: [&str; 4] = ["gkd.beta-0.0", "gkd.beta-0.5", "gkd.beta-1.0", "hinton"];

fn check(golden: &Golden) {
    let (shape, logits) = golden.f32("in.logits");
    let [rows, seq, vocab] = shape[..] else { panic!("the logits are {shape:?}") };
    // A label belongs to the logits before it; the last logits of a row have none.
    let labels = golden.i64("in.labels").1;
    let following = |i: usize| if (i + 1).is_multiple_of(seq) { IGNORE } else { labels[i + 1] as i32 };
    let targets: Arc<[i32]> = (0..rows * seq).map(|i| if following(i) < 0 { IGNORE } else { following(i) }).collect();
    let counted = targets.iter().filter(|target| **target != IGNORE).count();
    let unit: Vec<f32> = (0..vocab * vocab).map(|i| f32::from(u8::from(i / vocab == i % vocab))).collect();
    let unit = Tensor::<2>::from_inner(from_vec(unit, [vocab, vocab], &Device::flex()));
    let (mut seen, settings) = (0, golden.info["settings"].as_object().unwrap());
    for (name, case) in settings {
        let weight = 1.0 / case["num_items_in_batch"].as_f64().unwrap_or(counted as f64) as f32;
        let smoothing = case["epsilon"].as_f64().unwrap_or(0.0) as f32;
        if DISTILLATION.contains(&name.as_str()) {
            continue;
        }
        let leaf =
            Tensor::<2>::from_inner(from_vec(logits.clone(), [rows * seq, vocab], &Device::flex())).require_grad();
        let form = LossForm { label_smoothing: smoothing, ..LossForm::default() };
        let weights: Arc<[f32]> = vec![weight; targets.len()].into();
        let loss = linear_cross_entropy(leaf.clone(), unit.clone(), &targets, &weights, form, Precision::F32);
        golden.check(&format!("{name}.loss"), &to_vec(&loss));
        let mut gradients = loss.backward();
        golden.check(&format!("{name}.grad.logits"), &into_vec(leaf.grad_remove(&mut gradients).unwrap()));
        seen += 1;
    }
    assert_eq!(seen + DISTILLATION.len(), settings.len(), "every other case is compared");
}

#[test]
fn losses_of_language_models_have_parity_with_transformers() {
    check(&Golden::load_dir(&fixture("loss-language-model")));
    let other = std::env::var_os("CUPOLA_FIXTURES").map(|root| Path::new(&root).join("loss-language-model"));
    if let Some(dir) = other.filter(|dir| dir.exists()) {
        check(&Golden::load_dir(&dir));
    }
}
