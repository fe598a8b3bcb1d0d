//! The stage from files to artifact.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

mod bed;

use std::fs;
use std::io::Write;
use std::path::Path;

use cupola_artifact::stage::{PlanInputs, Report, Stage};
use cupola_artifact::{Class, Error, Result};
use cupola_data::{DataStage, Wanted, browse};
use cupola_records::{Split, read_documents};
use serde_json::{Value, json};

use bed::run_stage;

/// Runs into a folder, and leaves nothing to go on from.
fn run_into(recipe_dir: &Path, out: &str, config: &str) -> Result<Report> {
    let report = run_stage(recipe_dir, out, 2, config)?;
    fs::remove_dir_all(recipe_dir.join(format!("{out}.work"))).unwrap();
    Ok(report)
}

fn run(recipe_dir: &Path, config: &str) -> Result<(Report, Value)> {
    let dir = recipe_dir.join("out");
    let report = run_into(recipe_dir, "out", config)?;
    Ok((report, serde_json::from_slice(&fs::read(dir.join("report.json")).unwrap()).unwrap()))
}

fn fails(recipe_dir: &Path, config: &str) -> Error {
    run(recipe_dir, config).map(|_| ()).unwrap_err()
}

/// Documents and bytes of a tally, and whether they add up.
fn adds_up(tally: &Value) -> bool {
    ["documents", "bytes"].iter().all(|unit| {
        let dropped: u64 = tally["dropped"].as_object().unwrap().values().map(|c| c[unit].as_u64().unwrap()).sum();
        tally["read"][unit].as_u64().unwrap() == tally["kept"][unit].as_u64().unwrap() + dropped
    })
}

fn sentence(i: usize) -> String {
    (0..30).map(|j| format!("w{} ", (i * 7919 + j * 104_729) % 10_007)).collect()
}

/// A folder with two files of many defects.
fn corpus() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut lines: Vec<String> =
        (0..40).map(|i| json!({"id": format!("d{i}"), "text": sentence(i)}).to_string()).collect();
    lines.push(json!({"id": "copy", "text": sentence(3)}).to_string());
    lines.push(json!({"id": "near", "text": sentence(4).to_uppercase()}).to_string());
    lines.push(json!({"id": "blank", "text": " \r\n"}).to_string());
    lines.push(json!({"id": "none"}).to_string());
    lines.push("{\"id\": \"broken".into());
    fs::write(dir.path().join("a.jsonl"), lines.join("\n")).unwrap();
    fs::write(dir.path().join("b.txt"), "cafe\u{301}\r\nau lait\0\r\n".repeat(20)).unwrap();
    dir
}

const SKIP: &str = "sources = [\"*.jsonl\", \"b.txt\"]\non_error = \"skip\"\nsplit = \"position\"";

#[test]
fn every_document_is_kept_or_counted_under_its_reason() {
    let dir = corpus();
    let (report, json) = run(dir.path(), SKIP).unwrap();
    assert!(adds_up(&json["total"]), "{json:#}");
    assert!(json["sources"].as_object().unwrap().values().all(adds_up));
    for reason in ["exact_duplicate", "near_duplicate", "empty", "no_text", "broken_record"] {
        assert_eq!(json["total"]["dropped"][reason]["documents"], 1, "{reason}: {json:#}");
    }
    assert_eq!(json["total"]["read"]["documents"], 46);
    assert_eq!(json["steps"][2]["clusters"]["count"], 1);
    assert_eq!(json["steps"][2]["clusters"]["largest"][0]["examples"][1][0], "near");
    assert_eq!((&report.metrics["documents_in"], &report.metrics["documents_kept"]), (&json!(46), &json!(41)));
    let text: u64 = ["train", "validation"].iter().map(|s| json[s]["bytes"].as_u64().unwrap()).sum();
    let kept = json["total"]["kept"]["bytes"].as_i64().unwrap();
    assert_eq!(text as i64, kept - json["bytes_removed_from_kept_texts"].as_i64().unwrap());
    assert!(fs::read_to_string(dir.path().join("out/report.md")).unwrap().contains("dropped: near_duplicate"));
}

#[test]
fn order_is_kept_and_text_is_normalized() {
    let dir = corpus();
    run(dir.path(), SKIP).unwrap();
    let out = dir.path().join("out");
    let mut all = read_documents(&out, Split::Train).unwrap();
    all.extend(read_documents(&out, Split::Validation).unwrap());
    let mut ids: Vec<&str> = all.iter().map(|d| d.id.trim_end_matches('+')).collect();
    ids.dedup();
    assert_eq!(ids[..3], ["d0", "d1", "d2"]);
    assert_eq!(ids[40], "b.txt:1");
    let text: String = all.iter().filter(|d| d.source == "b.txt").map(|d| d.text.as_str()).collect();
    assert_eq!(text, "café\nau lait\n".repeat(20));
}

#[test]
fn a_second_run_writes_the_same_bytes() {
    let dir = corpus();
    for out in ["one", "two"] {
        run_into(dir.path(), out, SKIP).unwrap();
    }
    for file in ["train.jsonl.zst", "validation.jsonl.zst", "report.json", "report.md"] {
        let read = |out: &str| fs::read(dir.path().join(out).join(file)).unwrap();
        assert!(read("one") == read("two"), "{file}");
    }
}

#[test]
fn one_long_text_is_cut_at_the_last_tenth_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let text: String =
        (0..1_115_394_u32).map(|i| if i % 40 == 39 { '\n' } else { char::from(b'a' + (i % 7) as u8) }).collect();
    fs::write(dir.path().join("play.txt"), &text).unwrap();
    run(dir.path(), "sources = [\"play.txt\"]\nsplit = \"position\"").unwrap();
    let out = dir.path().join("out");
    assert_eq!(read_documents(&out, Split::Train).unwrap()[0].text, text[..1_003_854]);
    assert_eq!(read_documents(&out, Split::Validation).unwrap()[0].text, text[1_003_854..]);
}

#[test]
fn compressed_sources_and_folders_are_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("c")).unwrap();
    let lines: String = (0..20).map(|i| format!("{}\n", json!({"content": sentence(i)}))).collect();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(lines.as_bytes()).unwrap();
    fs::write(dir.path().join("c/a.jsonl.gz"), gz.finish().unwrap()).unwrap();
    let config = "sources = [\"c\"]\nsplit = \"position\"\ntext_field = \"content\"";
    assert_eq!(run(dir.path(), config).unwrap().1["total"]["kept"]["documents"], 20);
    let error = fails(dir.path(), "sources = [\"c\"]");
    assert!(error.chain().contains("a.jsonl.gz: line 1") && error.hint().unwrap().contains("content"), "{error:?}");
}

#[test]
fn filters_drop_with_their_reason() {
    let dir = corpus();
    let error = fails(dir.path(), &format!("{SKIP}\nsteps = [\"gopher_quality\"]"));
    assert!(error.chain().contains("nothing is left of the 46 documents"), "{}", error.chain());
    assert!(error.chain().contains("gopher_short_doc") && error.hint().is_some(), "{}", error.chain());
}

#[test]
fn a_broken_record_fails_with_its_line_and_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.jsonl"), "{\"text\": \"fine\"}\n\n{\"text\": \n").unwrap();
    let error = fails(dir.path(), "sources = [\"a.jsonl\"]");
    assert_eq!(error.class(), Class::Failed);
    assert!(error.chain().contains("a.jsonl: line 3"), "{}", error.chain());
    assert!(error.hint().unwrap().contains("on_error = \"skip\""));
}

#[test]
fn invalid_utf8_fails_with_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.txt"), b"ab\xFFc").unwrap();
    let error = fails(dir.path(), "sources = [\"a.txt\"]");
    assert!(error.chain().contains("invalid UTF-8 at byte offset 2"), "{}", error.chain());
}

#[test]
fn an_empty_corpus_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.txt"), "").unwrap();
    fs::write(dir.path().join("b.jsonl"), "\n").unwrap();
    for source in ["a.txt", "b.jsonl"] {
        let error = fails(dir.path(), &format!("sources = [\"{source}\"]"));
        assert!(format!("{} {}", error.chain(), error.hint().unwrap()).contains("the corpus is empty"), "{error:?}");
    }
}

#[test]
fn wrong_settings_are_usage_errors_with_hints() {
    let dir = tempfile::tempdir().unwrap();
    for (config, hint) in [
        ("source = [\"a\"]", "`sources`"),
        ("", "sources"),
        ("sources = [\"a\"]\nsteps = [\"gopher_qualty\"]", "`gopher_quality`"),
        ("sources = [\"a\"]\nvalidation_fraction = 1.5", "0.1"),
        ("sources = [\"a\"]\nsteps = [{ step = \"near_duplicates\", bands = 0 }]", "bands = 16"),
        ("sources = [\"a\"]\nsteps = [{ step = \"near_duplicates\", band = 3 }]", "`bands`"),
        ("sources = [\"none.txt\"]", "recipe"),
    ] {
        let error = fails(dir.path(), config);
        assert_eq!(error.class(), Class::Usage, "{config}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{config}: {error:?}");
    }
}

#[test]
fn the_plan_comes_near_the_facts() {
    let dir = corpus();
    let configured = DataStage.configure(SKIP.parse().unwrap()).unwrap();
    assert_eq!(configured.references().len(), 2);
    assert_eq!(configured.effective_config()["steps"][2]["bands"], 16);
    let plan = configured.plan(&PlanInputs { inputs: vec![], recipe_dir: dir.path(), peak_flops: 1e12 }).unwrap();
    let on_disk: u64 = ["a.jsonl", "b.txt"].iter().map(|f| fs::metadata(dir.path().join(f)).unwrap().len()).sum();
    assert_eq!(plan.facts["bytes"], on_disk as f64);
    assert!((40.0..55.0).contains(&plan.facts["documents"]), "{:?}", plan.facts);
}

#[test]
fn kept_and_dropped_documents_can_be_looked_through() {
    let dir = corpus();
    run(dir.path(), SKIP).unwrap();
    let look = |wanted: Wanted| -> Vec<(String, String)> {
        let seen = browse(&dir.path().join("out"), &wanted).unwrap().map(|seen| seen.unwrap());
        seen.map(|seen| (seen.id, seen.verdict)).collect()
    };
    assert_eq!(look(Wanted { kept: Some(true), ..Default::default() }).len(), 42, "one is cut in two");
    assert_eq!(look(Wanted { kept: Some(false), ..Default::default() }).len(), 5);
    let near = look(Wanted { reason: Some("near_duplicate".into()), ..Default::default() });
    assert_eq!(near, [("near".into(), "dropped by near_duplicates: near_duplicate".into())]);
    let au_lait = look(Wanted { find: Some("AU LAIT".into()), source: Some("b.".into()), ..Default::default() });
    assert_eq!(au_lait[0], ("b.txt:1".into(), "kept: validation".into()));
    let error = browse(dir.path(), &Wanted::default()).map(|_| ()).unwrap_err();
    assert!(error.chain().contains("no data artifact") && error.hint().is_some());
}

#[test]
fn evaluation_items_in_the_text_are_listed_and_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let item = "how many apples has the old gardener left when he gives seven of his nineteen apples away to children";
    let items: String =
        [sentence(1), item.to_owned(), sentence(2)].iter().map(|q| format!("{}\n", json!({"question": q}))).collect();
    fs::write(dir.path().join("eval.jsonl"), items).unwrap();
    let mut texts: Vec<String> = (10..30).map(sentence).collect();
    texts.push(format!("{} {item} {}", sentence(40), sentence(41)));
    let lines: String = texts.iter().map(|text| format!("{}\n", json!({"text": text}))).collect();
    fs::write(dir.path().join("a.jsonl"), lines).unwrap();
    let config = "sources = [\"a.jsonl\"]\nsplit = \"position\"\nsteps = [{ step = \"decontaminate\", against = [\"eval.jsonl\"] }]";
    let (_, report) = run(dir.path(), config).unwrap();
    assert_eq!(report["total"]["dropped"]["contaminated"]["documents"], 1, "{report:#}");
    let out = dir.path().join("out");
    let index: Value = serde_json::from_slice(&fs::read(out.join("contamination.json")).unwrap()).unwrap();
    assert_eq!(index, json!({"eval.jsonl": [1]}));
    let hits: Vec<Value> = cupola_records::read_records(&out.join("contamination.jsonl.zst"))
        .unwrap()
        .map(|record| record.unwrap().value)
        .collect();
    assert_eq!((hits.len(), hits[0]["document"].as_str()), (1, Some("a.jsonl:21")));
    assert!(hits[0]["item_text"].as_str().unwrap().contains("gardener"));
}
