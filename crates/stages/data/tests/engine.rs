//! The engine: the same bytes whatever the threads and the interruptions.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

mod bed;

use std::fs;
use std::path::Path;

use serde_json::json;

use bed::{run_stage as run, run_told};
use cupola_artifact::stage::{PlanInputs, Progress, Stage};
use cupola_data::DataStage;

const FILES: [&str; 4] = ["train.jsonl.zst", "validation.jsonl.zst", "dropped.jsonl.zst", "report.json"];

/// Three large files of several chunks each and a few small ones, with copies across them.
fn corpus() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut state = 7_u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("w{}", (state >> 33) % 5000)
    };
    let documents: Vec<String> = (0..9000).map(|_| (0..400).map(|_| word()).collect::<Vec<_>>().join(" ")).collect();
    for (file, some) in documents.chunks(3000).enumerate() {
        let mut lines = String::new();
        for (i, text) in some.iter().enumerate() {
            lines += &format!("{}\n", json!({"id": format!("{file}-{i}"), "text": text}));
        }
        // Copies of an earlier file's documents, exact and with a word changed.
        for i in (0..3000).step_by(50) {
            let text = &documents[i];
            lines += &format!("{}\n", json!({"id": format!("{file}-exact-{i}"), "text": text}));
            lines += &format!("{}\n", json!({"id": format!("{file}-near-{i}"), "text": format!("{text} more")}));
        }
        fs::write(dir.path().join(format!("{file}.jsonl")), lines).unwrap();
    }
    for i in 0..20 {
        fs::write(dir.path().join(format!("small-{i:02}.txt")), format!("A small text, number {i}.")).unwrap();
    }
    dir
}

fn same(dir: &Path, one: &str, other: &str) {
    for file in FILES {
        let read = |out: &str| fs::read(dir.join(out).join(file)).unwrap();
        assert!(read(one) == read(other), "{file} of {one} and {other}");
    }
}

const CONFIG: &str = "sources = [\"*.jsonl\", \"small-*.txt\"]";

#[test]
fn threads_and_interruptions_change_no_byte() {
    let dir = corpus();
    let report = run(dir.path(), "one", 1, CONFIG).unwrap();
    assert_eq!(report.metrics["documents_in"], 9000 + 3 * 120 + 20);
    assert_eq!(report.metrics["documents_dropped"], 3 * 120);
    run(dir.path(), "three", 3, CONFIG).unwrap();
    same(dir.path(), "one", "three");

    // Cut off in the first pass: some parts are there, one of them without its description, and no later pass.
    let work = dir.path().join("three.work");
    fs::remove_dir_all(dir.path().join("three")).unwrap();
    let parts = |pass: &str| {
        let mut parts: Vec<_> = fs::read_dir(work.join(pass)).unwrap().map(|entry| entry.unwrap().path()).collect();
        parts.retain(|path| path.extension().is_some_and(|e| e == "json") && !path.ends_with("clusters.json"));
        parts.sort();
        parts
    };
    assert!(parts("pass-0").len() >= 4, "{:?}", parts("pass-0"));
    // The first pass's documents are gone by now, so it has to be made again as a whole.
    parts("pass-0").into_iter().for_each(|path| fs::remove_file(path).unwrap());
    fs::remove_file(work.join("pass-0/decisions")).unwrap();
    fs::remove_dir_all(work.join("pass-1")).unwrap();
    fs::remove_dir_all(work.join("pass-2")).unwrap();
    run(dir.path(), "three", 2, CONFIG).unwrap();
    same(dir.path(), "one", "three");
}

#[test]
fn a_run_goes_on_where_it_was_cut_off_and_says_the_same() {
    let dir = corpus();
    let config = "sources = [\"*.jsonl\", \"small-*.txt\"]\nsteps = [\"normalize\"]\nsplit = \"position\"";
    run(dir.path(), "whole", 2, config).unwrap();
    let first = run(dir.path(), "cut", 2, config).unwrap();
    let pass = dir.path().join("cut.work/pass-0");
    let mut described: Vec<_> = fs::read_dir(&pass).unwrap().map(|entry| entry.unwrap().path()).collect();
    described.retain(|path| path.extension().is_some_and(|e| e == "json"));
    described.sort();
    // What remains is not made again: its time of writing stays.
    let (lost, kept) = described.split_at(described.len() / 2);
    lost.iter().for_each(|path| fs::remove_file(path).unwrap());
    let times = |paths: &[std::path::PathBuf]| -> Vec<_> {
        paths.iter().map(|path| fs::metadata(path).unwrap().modified().unwrap()).collect()
    };
    let before = times(kept);
    fs::remove_dir_all(dir.path().join("cut")).unwrap();
    let again = run(dir.path(), "cut", 3, config).unwrap();
    assert_eq!(first, again);
    assert_eq!(times(kept), before);
    same(dir.path(), "whole", "cut");
}

#[test]
fn sources_are_repeated_and_thinned_out() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        let lines: String = (0..400).map(|i| format!("{}\n", json!({"text": format!("{name} {i}")}))).collect();
        fs::write(dir.path().join(format!("{name}.jsonl")), lines).unwrap();
    }
    let config = "sources = [\"a.jsonl\", { path = \"b.jsonl\", epochs = 2.5 }, { path = \"c.jsonl\", epochs = 0.25 }]\n\
                  steps = []\nvalidation_fraction = 0.0";
    run(dir.path(), "out", 2, config).unwrap();
    let train = cupola_records::read_documents(&dir.path().join("out"), cupola_records::Split::Train).unwrap();
    let count = |name: &str| train.iter().filter(|d| d.source == format!("{name}.jsonl")).count();
    assert_eq!(count("a"), 400);
    assert!((940..1060).contains(&count("b")) && (70..130).contains(&count("c")), "{} {}", count("b"), count("c"));
    assert!(!train.iter().any(|d| d.text == "b 0") || train.iter().filter(|d| d.text == "b 0").count() >= 2);
}

#[test]
fn a_mixture_gives_each_source_its_share() {
    let dir = tempfile::tempdir().unwrap();
    for (name, n) in [("a", 1000), ("b", 4000)] {
        let lines: String = (0..n).map(|i| format!("{}\n", json!({"text": format!("{name} text {i:05}")}))).collect();
        fs::write(dir.path().join(format!("{name}.jsonl")), lines).unwrap();
    }
    let written = |sources: &str, mixture: &str| {
        let config = format!(
            "sources = [{sources}]\nmixture = {mixture}\nvalidation_fraction = 0.0\nsteps = [\"exact_duplicates\"]"
        );
        let report = run(dir.path(), "out", 2, &config).unwrap();
        assert_eq!(report.metrics["documents_kept"], 5000);
        let train = cupola_records::read_documents(&dir.path().join("out"), cupola_records::Split::Train).unwrap();
        fs::remove_dir_all(dir.path().join("out.work")).unwrap();
        ["a.jsonl", "b.jsonl"].map(|name| train.iter().filter(|d| d.source == name).count() as f64)
    };
    let weighted = "{ path = \"a.jsonl\", weight = 3.0 }, { path = \"b.jsonl\", weight = 1.0 }";
    let [a, b] = written(weighted, "{}");
    assert!((a / b / 3.0 - 1.0).abs() < 0.05 && (a + b - 5000.0).abs() < 150.0, "{a} {b}");
    // No more than twice.
    assert_eq!(written(weighted, "{ max_epochs = 2.0 }")[0], 2000.0);
    // The square root of 1 : 4 is 1 : 2.
    let [a, b] = written("\"a.jsonl\", \"b.jsonl\"", "{ temperature = 2.0, bytes = 36000 }");
    assert!((b / a / 2.0 - 1.0).abs() < 0.1 && (a + b - 3000.0).abs() < 150.0, "{a} {b}");
}

/// Keeps what it is told.
#[derive(Default)]
struct Told(std::sync::Mutex<Vec<String>>);

impl Progress for Told {
    fn begin(&self, task: &str, _: Option<u64>, _: &str) {
        self.line(task);
    }
    fn update(&self, _: u64, _: &str) {}
    fn end(&self) {}
    fn line(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn warn(&self, text: &str) {
        self.line(text);
    }
}

#[test]
fn what_the_mixture_will_be_is_told_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for (name, n) in [("a", 1000), ("b", 4000)] {
        let lines: String = (0..n).map(|i| format!("{}\n", json!({"text": format!("{name} text {i:05}")}))).collect();
        fs::write(dir.path().join(format!("{name}.jsonl")), lines).unwrap();
    }
    let config = "steps = []\nmixture = {}\n\
                  sources = [{ path = \"a.jsonl\", weight = 3 }, { path = \"b.jsonl\", weight = 1 }]";
    let told = Told::default();
    run_told(dir.path(), ("out", 2), config, &told).unwrap();
    let told = told.0.into_inner().unwrap();
    assert!(told[0].starts_with("a.jsonl: about 1.0k documents"), "{told:?}");
    assert!(told[0].contains("3.75 epochs make ") && told[0].ends_with("75.0% of the text"), "{told:?}");
    assert!(told[1].starts_with("b.jsonl: about 4.0k documents") && told[1].ends_with("25.0% of the text"), "{told:?}");
    assert_eq!(told[2], "reading");
    // Of what was kept, exactly.
    assert!(told.iter().any(|line| line.starts_with("mixture: a.jsonl, ") && line.ends_with("75.0%")), "{told:?}");
    let configured = DataStage.configure(config.parse().unwrap()).unwrap();
    let inputs = PlanInputs { inputs: vec![], recipe_dir: dir.path(), peak_flops: 1.0 };
    let notes = configured.plan(&inputs).unwrap().notes;
    assert!(notes.contains(&told[0]) && notes.contains(&told[1]), "{notes:?}");
}

#[test]
fn too_many_broken_records_stop_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String =
        (0..200).map(|i| if i % 4 == 0 { "{broken\n".into() } else { format!("{{\"text\":\"t {i}\"}}\n") }).collect();
    fs::write(dir.path().join("a.jsonl"), lines).unwrap();
    let config = "sources = [\"a.jsonl\"]\non_error = \"skip\"\nsteps = []";
    let error = run(dir.path(), "out", 2, config).unwrap_err();
    assert!(error.chain().contains("50 of 200 records"), "{}", error.chain());
    assert!(error.hint().unwrap().contains("max_broken"));
    let report = run(dir.path(), "more", 2, &format!("{config}\nmax_broken = 0.5")).unwrap();
    assert_eq!(report.metrics["documents_kept"], 150);
}
