//! Sources that lie elsewhere, from the recipe to the artifact.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

mod bed;
#[path = "../src/collect/tests/server.rs"]
mod server;

use std::fs;
use std::path::Path;

use cupola_artifact::stage::{PlanInputs, Report, Stage};
use cupola_artifact::{Result, sha256_hex};
use cupola_data::DataStage;
use cupola_records::{Split, read_documents};
use serde_json::{Value, json};

use bed::run_stage;
use server::{Answer, Server};

fn run(recipe_dir: &Path, config: &str) -> Result<Report> {
    run_stage(recipe_dir, "out", 2, config)
}

fn texts(dir: &Path) -> Vec<String> {
    read_documents(&dir.join("out"), Split::Train).unwrap().into_iter().map(|document| document.text).collect()
}

#[test]
fn an_address_is_read_like_a_file_and_its_hash_is_in_the_report_and_the_manifest() {
    let lines = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
    let server = Server::start(move |asked, _| Answer::file(asked, lines.as_bytes(), "\"v1\""));
    let (dir, address) = (tempfile::tempdir().unwrap(), server.at("/corpus.jsonl?key=1"));
    fs::write(dir.path().join("here.txt"), "here").unwrap();
    let config = format!("cache = \"cache\"\nvalidation_fraction = 0.0\nsources = [\"{address}\", \"here.txt\"]");
    let configured = DataStage.configure(config.parse().unwrap()).unwrap();
    let references: Vec<String> = configured.references().into_iter().map(|reference| reference.value).collect();
    assert_eq!(references, ["here.txt"], "an address has no path");
    assert_eq!(configured.effective_config()["sources"][0], json!(address), "but decides whether the stage runs again");
    assert!(configured.effective_config().get("cache").is_none());
    let report = run(dir.path(), &config).unwrap();
    assert_eq!(texts(dir.path()), ["one", "two", "here"]);
    assert_eq!(report.metrics["collected"], json!({ address.as_str(): sha256_hex(lines.as_bytes()) }));
    let written: Value = serde_json::from_slice(&fs::read(dir.path().join("out/report.json")).unwrap()).unwrap();
    let file = &written["collected"][0]["files"][0];
    assert_eq!((&file["address"], &file["bytes"]), (&json!(address), &json!(lines.len())));
    assert_eq!(written["sources"][&address]["read"]["documents"], 2);
    assert!(fs::read_to_string(dir.path().join("out/report.md")).unwrap().contains(&sha256_hex(lines.as_bytes())));
}

#[test]
fn a_plan_collects_nothing_and_counts_what_is_in_the_cache() {
    let server = Server::start(move |asked, _| Answer::file(asked, b"some text", "\"v1\""));
    let dir = tempfile::tempdir().unwrap();
    let config = format!("cache = \"cache\"\nvalidation_fraction = 0.0\nsources = [\"{}\"]", server.at("/a.txt"));
    let plan = || {
        let configured = DataStage.configure(config.parse().unwrap()).unwrap();
        configured.plan(&PlanInputs { inputs: vec![], recipe_dir: dir.path(), peak_flops: 1e12 }).unwrap()
    };
    assert!(plan().notes.iter().any(|note| note.contains("not in the cache yet")));
    assert!(server.asked().is_empty() && !dir.path().join("cache").exists());
    run(dir.path(), &config).unwrap();
    assert_eq!(plan().facts["bytes"], 9.0);
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_run_that_was_cut_off_does_not_mix_versions_of_a_file() {
    let server = Server::start(move |asked, number| match number {
        0 => Answer::file(asked, b"old", "\"v1\""),
        _ => Answer::file(asked, b"new", "\"v2\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let config = format!("cache = \"cache\"\nvalidation_fraction = 0.0\nsources = [\"{}\"]", server.at("/a.txt"));
    run(dir.path(), &config).unwrap();
    // The folder of work is still there, as after a run that was cut off.
    assert!(dir.path().join("out.work/collected.json").exists());
    run(dir.path(), &format!("refresh = true\n{config}")).unwrap();
    assert_eq!(texts(dir.path()), ["new"]);
}

#[test]
fn crawled_pages_are_documents_with_source_date_and_licence() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/" => Answer::html("<a href=/a.txt>a</a><meta name=dcterms.license content='CC BY 4.0'>"),
        "/a.txt" => Answer::new(200, "some text").with("content-type", "text/plain"),
        _ => Answer::new(404, ""),
    });
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "cache = \"cache\"\nvalidation_fraction = 0.0\nsteps = []\nsources = [{{ crawl = [\"{}\"], rate = 100 }}]",
        server.address
    );
    run(dir.path(), &config).unwrap();
    let documents = read_documents(&dir.path().join("out"), Split::Train).unwrap();
    let field = |i: usize, name: &str| documents[i].field(name).unwrap_or_default().to_owned();
    assert_eq!((field(0, "license").as_str(), field(0, "url")), ("CC BY 4.0", server.at("/")));
    assert_eq!((documents[1].text.as_str(), field(1, "url")), ("some text", server.at("/a.txt")));
    assert!(field(1, "date").starts_with("20") && documents[0].source.starts_with("crawl:http://127.0.0.1"));
}

#[test]
fn crawls_that_begin_at_the_same_page_are_two_sources() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/" => Answer::new(200, "first page").with("content-type", "text/plain"),
        "/b.txt" => Answer::new(200, "second page").with("content-type", "text/plain"),
        _ => Answer::new(404, ""),
    });
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (server.at("/"), server.at("/b.txt"));
    let config = format!(
        "cache = \"cache\"\nvalidation_fraction = 0.0\nsteps = []\nsources = [\
         {{ crawl = [\"{first}\"], rate = 100, epochs = 3 }}, {{ crawl = [\"{first}\", \"{second}\"], rate = 100 }}]"
    );
    let report = run(dir.path(), &config).unwrap();
    let mut texts = texts(dir.path());
    texts.sort();
    assert_eq!(texts, ["first page", "first page", "first page", "first page", "second page"]);
    assert_eq!(report.metrics["collected"].as_object().unwrap().len(), 2);
}
