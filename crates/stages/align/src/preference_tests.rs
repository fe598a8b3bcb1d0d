#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_artifact::Class;
use cupola_artifact::stage::{Silent, Stage};
use cupola_generate::{ScoreItem, log_likelihoods};
use cupola_testkit::{TempDir, assert_close, metric, run_stage, tiny_llama_dir};
use cupola_train::conversation::{Holdout, read_all};

use super::*;
use crate::read_preference;
use crate::stage::AlignStage;

/// A folder with a tiny model and pairs in which laughing is better than crying.
fn setup() -> TempDir {
    let dir = TempDir::new("align");
    tiny_llama_dir(&dir.join("model"), 1);
    let pairs: Vec<Value> = (0..24)
        .map(|i| json!({"instruction": format!("Say {i}"), "input": "", "chosen": "ha ".repeat(1 + i % 3), "rejected": "boo ".repeat(1 + i % 2)}))
        .collect();
    std::fs::write(dir.join("pairs.json"), json!(pairs).to_string()).unwrap();
    dir
}

/// Resolves the references as paths in `dir` and runs.
fn run(dir: &TempDir, recipe: &str, out: &str) -> Result<Report> {
    let section = format!("model = 'model'\ndata = 'pairs.json'\n{recipe}");
    run_stage(&AlignStage, dir, &section, out, &Silent)
}

#[test]
fn every_loss_tells_held_out_pairs_apart() {
    let dir = setup();
    for (i, loss) in loss::ALL.iter().enumerate() {
        // In f32, where a pair's log-probabilities do not depend on the batch: float16 scales groups of rows.
        let smoothing = if loss.keys().contains(&"label_smoothing") { "label_smoothing = 0.1" } else { "" };
        let recipe = format!(
            "loss = '{}'\nprecision = 'f32'\n{smoothing}\nepochs = 8\nbatch_size = 4\nlr = 1e-3\nvalidation_fraction = 0.2",
            loss.name()
        );
        let report = run(&dir, &recipe, &format!("out{i}")).unwrap();
        let margin = metric(&report, "validation_reward_margin");
        let before = metric(&report, "validation_reward_margin_before");
        if loss.reward() == Reward::Ratio {
            assert!(before.abs() < 1e-5, "{}: {before}", loss.name());
        }
        // The likelihood alone does not look at the rejected answers.
        if loss.name() != "sft" {
            assert!(margin - before > 0.1 && margin > 0.0, "{}: {before} to {margin}", loss.name());
            assert!(metric(&report, "validation_reward_accuracy") > 0.9, "{}", loss.name());
        }
        assert!(metric(&report, "validation_loss") < metric(&report, "validation_loss_before"), "{}", loss.name());
        let rewards = metric(&report, "validation_rewards_chosen") - metric(&report, "validation_rewards_rejected");
        assert_close("margin", &[rewards as f32], &[margin as f32], 1e-4, 1e-4);
        assert_eq!(metric(&report, "pairs") + metric(&report, "validation_pairs"), 24.0);
        assert!(Model::load(&dir.join(format!("out{i}")), &Device::flex()).is_ok());
    }
    let lines = std::fs::read_to_string(dir.join("out0/metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    for name in ["loss", "rewards_chosen", "rewards_rejected", "reward_margin", "reward_accuracy", "logps_chosen"] {
        assert!(lines.contains(&format!("\"{name}\"")), "{name} is not in {first}");
    }
    // Before the first step, policy and reference are the same, and DPO's loss is log 2.
    let report = run(&dir, "precision = 'f32'\nepochs = 0.1\nlr = 1e-12\nvalidation_fraction = 0.2", "still").unwrap();
    assert_close("log 2", &[metric(&report, "validation_loss") as f32], &[std::f32::consts::LN_2], 1e-4, 0.0);
}

#[test]
fn lora_aligns_through_adapters_alone() {
    let dir = setup();
    let report = run(&dir, "method = 'lora'\nepochs = 8\nbatch_size = 4\nlr = 5e-3", "out").unwrap();
    assert!(metric(&report, "trainable_parameters") < metric(&report, "parameters"));
    assert!(metric(&report, "validation_reward_margin") > 0.01);
    assert!(dir.join("out/adapter/adapter_model.safetensors").is_file());
}

#[test]
fn the_references_log_probabilities_equal_the_scorers_and_are_kept() {
    let dir = setup();
    let (model, tokenizer) = load_to_change(&dir.join("model"), &Device::flex()).unwrap();
    let pairs: Vec<Pair> = read_all(&dir.join("pairs.json"))
        .unwrap()
        .iter()
        .map(|record| {
            let p = read_preference(record).unwrap();
            let encode = |answer| Example::completion(&tokenizer, &p.prompt, answer).unwrap();
            Pair { chosen: encode(&p.chosen), rejected: encode(&p.rejected) }
        })
        .collect();
    let file = dir.join("work/reference.safetensors");
    let answers: Vec<&Example> = pairs.iter().flat_map(|p| [&p.chosen, &p.rejected]).collect();
    let compute =
        || reference_logps(model.decoder().unwrap(), &answers, (Layout::Packed(200), 0), &file, &Silent).unwrap();
    let got = compute();
    let items: Vec<ScoreItem> = pairs
        .iter()
        .flat_map(|p| [&p.chosen, &p.rejected])
        .map(|e| ScoreItem { ids: e.ids.clone(), scored: e.learn.clone() })
        .collect();
    let want: Vec<f32> = log_likelihoods(model.decoder().unwrap(), &items, &mut |_| {})
        .unwrap()
        .iter()
        .map(|l| l.log_likelihood as f32)
        .collect();
    assert_close("log-probabilities", &got, &want, 1e-4, 1e-5);
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(compute(), got);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written);
    // Those of another data set are not taken.
    let fewer = reference_logps(model.decoder().unwrap(), &answers[..4], (Layout::Padded, 0), &file, &Silent).unwrap();
    assert_eq!(fewer.len(), 4);
}

#[test]
fn micro_batches_change_nothing() {
    let dir = setup();
    let recipe = "epochs = 2\nbatch_size = 6\nlr = 1e-3\nvalidation_fraction = 0.2\nholdout = 'position'";
    let whole = run(&dir, recipe, "whole").unwrap();
    let parts = run(&dir, &format!("{recipe}\nmicro_batch = 2"), "parts").unwrap();
    for name in ["validation_loss", "validation_reward_margin", "train_loss"] {
        assert_close(name, &[metric(&whole, name) as f32], &[metric(&parts, name) as f32], 1e-4, 1e-3);
    }
    assert_eq!((metric(&whole, "validation_pairs"), Holdout::default()), (5.0, Holdout::Hash));
}

#[test]
fn bad_data_is_an_error_that_says_where() {
    let dir = setup();
    for (text, message) in [
        ("[]", "no records"),
        ("[{\"prompt\": \"a\", \"chosen\": \"b\"}]", "line 1: there is no `rejected`"),
        ("[{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}]", "none of the pairs"),
        ("[{\"prompt\": \"a\",\n \"chosen\" 3}]", "line 2"),
    ] {
        std::fs::write(dir.join("pairs.json"), text).unwrap();
        let error = run(&dir, "", "out").unwrap_err();
        assert!(error.chain().contains(message) && error.chain().contains("pairs.json"), "{}", error.chain());
    }
}

#[test]
fn wrong_settings_are_usage_errors() {
    for (text, message) in [
        ("loss = 'sigmoidal'", "cannot be `sigmoidal`"),
        ("bta = 3", "unknown key `bta`"),
        ("beta = 0", "`beta` must be above 0"),
        ("label_smoothing = 0.6", "`label_smoothing`"),
        ("loss = 'ipo'\nlabel_smoothing = 0.1", "has no `label_smoothing`"),
        ("loss = 'kto'\ngamma = 1.0", "has no `gamma`"),
        ("loss = 'exo_pair'\nlabel_smoothing = 0.0", "must be above 0"),
        ("loss = 'aot'\nmicro_batch = 2", "compares the pairs"),
        ("algorithm = 'dpo'", "`algorithm` in [align] cannot be `dpo`"),
        ("algorithm = 3", "not a name"),
    ] {
        let error = AlignStage.configure(format!("model = 'm'\ndata = 'd'\n{text}").parse().unwrap()).err().unwrap();
        assert_eq!(error.class(), Class::Usage);
        assert!(error.to_string().contains(message), "{error}");
    }
    let stage = AlignStage.configure("model = 'm'\ndata = 'd'".parse().unwrap()).unwrap();
    assert_eq!((&stage.effective_config()["epochs"], &stage.effective_config()["beta"]), (&json!(1.0), &json!(0.1)));
}

#[test]
fn losses_on_single_answers_tell_good_from_bad_ones() {
    let dir = setup();
    let single: Vec<Value> = (0..48)
        .map(|i| {
            let text = if i % 2 == 0 { "ha ".repeat(1 + i % 3) } else { "boo ".repeat(1 + i % 3) };
            json!({"prompt": format!("Say {}", i / 2), "completion": text, "label": i % 2 == 0})
        })
        .collect();
    std::fs::write(dir.join("single.json"), json!(single).to_string()).unwrap();
    for (i, loss) in unpaired::ALL.iter().enumerate() {
        let mut figures = vec![];
        for (j, micro_batch) in ["", "micro_batch = 3\n"].into_iter().enumerate() {
            let recipe = format!(
                "loss = '{}'\nprecision = 'f32'\n{micro_batch}epochs = 6\nbatch_size = 8\nlr = 1e-3\nvalidation_fraction = 0.2",
                loss.name()
            );
            let stage = format!("single-{i}-{j}");
            std::fs::rename(dir.join("pairs.json"), dir.join("kept.json")).unwrap();
            std::fs::copy(dir.join("single.json"), dir.join("pairs.json")).unwrap();
            let report = run(&dir, &recipe, &stage).unwrap();
            std::fs::rename(dir.join("kept.json"), dir.join("pairs.json")).unwrap();
            assert!(metric(&report, "validation_reward_margin_before").abs() < 1e-5);
            assert!(metric(&report, "validation_reward_margin") > 0.05, "{}: {report:?}", loss.name());
            assert!(metric(&report, "validation_loss") < metric(&report, "validation_loss_before"));
            assert_eq!(metric(&report, "answers") + metric(&report, "validation_answers"), 48.0);
            figures.push(metric(&report, "validation_reward_margin") as f32);
        }
        assert_close("micro-batches", &figures[..1], &figures[1..], 1e-4, 1e-3);
    }
    // Preferences are taken for two verdicts each.
    let report = run(&dir, "loss = 'kto'\nepochs = 0.2", "from-pairs").unwrap();
    assert_eq!(metric(&report, "answers") + metric(&report, "validation_answers"), 48.0);
}

#[test]
fn answers_of_one_kind_alone_are_refused() {
    let dir = setup();
    let all_good =
        json!([{"prompt": "a", "completion": "b", "label": true}, {"prompt": "c", "completion": "d", "label": true}]);
    std::fs::write(dir.join("pairs.json"), all_good.to_string()).unwrap();
    let error = run(&dir, "loss = 'kto'", "out").unwrap_err().to_string();
    assert!(error.contains("are good"), "{error}");
}
