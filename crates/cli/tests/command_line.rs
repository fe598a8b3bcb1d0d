//! The program from outside: exit statuses, what goes where, and that damage is found.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RECIPE: &str = r#"
[data.corpus]
sources = ["texts/*.txt"]
split = "position"
[data.second]
sources = ["texts/b.txt"]
split = "position"
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new(recipe: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("texts")).unwrap();
        for (name, line) in
            [("a", "The quick brown fox jumps over the dog.\n"), ("b", "A second text, not the first.\n")]
        {
            fs::write(place.path(&format!("texts/{name}.txt")), line.repeat(40)).unwrap();
        }
        fs::write(place.path("recipe.toml"), recipe).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn cupola(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cupola")).args(args).current_dir(self.0.path()).output().unwrap()
    }

    /// Runs the program and gives back its standard output; it must succeed.
    fn out(&self, args: &[&str]) -> String {
        let output = self.cupola(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the program and gives back its standard error; it must end with this status and print no result.
    fn fails(&self, status: i32, args: &[&str]) -> String {
        let output = self.cupola(args);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", stderr(&output));
        stderr(&output)
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_use_exits_with_2_and_says_the_way_out() {
    let place = Place::new(RECIPE);
    for (args, words) in [
        (&["run", "recipe.toml", "--onyl", "x"][..], &["--only"][..]),
        (&["rum"], &["run"]),
        (&["run", "recip.toml"], &["error: there is no file recip.toml", "hint: "]),
        (
            &["run", "recipe.toml", "--only", "corpsu"],
            &["error: the recipe has no stage `corpsu`", "hint: did you mean `corpus`?"],
        ),
        (
            &["run", "recipe.toml", "--set", "data.corpus.sorces=1"],
            &["error: unknown key `sorces` in [data.corpus]", "hint: did you mean `sources`?"],
        ),
        (&["run", "recipe.toml", "--device", "gpu"], &["cpu"]),
        (&["verify", "texts"], &["error: ", "hint: "]),
        (&["inspect", "nowhere"], &["error: there is no nowhere", "hint: "]),
    ] {
        let text = place.fails(2, args);
        assert!(words.iter().all(|word| text.contains(word)), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
    assert!(!place.path("runs").exists(), "wrong use leaves nothing behind");
}

#[test]
fn run_then_nothing_to_do_then_only_what_changed() {
    let place = Place::new(RECIPE);
    let first = place.out(&["run", "recipe.toml", "--out", "r"]);
    assert!(first.contains("data.corpus") && first.contains("2 of 2 stages ran"), "{first}");
    let clock = std::time::Instant::now();
    let second = place.out(&["run", "recipe.toml", "--out", "r"]);
    assert!(second.starts_with("nothing to do: 2 of 2 stages are up to date"), "{second}");
    assert!(clock.elapsed().as_secs_f64() < 1.0, "{:?}", clock.elapsed());
    fs::write(place.path("texts/a.txt"), "Something else altogether.\n".repeat(40)).unwrap();
    let record: serde_json::Value =
        serde_json::from_str(&place.out(&["run", "recipe.toml", "--out", "r", "--json"])).unwrap();
    let status: Vec<&str> =
        record["stages"].as_array().unwrap().iter().map(|stage| stage["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["made", "unchanged"]);
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(place.path("r/run.json")).unwrap()).unwrap();
    assert_eq!(kept["stages"], record["stages"]);
}

#[test]
fn flipped_byte_is_found_and_its_file_named() {
    let place = Place::new(RECIPE);
    place.out(&["run", "recipe.toml", "--out", "r"]);
    assert!(place.out(&["verify", "r"]).contains("are unchanged"));
    for file in files_below(&place.path("r/data.corpus")).into_iter().chain([place.path("texts/a.txt")]) {
        let good = fs::read(&file).unwrap();
        let mut bad = good.clone();
        let Some(byte) = bad.get_mut(good.len() / 2) else { continue };
        *byte ^= 4;
        fs::write(&file, bad).unwrap();
        let text = place.fails(1, &["verify", "r/data.corpus"]);
        assert!(text.contains(file.file_name().unwrap().to_str().unwrap()), "{}: {text}", file.display());
        fs::write(&file, good).unwrap();
    }
    place.out(&["verify", "r"]);
}

#[test]
fn failed_stage_exits_with_1_and_keeps_what_was_finished() {
    let place = Place::new(&format!("{RECIPE}[data.broken]\nsources = [\"broken.jsonl\"]\nsplit = \"position\"\n"));
    fs::write(place.path("broken.jsonl"), "{\"text\": \"fine\"}\n{\"text\": ").unwrap();
    let text = place.fails(1, &["run", "recipe.toml", "--out", "r"]);
    assert!(text.contains("error: the stage data.broken failed") && text.contains("cause: "), "{text}");
    assert!(text.contains("broken.jsonl"), "{text}");
    assert!(place.path("r/data.corpus/manifest.json").exists() && !place.path("r/data.broken").exists());
    fs::write(place.path("broken.jsonl"), "{\"text\": \"Now all is well.\"}\n".repeat(9)).unwrap();
    assert!(place.out(&["run", "recipe.toml", "--out", "r"]).contains("1 of 3 stages ran"));
}

#[test]
fn run_killed_at_any_moment_ends_the_same_when_repeated() {
    let place = Place::new(RECIPE);
    let lines: String = (0..40_000).map(|i| format!("Line {i} of a longer text, {} and so on.\n", i * i)).collect();
    fs::write(place.path("texts/a.txt"), lines).unwrap();
    let content = |out: &str| -> serde_json::Value {
        let manifest = place.path(out).join("data.corpus/manifest.json");
        let value: serde_json::Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
        value["content_hash"].clone()
    };
    let clock = std::time::Instant::now();
    place.out(&["run", "recipe.toml", "--out", "whole"]);
    let whole = clock.elapsed();
    for tenth in 0..=10 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cupola"))
            .args(["run", "recipe.toml", "--out", "cut", "--from", "corpus"])
            .current_dir(place.0.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * tenth / 10);
        child.kill().unwrap();
        child.wait().unwrap();
        place.out(&["run", "recipe.toml", "--out", "cut"]);
        assert!(place.out(&["verify", "cut"]).contains("are unchanged"));
        assert_eq!(content("cut"), content("whole"), "killed after {tenth} tenths");
    }
}

#[test]
fn stage_alone_needs_no_recipe() {
    let place = Place::new(RECIPE);
    let text = place.out(&[
        "data",
        "texts/*.txt",
        "--out",
        "d",
        "--set",
        "validation_fraction=0.5",
        "--set",
        "split=position",
    ]);
    assert!(text.contains("data.corpus"), "{text}");
    assert!(place.out(&["inspect", "d/data.corpus"]).contains("validation_fraction = 0.5"));
    let manifest: serde_json::Value =
        serde_json::from_str(&place.out(&["inspect", "d/data.corpus", "--json"])).unwrap();
    assert_eq!(manifest["inputs"].as_array().unwrap().len(), 2);
}

#[test]
fn plan_shows_every_stage_and_writes_nothing() {
    let place = Place::new(RECIPE);
    let text = place.out(&["plan", "recipe.toml"]);
    assert!(text.contains("data.corpus") && text.contains("total"), "{text}");
    assert!(!place.path("runs").exists());
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}
