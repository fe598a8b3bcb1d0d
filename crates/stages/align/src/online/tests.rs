#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_artifact::stage::{Progress, Report, Silent, Stage};
use cupola_artifact::{Class, Result};
use cupola_testkit::{KillAt, TempDir, assert_close, metric, run_stage, tiny_llama_dir};
use serde_json::{Value, json};

use crate::stage::AlignStage;

/// A folder with a tiny model that knows nothing, and prompts.
fn setup() -> TempDir {
    let dir = TempDir::new("online");
    tiny_llama_dir(&dir.join("model"), 1);
    let prompts: String =
        (0..32).map(|i| json!({"prompt": format!("Say {i}"), "answer": "a"}).to_string() + "\n").collect();
    std::fs::write(dir.join("prompts.jsonl"), prompts).unwrap();
    dir
}

/// An answer with a letter of the first half of the alphabet is worth 1: about every fifth, by chance.
const REWARDS: &str = "rewards = [{ kind = 'regex', pattern = '[a-m]' }]";

fn run(dir: &TempDir, recipe: &str, out: &str, progress: &dyn Progress) -> Result<Report> {
    let section = format!("model = 'model'\ndata = 'prompts.jsonl'\n{recipe}");
    run_stage(&AlignStage, dir, &section, out, progress)
}

/// The values of a figure, step by step.
fn series(dir: &TempDir, out: &str, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(dir.join(out).join("metrics.jsonl")).unwrap();
    text.lines().filter_map(|line| serde_json::from_str::<Value>(line).unwrap()[name].as_f64()).collect()
}

fn recipe(algorithm: &str, more: &str) -> String {
    format!(
        "algorithm = '{algorithm}'\n{REWARDS}\nprecision = 'f32'\nmax_tokens = 6\nbatch_size = 8\nepochs = 6\nlr = 1e-2\n\
         validation_fraction = 0.25\nschedule = 'constant'\n{more}"
    )
}

#[test]
fn every_algorithm_raises_the_reward_of_held_out_prompts() {
    for (algorithm, more) in [
        ("grpo", ""),
        ("grpo", "loss = 'dapo'\nreplace_dead_groups = true\nbeta = 0.0"),
        ("grpo", "loss = 'dr_grpo'\nscale = 'none'"),
        ("grpo", "loss = 'gspo'\niterations = 2"),
        ("rloo", "group_size = 8"),
        ("reinforce_pp", "group_size = 8\nkl_target = 2.0"),
        ("ppo", "group_size = 8\niterations = 2\nminibatches = 2"),
        ("grpo", "method = 'lora'\nlr = 3e-2"),
    ] {
        let dir = setup();
        let text =
            recipe(algorithm, more).replace("lr = 1e-2\n", if more.contains("lr =") { "" } else { "lr = 1e-2\n" });
        let report = run(&dir, &text, "out", &Silent).unwrap();
        let (before, after) = (metric(&report, "validation_reward_before"), metric(&report, "validation_reward"));
        assert!(before < 0.5 && after > before + 0.3, "{algorithm} {more}: {before} to {after}");
        // The policy that answers is the one that learns.
        let gaps = series(&dir, "out", "sampler_gap");
        assert!(!gaps.is_empty() && gaps.iter().all(|gap| *gap < 1e-5), "{algorithm} {more}: {gaps:?}");
        let saved = Model::load(&dir.join("out"), &Device::flex()).unwrap();
        assert!(saved.decoder().is_ok());
    }
}

#[test]
fn the_samplers_log_probabilities_are_the_trainers() {
    // PPO asks the trainer for values, and so for log-probabilities, of what the sampler told in the same step.
    let dir = setup();
    run(&dir, &recipe("ppo", "iterations = 1"), "out", &Silent).unwrap();
    let gaps = series(&dir, "out", "sampler_gap");
    assert!(gaps.len() > 5 && gaps.iter().any(|gap| *gap > 0.0) && gaps.iter().all(|gap| *gap < 1e-5), "{gaps:?}");
    // So the first update of a step moves from where the answers were given: no ratio is outside the bounds.
    assert!(series(&dir, "out", "clipped").iter().all(|share| *share == 0.0));
}

#[test]
fn a_run_that_was_cut_off_between_updates_ends_as_an_uninterrupted_one() {
    let dir = setup();
    let text = recipe("ppo", "iterations = 2\nminibatches = 2\nkl_target = 1.0\ncheckpoint_every = 3")
        .replace("epochs = 6", "epochs = 2");
    let whole = run(&dir, &text, "whole", &Silent).unwrap();
    for at in [2, 5, 8] {
        let kill = KillAt::update(at);
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&dir, &text, "cut", &kill)));
        assert!(killed.is_err());
    }
    let resumed = run(&dir, &text, "cut", &Silent).unwrap();
    let read = |out: &str| std::fs::read(dir.join(out).join("model.safetensors")).unwrap();
    assert!(read("whole") == read("cut"));
    for name in ["validation_reward", "validation_kl", "train_loss", "steps"] {
        assert_eq!(whole.metrics[name], resumed.metrics[name], "{name}");
    }
}

#[test]
fn micro_batches_change_nothing() {
    let dir = setup();
    for (i, algorithm) in ["grpo", "ppo", "rloo"].into_iter().enumerate() {
        let text = recipe(algorithm, "").replace("epochs = 6", "epochs = 0.5");
        let whole = run(&dir, &text, &format!("whole{i}"), &Silent).unwrap();
        let parts = run(&dir, &format!("{text}\nmicro_batch = 3"), &format!("parts{i}"), &Silent).unwrap();
        for name in ["train_loss", "validation_kl"] {
            assert_close(name, &[metric(&whole, name) as f32], &[metric(&parts, name) as f32], 1e-4, 1e-3);
        }
    }
}

#[test]
fn what_the_rewards_cannot_judge_is_left_out_or_an_error() {
    let dir = setup();
    // A weight times infinity is no number: nothing can be judged.
    let text = recipe("grpo", "").replace(REWARDS, "rewards = [{ kind = 'exact_match', field = 'nothing' }]");
    let error = run(&dir, &text, "out", &Silent).unwrap_err();
    assert!(error.chain().contains("`nothing`"), "{}", error.chain());
    let text = recipe("grpo", "beta = 0.0")
        .replace(REWARDS, "rewards = [{ kind = 'regex', pattern = 'no such answer ever' }]");
    // It goes on, and says so; the model stays what it was.
    let report = run(&dir, &format!("{text}\nreplace_dead_groups = true"), "replaced", &Silent).unwrap();
    assert!(series(&dir, "replaced", "dead_groups").iter().all(|share| *share == 1.0));
    assert_eq!(metric(&report, "validation_reward"), 0.0);
    let report = run(&dir, &text, "still", &Silent).unwrap();
    assert!(series(&dir, "still", "dead_groups").iter().all(|share| *share == 1.0));
    assert_close(
        "still",
        &[metric(&report, "validation_length") as f32],
        &[metric(&report, "validation_length_before") as f32],
        1e-6,
        0.0,
    );
}

#[test]
fn rewards_count_by_their_weights() {
    let dir = setup();
    let rewards = "rewards = [{ kind = 'regex', pattern = '', weight = 2 }, { kind = 'length', least = 1, most = 1, margin = 5 }]";
    let refused = run(&dir, &recipe("grpo", "").replace(REWARDS, rewards), "out", &Silent).unwrap_err();
    assert!(refused.to_string().contains("no `pattern`"));
    let rewards = rewards.replace("pattern = ''", "pattern = '(?s).*'");
    let text = recipe("grpo", "").replace(REWARDS, &rewards).replace("epochs = 6", "epochs = 0.1");
    let report = run(&dir, &text, "out", &Silent).unwrap();
    // Always 2, and -1 for the six tokens that nothing has ended yet.
    let (reward, length) = (metric(&report, "validation_reward_before"), metric(&report, "validation_length_before"));
    assert_close("sum", &[reward as f32], &[(2.0 - (length - 1.0) / 5.0) as f32], 1e-4, 0.0);
}

#[test]
fn wrong_settings_are_usage_errors() {
    for (text, message) in [
        ("algorithm = 'grpo'", "has no `rewards`"),
        ("algorithm = 'grpo'\nrewards = [{ weight = 1 }]", "does not say its `kind`"),
        ("algorithm = 'grpo'\nrewards = [{ kind = 'regexp', pattern = 'a' }]", "cannot be `regexp`"),
        ("algorithm = 'grpo'\nrewards = [{ kind = 'regex', pattern = '(' }]", "no regular expression"),
        ("algorithm = 'grpo'\nrewards = [{ kind = 'classifier', model = 'm' }]", "needs `model` and `label`"),
        ("algorithm = 'grpo'\nrewards = [{ kind = 'exact_match', weight = 'a' }]", "not a number"),
        ("algorithm = 'grpo'\ngroup_size = 1\nREWARDS", "`group_size` of `grpo` must be at least 2"),
        ("algorithm = 'grpo'\nloss = 'sigmoid'\nREWARDS", "cannot be `sigmoid`"),
        ("algorithm = 'rloo'\nscale = 'none'\nREWARDS", "`scale` is not for `rloo`"),
        ("algorithm = 'grpo'\nlambda = 0.9\nREWARDS", "`lambda` is not for `grpo`"),
        ("algorithm = 'ppo'\ntemperature = 0.0\nREWARDS", "`temperature` must be above 0"),
        ("algorithm = 'ppo'\nbatch_size = 1\nminibatches = 2\nREWARDS", "but a step has 1 answers"),
        ("algorithm = 'ppo'\nreplace_dead_groups = true\nREWARDS", "needs groups"),
    ] {
        let text = format!("model = 'm'\ndata = 'd'\n{}", text.replace("REWARDS", REWARDS));
        let error = AlignStage.configure(text.parse().unwrap()).err().unwrap();
        assert_eq!(error.class(), Class::Usage, "{text}");
        assert!(error.to_string().contains(message), "{error}");
    }
}
