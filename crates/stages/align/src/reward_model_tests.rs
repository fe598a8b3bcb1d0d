#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use burn::tensor::Device;
use cupola_artifact::Class;
use cupola_artifact::stage::{Silent, Stage};
use cupola_testkit::{TempDir, assert_close, fixture, metric, run_stage, tiny_llama_dir};
use serde_json::Value;

use super::*;
use crate::stage::AlignStage;

/// A folder with a tiny model and pairs in which laughing is better than crying.
fn setup() -> TempDir {
    let dir = TempDir::new("reward");
    tiny_llama_dir(&dir.join("model"), 1);
    let pairs: Vec<Value> = (0..40)
        .map(|i| json!({"prompt": format!("Say {i}"), "chosen": "ha ".repeat(1 + i % 3), "rejected": "boo ".repeat(1 + i % 2)}))
        .collect();
    std::fs::write(dir.join("pairs.json"), json!(pairs).to_string()).unwrap();
    dir
}

fn run(dir: &TempDir, model: &str, recipe: &str, out: &str) -> Result<Report> {
    let section = format!("algorithm = 'reward_model'\nmodel = '{model}'\ndata = 'pairs.json'\n{recipe}");
    run_stage(&AlignStage, dir, &section, out, &Silent)
}

#[test]
fn a_reward_model_tells_held_out_answers_apart_and_is_read_as_a_classifier() {
    let dir = setup();
    let recipe =
        "precision = 'f32'\nepochs = 6\nbatch_size = 8\nlr = 1e-3\nvalidation_fraction = 0.2\ncentering = 0.01";
    let whole = run(&dir, "model", recipe, "whole").unwrap();
    assert!(metric(&whole, "validation_reward_accuracy") > 0.9, "{whole:?}");
    assert!(metric(&whole, "validation_loss") < metric(&whole, "validation_loss_before"));
    // Padding and the division into forward passes change nothing.
    let parts = run(&dir, "model", &format!("{recipe}\nmicro_batch = 3"), "parts").unwrap();
    for name in ["validation_loss", "train_loss"] {
        assert_close(name, &[metric(&whole, name) as f32], &[metric(&parts, name) as f32], 1e-4, 1e-3);
    }
    let model = Model::load(&dir.join("whole"), &Device::flex()).unwrap();
    assert_eq!(model.config()["architectures"], json!(["LlamaForSequenceClassification"]));
    assert_eq!(model.encoder().unwrap().spec().labels, ["reward"]);
    let (alone, _) = rewards(model.encoder().unwrap(), &[&[1, 2, 3]], 0);
    let (beside, _) = rewards(model.encoder().unwrap(), &[&[1, 2, 3], &[4, 5, 6, 7, 8]], 0);
    assert_close("padding", &cupola_ops::to_vec(&alone), &cupola_ops::to_vec(&beside)[..1], 1e-5, 1e-5);
    // Trained further, it starts with the head that it has.
    let further =
        run(&dir, "whole", "precision = 'f32'\nepochs = 0.1\nlr = 1e-9\nvalidation_fraction = 0.2", "further").unwrap();
    let (kept, was) =
        (metric(&further, "validation_reward_accuracy_before"), metric(&whole, "validation_reward_accuracy"));
    assert_close("the head", &[kept as f32], &[was as f32], 1e-6, 0.0);
}

#[test]
fn adapters_train_the_head_too() {
    let dir = setup();
    let recipe = "method = 'lora'\nepochs = 6\nbatch_size = 8\nlr = 3e-3\nvalidation_fraction = 0.2";
    let report = run(&dir, "model", recipe, "out").unwrap();
    assert!(metric(&report, "trainable_parameters") < 0.5 * metric(&report, "parameters"));
    assert!(metric(&report, "validation_reward_accuracy") > 0.9, "{report:?}");
}

#[test]
fn margins_are_asked_for_where_records_have_them() {
    let dir = setup();
    let loss = |margin: Value, out: &str| {
        let pairs: Vec<Value> = (0..8)
            .map(|i| json!({"prompt": format!("Say {i}"), "chosen": "ha", "rejected": "boo", "margin": margin}))
            .collect();
        std::fs::write(dir.join("pairs.json"), json!(pairs).to_string()).unwrap();
        run(&dir, "model", "precision = 'f32'\nepochs = 0.1\nlr = 1e-9\nvalidation_fraction = 0.2", out)
            .map(|report| metric(&report, "validation_loss"))
    };
    assert!(loss(json!(2.0), "with").unwrap() > loss(Value::Null, "without").unwrap() + 0.5);
    let error = loss(json!("much"), "wrong").unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("`margin`"), "{error}");
}

#[test]
fn what_cannot_have_a_head_is_refused() {
    let load = |name: &str| {
        let head = NewHead::Text { problem: Problem::Regression, labels: vec!["reward".into()] };
        Model::load_with_head(&fixture(name), &head, 1, &Device::flex())
    };
    let error = load("t5").unwrap_err();
    assert_eq!(error.class(), Class::Usage);
    assert!(error.chain().contains("T5ForConditionalGeneration"), "{}", error.chain());
    for name in
        ["bert-mlm", "gpt2", "llama", "modernbert-mlm", "roberta-mlm", "distilbert-mlm", "electra-pretraining", "mamba"]
    {
        let model = load(name).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        assert_eq!(model.encoder().unwrap().spec().labels, ["reward"], "{name}");
    }
    let refused =
        AlignStage.configure("algorithm = 'reward_model'\nmodel = 'm'\ndata = 'd'\ncentering = -1".parse().unwrap());
    assert!(refused.err().unwrap().to_string().contains("`centering`"));
}
