//! Pretraining killed at any moment ends, when the command is repeated, with the weights of an uninterrupted run.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RECIPE: &str = r#"
seed = 7
[data.corpus]
sources = ["text.txt"]
split = "position"
[tokenizer.bpe]
data = "corpus"
vocab_size = 300
[pretrain.base]
data = "corpus"
tokenizer = "bpe"
depth = 2
d_model = 32
seq_len = 32
batch_tokens = 256
micro_batch = 3
tokens = 60000
checkpoints = 60
evaluations = 2
samples = 1
"#;

fn start(place: &Path, out: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_cupola"))
        .args(["run", "recipe.toml", "--out", out])
        .current_dir(place)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn weights(place: &Path, out: &str) -> Vec<u8> {
    fs::read(place.join(out).join("pretrain.base/model.safetensors")).unwrap()
}

fn checkpoint_names(place: &Path, out: &str) -> Vec<String> {
    let dir = place.join(out).join(".work/pretrain.base/work/checkpoints");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Waits until `seen` holds, the run has ended, or ten seconds have passed; tells whether it held.
fn wait_for(child: &mut Child, seen: impl Fn() -> bool) -> bool {
    let clock = Instant::now();
    while clock.elapsed() < Duration::from_secs(10) {
        if seen() {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
    }
    false
}

#[test]
fn killed_pretraining_ends_with_the_weights_of_an_uninterrupted_run() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let text: String = (0..6000).map(|i| format!("Line {i} speaks of {} and {}.\n", i * i % 97, i % 13)).collect();
    fs::write(place.join("text.txt"), text).unwrap();
    fs::write(place.join("recipe.toml"), RECIPE).unwrap();
    let clock = Instant::now();
    assert!(start(place, "whole").wait().unwrap().success());
    let whole = clock.elapsed();
    let want = weights(place, "whole");

    // One run that dies again and again at moments spread over its length.
    for tenth in [2, 3, 5, 4, 3] {
        let child = start(place, "often");
        std::thread::sleep(whole * tenth / 10);
        kill(child);
    }
    assert!(start(place, "often").wait().unwrap().success());
    assert_eq!(weights(place, "often"), want, "killed at moments spread over the run");

    // Others that die in the middle of writing a checkpoint.
    let mut caught = 0;
    for attempt in 0..4 {
        let out = format!("writing-{attempt}");
        for _ in 0..3 {
            let mut child = start(place, &out);
            let began = checkpoint_names(place, &out).len();
            let writing = || checkpoint_names(place, &out).iter().any(|n| n.ends_with(".partial"));
            caught += usize::from(wait_for(&mut child, || checkpoint_names(place, &out).len() >= began && writing()));
            kill(child);
        }
        assert!(start(place, &out).wait().unwrap().success());
        assert_eq!(weights(place, &out), want, "killed while a checkpoint was being written");
    }
    assert!(caught > 0, "no kill fell into the writing of a checkpoint");
}

#[test]
fn every_optimizer_continues_where_it_was_killed() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let text: String = (0..3000).map(|i| format!("Line {i} speaks of {} and {}.\n", i * i % 97, i % 13)).collect();
    fs::write(place.join("text.txt"), text).unwrap();
    for (name, state) in [("lion", "bf16"), ("sgd", "f32"), ("adafactor", "f32"), ("muon", "bf16")] {
        let recipe = RECIPE.replace("tokens = 60000", "tokens = 20000").replace("checkpoints = 60", "checkpoints = 8");
        let settings = format!("optimizer = \"{name}\"\noptimizer_state = \"{state}\"\n");
        fs::write(place.join("recipe.toml"), recipe + &settings).unwrap();
        let (whole, killed) = (format!("{name}-whole"), format!("{name}-killed"));
        assert!(start(place, &whole).wait().unwrap().success(), "{name}");
        let mut child = start(place, &killed);
        let saved = || checkpoint_names(place, &killed).iter().any(|n| !n.ends_with(".partial"));
        assert!(wait_for(&mut child, saved), "{name} ended before its first checkpoint was seen");
        kill(child);
        assert!(start(place, &killed).wait().unwrap().success(), "{name}");
        assert_eq!(weights(place, &killed), weights(place, &whole), "{name}");
    }
}

const PACKED: &str = r#"
seed = 7
[data.lines]
sources = ["text.txt"]
split = "position"
[data.sums]
sources = ["sums.jsonl"]
[tokenizer.bpe]
data = "lines"
vocab_size = 300
[pack.prose]
data = "lines"
tokenizer = "bpe"
shard_tokens = 20000
[pack.sums]
data = "sums"
tokenizer = "bpe"
[pack.sums.rows]
length = 32
[pretrain.base]
data = ["prose", "pack.sums"]
curriculum = [{ until = 0.5, weights = { prose = 3, sums = 1 } }, { weights = { sums = 1 } }]
depth = 2
d_model = 32
seq_len = 32
batch_tokens = 256
micro_batch = 3
tokens = 20000
checkpoints = 8
evaluations = 2
samples = 1
"#;

#[test]
fn training_on_a_mixture_of_packs_continues_where_it_was_killed() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let text: String = (0..3000).map(|i| format!("Line {i} speaks of {} and {}.\n", i * i % 97, i % 13)).collect();
    fs::write(place.join("text.txt"), text).unwrap();
    let sums: String = (0..2000).map(|i| format!("{{\"text\": \"{i} and {} are {}\"}}\n", i % 7, i + i % 7)).collect();
    fs::write(place.join("sums.jsonl"), sums).unwrap();
    fs::write(place.join("recipe.toml"), PACKED).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_cupola")).args(args).current_dir(place).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.success(), text)
    };
    let planned = run(&["plan", "recipe.toml", "--out", "whole"]).1;
    assert!(planned.contains("prose: about ") && planned.contains("37.5% of the training"), "{planned}");
    let (done, text) = run(&["run", "recipe.toml", "--out", "whole"]);
    assert!(done && text.contains("sums: ") && text.contains("62.5% of the training"), "{text}");
    // Now that the shards are there, the plan counts them.
    let counted = run(&["plan", "recipe.toml", "--out", "whole"]).1;
    let line = |text: &str| text.lines().find(|line| line.contains("prose: ")).map(|line| line.trim().to_owned());
    assert!(!counted.contains("about ") && text.contains(&line(&counted).unwrap()), "{counted}\n{text}");

    let mut child = start(place, "killed");
    let saved = || checkpoint_names(place, "killed").iter().any(|n| !n.ends_with(".partial"));
    assert!(wait_for(&mut child, saved), "it ended before its first checkpoint was seen");
    kill(child);
    assert!(start(place, "killed").wait().unwrap().success());
    assert_eq!(weights(place, "killed"), weights(place, "whole"));

    for (setting, what) in [
        ("pretrain.base.seq_len=64", "the packed rows have 32 tokens, but seq_len = 64"),
        ("pretrain.base.data=[\"prose\", \"lines\"]", "not all packs"),
        ("pretrain.base.data=\"lines\"", "`data` in [pretrain.base] names 1 inputs"),
        ("pretrain.base.curriculum=[{weights={sum=1}}]", "did you mean `sums`?"),
    ] {
        let (done, text) = run(&["run", "recipe.toml", "--out", "wrong", "--set", setting]);
        assert!(!done && text.contains(what), "{setting}: {text}");
    }
}
