//! The filters against datatrove 0.10.1, whose verdicts `bench/data/golden.py` wrote down.

use std::io::Read as _;
use std::path::Path;

use cupola_records::Document;
use serde_json::Value;

use crate::step::{Each, Kind, Notes, Setting, Verdict, Work};
use crate::steps::words::{Splitting, with_words};

const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/filters.jsonl.gz");

fn golden() -> Vec<Value> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(GOLDEN).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ready(kind: &'static Kind) -> Box<dyn Each> {
    let Work::Each(mut step) = kind.configure(toml::Table::new()).unwrap().work else { panic!("not a filter") };
    step.prepare(&Setting { recipe_dir: Path::new("."), seed: 0 }).unwrap();
    step
}

/// datatrove gives its reasons a family only in part.
fn same(ours: &Verdict, theirs: &str) -> bool {
    let Verdict::Drop(reason) = ours else { return theirs == "keep" };
    let plain = |reason: &str| {
        let family = ["gopher_", "c4_", "fineweb_"].into_iter().find_map(|family| reason.strip_prefix(family));
        family.unwrap_or(reason).to_owned()
    };
    plain(reason) == plain(theirs)
}

#[test]
fn verdicts_and_reasons_are_those_of_datatrove() {
    let documents = golden();
    assert!(documents.len() >= 400);
    for kind in super::tests::FILTERS {
        let step = ready(kind);
        for golden in &documents {
            let text = golden["text"].as_str().unwrap();
            let mut document = Document::new("id", text, "source");
            let verdict = step.apply(&mut document, &mut Notes::default());
            let theirs = golden[kind.name].as_str().unwrap();
            assert!(same(&verdict, theirs), "{}: {verdict:?}, not {theirs}: {}", kind.name, golden["id"]);
            if kind.name == "c4" && verdict == Verdict::Keep {
                assert_eq!(document.text, golden["c4_text"].as_str().unwrap_or(text), "{}", golden["id"]);
            }
        }
    }
}

#[test]
fn words_are_as_many_as_spacy_finds() {
    let numbers = golden().into_iter().map(|golden| {
        let text = golden["text"].as_str().unwrap();
        let ours = with_words(text, Splitting::English, |words| words.ids().len());
        (ours as u64, golden["words"].as_u64().unwrap(), golden["id"].clone())
    });
    let different: Vec<_> = numbers.filter(|(ours, theirs, _)| ours != theirs).collect();
    // spaCy looks for exceptions across spaces too, and one that it finds there can keep it from joining another beside it:
    // in one document, a list of smileys and the like, it has a word more.
    assert!(different.len() <= 1, "{different:?}");
}
