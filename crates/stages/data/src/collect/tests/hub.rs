//! Datasets of the hub, from a server that speaks its protocol.

use std::sync::Arc;
use std::time::Duration;

use cupola_artifact::sha256_hex;
use serde_json::{Value, json};

use super::server::{Answer, Asked, Server};
use super::{collected, content, fails};

const PART: &str = "{\"text\": \"one\"}\n";

fn body() -> Vec<u8> {
    PART.repeat(20_000).into_bytes()
}

/// The hub and the server that it keeps its large files on.
fn hub() -> (Server, Server) {
    let files = Server::start(|asked, number| {
        let answer = Answer::file(asked, &body(), "\"large\"");
        if number == 0 { answer.cut_after(100_000) } else { answer }
    });
    let large = files.address.clone();
    let own: Arc<std::sync::OnceLock<String>> = Arc::default();
    let endpoint = Arc::clone(&own);
    let hub = Server::start(move |asked, _| answer(asked, endpoint.get().unwrap(), &large));
    own.set(hub.address.clone()).unwrap();
    (hub, files)
}

fn file(path: &str, size: usize, sha256: Option<&str>) -> Value {
    let mut file = json!({ "type": "file", "oid": "0", "size": size, "path": path });
    if let Some(sha256) = sha256 {
        file["lfs"] = json!({ "oid": sha256, "size": size, "pointerSize": 130 });
    }
    file
}

fn answer(asked: &Asked, endpoint: &str, large: &str) -> Answer {
    let json = |value: Value| Answer::new(200, value.to_string()).with("content-type", "application/json");
    if asked.header("authorization") != Some("Bearer secret") {
        return Answer::new(401, "");
    }
    let path = asked.path.split('?').next().unwrap_or_default();
    let page = asked.path.contains("cursor=2");
    match path {
        "/api/datasets/o/plain/parquet" => json(json!({"default": {
            "train": [format!("{endpoint}/api/datasets/o/plain/parquet/default/train/0.parquet")],
            "test": [],
        }})),
        "/api/datasets/o/plain/parquet/default/train/0.parquet" => Answer::to(&format!("{large}/plain")),
        "/api/datasets/o/many/parquet" => json(json!({ "en": {"train": []}, "de": {"train": []} })),
        "/api/datasets/o/files/revision/main" => json(json!({ "sha": "c0ffee" })),
        "/api/datasets/o/files/revision/refs%2Fpr%2F1" => json(json!({ "sha": "c0ffee" })),
        "/api/datasets/o/files/tree/c0ffee" if !page => json(json!([
            { "type": "directory", "path": "data", "size": 0, "oid": "0" },
            file("README.md", 9, None),
            file("data/train a.jsonl", body().len(), Some(&sha256_hex(&body()))),
        ]))
        .with("link", &format!("<{endpoint}/api/datasets/o/files/tree/c0ffee?recursive=true&cursor=2>; rel=\"next\"")),
        "/api/datasets/o/files/tree/c0ffee" => json(json!([
            file("data/test.jsonl", PART.len(), None),
            file("data/broken.jsonl", PART.len(), Some(&"0".repeat(64))),
        ])),
        "/datasets/o/files/resolve/c0ffee/data/train%20a.jsonl" => Answer::to(&format!("{large}/files")),
        "/datasets/o/files/resolve/c0ffee/data/test.jsonl" => Answer::file(asked, PART.as_bytes(), "\"small\""),
        "/datasets/o/files/resolve/c0ffee/data/broken.jsonl" => {
            // Late, so that the others are there before it fails.
            Answer { delay: Duration::from_millis(300), ..Answer::file(asked, PART.as_bytes(), "\"small\"") }
        }
        _ => Answer::new(404, ""),
    }
}

fn of(address: &str) -> String {
    format!("sources = [\"{address}\"]")
}

#[test]
fn a_split_comes_from_the_hubs_parquet_files_and_goes_on_where_it_was_cut_off() {
    let (hub, files) = hub();
    let dir = tempfile::tempdir().unwrap();
    let collection = collected(dir.path(), &hub.address, &of("hf:o/plain")).unwrap();
    assert!(content(&collection) == body());
    assert_eq!(collection.sources[0].files[0].address, "hf:o/plain/default/train/0.parquet");
    let asked = files.asked();
    assert_eq!(asked.len(), 2, "the second goes through the hub again");
    assert_eq!(asked[1].header("range"), Some("bytes=100000-"));
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "the token is for the hub alone");
}

#[test]
fn a_pattern_is_matched_against_the_files_at_a_commit_and_checksums_are_verified() {
    let (hub, _files) = hub();
    let dir = tempfile::tempdir().unwrap();
    let collection = collected(dir.path(), &hub.address, &of("hf:o/files:data/t*.jsonl")).unwrap();
    let files = collection.files[0].as_deref().unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["hf:o/files/data/train a.jsonl", "hf:o/files/data/test.jsonl"]);
    assert!(std::fs::read(&files[0].path).unwrap() == body());
    assert_eq!(std::fs::read(&files[1].path).unwrap(), PART.as_bytes());
    let error = fails(dir.path(), &hub.address, &of("hf:o/files:data/broken.jsonl"));
    assert!(error.chain().contains("is expected"), "{}", error.chain());
    let error = fails(dir.path(), &hub.address, &of("hf:o/files:*.csv"));
    assert!(error.hint().unwrap().contains("data/test.jsonl"), "{error:?}");
}

#[test]
fn names_tell_the_split_of_another_revision() {
    let (hub, _files) = hub();
    let dir = tempfile::tempdir().unwrap();
    let collection = collected(dir.path(), &hub.address, &of("hf:o/files@refs/pr/1:test")).unwrap();
    assert_eq!(content(&collection), PART.as_bytes());
    let error = fails(dir.path(), &hub.address, &of("hf:o/files@refs/pr/1:validation"));
    assert!(error.chain().contains("no split `validation`"), "{}", error.chain());
}

#[test]
fn what_was_fetched_whole_is_not_fetched_again_after_an_error_elsewhere() {
    let (hub, _files) = hub();
    let dir = tempfile::tempdir().unwrap();
    let settings = of("hf:o/files:data/*.jsonl");
    for _ in 0..2 {
        fails(dir.path(), &hub.address, &settings);
    }
    let small = hub.paths().into_iter().filter(|path| path.ends_with("data/test.jsonl")).count();
    assert_eq!(small, 1);
}

#[test]
fn errors_of_the_hub_name_the_way_out() {
    let (hub, _files) = hub();
    let dir = tempfile::tempdir().unwrap();
    let error = fails(dir.path(), &hub.address, &of("hf:o/none"));
    assert!(error.chain().contains("no dataset o/none") && error.hint().unwrap().contains("HF_TOKEN"), "{error:?}");
    let error = fails(dir.path(), &hub.address, &of("hf:o/many"));
    assert!(error.chain().contains("en, de") && error.hint().unwrap().contains("hf:o/many:en/train"), "{error:?}");
    let closed = Server::start(|_, _| Answer::new(403, ""));
    let error = fails(dir.path(), &closed.address, &of("hf:o/plain"));
    assert!(error.hint().unwrap().contains("accept its terms"), "{error:?}");
}
