//! Duplicates of what an earlier run had, and Bloom filters.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

mod bed;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cupola_artifact::Result;
use cupola_artifact::stage::{Input, Report, Silent, Stage, StageContext};
use cupola_data::DataStage;
use cupola_records::{Split, read_documents};
use serde_json::{Value, json};

/// Words that follow from a number.
fn words(seed: u64, count: usize) -> Vec<String> {
    let mut state = seed;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("w{}", (state >> 33) % 5000)
    };
    (0..count).map(|_| word()).collect()
}

/// The text of a document: lines of ten words, of which some stand in other documents.
fn text(document: u64, changed: usize) -> String {
    let mut words = words(document + 1, 120);
    (0..changed).for_each(|i| words[50 + i] = format!("changed{i}"));
    let mut lines: Vec<String> = words.chunks(10).map(|line| line.join(" ")).collect();
    if document.is_multiple_of(3) {
        lines.push(format!("all rights reserved by the publishers of volume {}", document % 9));
    }
    lines.join("\n")
}

/// Two files, an old and a new one: copies within each and across them, exact, near, and near to near copies that went.
fn corpus() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut old, mut new) = (String::new(), String::new());
    let add = |into: &mut String, id: String, text: String| *into += &format!("{}\n", json!({"id": id, "text": text}));
    for i in 0..400 {
        add(&mut old, format!("old-{i}"), text(i, 0));
        if i % 7 == 0 {
            add(&mut old, format!("old-near-{i}"), text(i, 2));
        }
    }
    for i in 300..700 {
        let changed = if i % 2 == 0 { 0 } else { 3 };
        add(&mut new, format!("new-{i}"), text(i, changed));
        if i % 5 == 0 {
            add(&mut new, format!("new-copy-{i}"), text(i, changed));
            add(&mut new, format!("new-near-{i}"), text(i, 5));
        }
    }
    fs::write(dir.path().join("old.jsonl"), old).unwrap();
    fs::write(dir.path().join("new.jsonl"), new).unwrap();
    dir
}

fn run(dir: &Path, out: &str, sources: &[&str], steps: &[String], threads: usize) -> Result<Report> {
    bed::run_stage(dir, out, threads, &format!("sources = {}\nsteps = [{}]", json!(sources), steps.join(", ")))
}

/// The documents that a run kept of the new file.
fn kept(dir: &Path, out: &str) -> BTreeSet<(String, String)> {
    let both = [Split::Train, Split::Validation].map(|split| read_documents(&dir.join(out), split).unwrap());
    let new = both.into_iter().flatten().filter(|document| document.source.ends_with("new.jsonl"));
    new.map(|document| (document.id, document.text)).collect()
}

fn steps(common: &str, kinds: &[&str]) -> Vec<String> {
    kinds.iter().map(|kind| format!("{{ step = \"{kind}\"{common} }}")).collect()
}

const KINDS: [&str; 4] = ["exact_duplicates", "near_duplicates", "line_duplicates", "url_duplicates"];

#[test]
fn a_run_against_an_earlier_one_keeps_what_one_run_over_both_keeps_of_the_new_documents() {
    let dir = corpus();
    let dir = dir.path();
    for (name, more) in [("exact", ""), ("jaccard", ", verify = \"jaccard\"")] {
        let steps = |common: &str| {
            let mut steps = steps(common, &KINDS);
            steps[1] = format!("{{ step = \"near_duplicates\"{more}{common} }}");
            steps
        };
        let [both, old, new] = ["both", "old", "new"].map(|run| format!("{name}-{run}"));
        run(dir, &both, &["old.jsonl", "new.jsonl"], &steps(""), 2).unwrap();
        run(dir, &old, &["old.jsonl"], &steps(", keep_index = true"), 2).unwrap();
        let against = format!(", against = [\"{old}\"], keep_index = true");
        let report = run(dir, &new, &["new.jsonl"], &steps(&against), 1).unwrap();
        let all = kept(dir, &both);
        assert!(all.len() > 250 && all.len() < 400, "{}", all.len());
        assert_eq!(kept(dir, &new), all, "{name}");
        assert!(report.metrics["exact_duplicates.documents_of_earlier_runs"].as_u64().unwrap() >= 50);
        assert!(report.metrics["near_duplicates.documents_of_earlier_runs"].as_u64().unwrap() >= 50);
        // The same on several threads, byte for byte, and nothing is new against both.
        let again = format!("{name}-again");
        run(dir, &again, &["new.jsonl"], &steps(&against), 3).unwrap();
        for file in ["train.jsonl.zst", "index/1-near_duplicates.keys", "index/1-near_duplicates.sketch"] {
            assert_eq!(fs::read(dir.join(&new).join(file)).unwrap(), fs::read(dir.join(&again).join(file)).unwrap());
        }
        let against = format!(", against = [\"{old}\", \"{new}\"]");
        let error = run(dir, &format!("{name}-none"), &["new.jsonl"], &steps(&against), 2).unwrap_err();
        assert!(error.to_string().contains("nothing is left"), "{error}");
    }
}

#[test]
fn an_earlier_stage_is_named_as_the_recipe_names_it() {
    let dir = corpus();
    let dir = dir.path();
    run(dir, "old", &["old.jsonl"], &steps(", keep_index = true", &["exact_duplicates"]), 2).unwrap();
    for (out, name) in [("short", "january"), ("full", "data.january")] {
        let config = format!(
            "sources = [\"new.jsonl\"]\nsteps = [{}]",
            steps(&format!(", against = [\"{name}\"]"), &["exact_duplicates"]).join("")
        );
        let configured = DataStage.configure(config.parse().unwrap()).unwrap();
        assert!(configured.references().iter().any(|reference| reference.value == name));
        let [out, work] = ["", ".work"].map(|ending| dir.join(format!("{out}{ending}")));
        [&out, &work].into_iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        let (key, reference) = ("steps".to_owned(), "january".to_owned());
        let context = StageContext {
            name: "february",
            dir: &out,
            work: &work,
            recipe_dir: dir,
            inputs: &[Input { key, reference, path: dir.join("old"), kind: Some("data".to_owned()) }],
            device: "cpu",
            seed: 1,
            progress: &Silent,
        };
        let report = configured.run(&context).unwrap();
        assert_eq!(report.metrics["exact_duplicates.documents_of_earlier_runs"], 60);
    }
}

#[test]
fn an_index_of_other_settings_or_none_is_an_error() {
    let dir = corpus();
    let dir = dir.path();
    run(dir, "old", &["old.jsonl"], &steps(", keep_index = true", &["near_duplicates"]), 2).unwrap();
    let hint = |step: &str| {
        let error = run(dir, "new", &["new.jsonl"], &[step.to_owned()], 2).unwrap_err();
        assert!(error.to_string().contains("`old` has no index of"), "{error}");
        error.hint().unwrap().to_owned()
    };
    assert!(hint("{ step = \"exact_duplicates\", against = [\"old\"] }").contains("keep_index = true"));
    assert!(hint("{ step = \"near_duplicates\", ngram = 3, against = [\"old\"] }").contains("\"ngram\":3"));
    let error =
        run(dir, "new", &["new.jsonl"], &["{ step = \"normalize\", keep_index = true }".into()], 2).unwrap_err();
    assert!(error.to_string().contains("unknown key `keep_index`"), "{error}");
}

#[test]
fn a_bloom_filter_removes_what_the_exact_index_removes_and_a_few_more() {
    let dir = corpus();
    let dir = dir.path();
    let (sources, file) = (["old.jsonl", "new.jsonl"], "train.jsonl.zst");
    let read = |out: &str| fs::read(dir.join(out).join(file)).unwrap();
    run(dir, "exact", &sources, &steps("", &["line_duplicates"]), 2).unwrap();
    let report = run(dir, "bloom", &sources, &steps(", index = \"bloom\"", &["line_duplicates"]), 2).unwrap();
    assert_eq!(read("bloom"), read("exact"), "one in a million of 9,000 lines");
    let noted = |report: &Report, name: &str| report.metrics[&format!("line_duplicates.{name}")].as_u64().unwrap();
    let lines = 400 * 12 + 58 * 12 + 560 * 12;
    assert!((3 * lines..4 * lines).contains(&noted(&report, "bloom_bytes")), "{}", noted(&report, "bloom_bytes"));
    assert!(noted(&report, "expected_false_positives") <= 1);
    run(dir, "threads", &sources, &steps(", index = \"bloom\"", &["line_duplicates"]), 1).unwrap();
    assert_eq!(read("threads"), read("exact"));

    // Many false positives, as many as it says: the lines of a part are looked for among those of the parts before.
    for file in 0..2 {
        let line = |i: u64| json!({"id": format!("{file}-{i}"), "text": text(300_000 * (file + 1) + 3 * i + 1, 0)});
        let lines: String = (0..6000).map(|i| format!("{}\n", line(i))).collect();
        fs::write(dir.join(format!("large-{file}.jsonl")), lines).unwrap();
    }
    let coarse = steps(", index = \"bloom\", false_positives = 0.2", &["line_duplicates"]);
    let report = run(dir, "coarse", &["large-*.jsonl"], &coarse, 2).unwrap();
    let told: Value = serde_json::from_slice(&fs::read(dir.join("coarse/report.json")).unwrap()).unwrap();
    let removed = told["steps"][0]["notes"]["line_duplicates"].as_u64().unwrap();
    let expected = noted(&report, "expected_false_positives");
    assert!(expected > 1000 && removed.abs_diff(expected) < expected / 10, "{removed} instead of {expected}");

    // The filter of an earlier run.
    let kept_index = steps(", index = \"bloom\", keep_index = true", &["line_duplicates"]);
    run(dir, "old", &["old.jsonl"], &kept_index, 2).unwrap();
    let against = steps(", index = \"bloom\", against = [\"old\"]", &["line_duplicates"]);
    run(dir, "new", &["new.jsonl"], &against, 2).unwrap();
    assert_eq!(kept(dir, "new"), kept(dir, "exact"));
}
