//! What near-duplicate detection finds of known copies, end to end. The documents are the folder `dedup` of the one that
//! `CUPOLA_DATA` names; without it nothing is tested.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod bed;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use cupola_records::{Split, read_documents, read_records};

use bed::run_stage;

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("CUPOLA_DATA").map(|folder| Path::new(&folder).join("dedup"));
    if folder.is_none() {
        eprintln!("skipped: CUPOLA_DATA does not name the folder of the test material");
    }
    folder
}

/// The documents that a step with these settings leaves, and all documents.
fn left(folder: &Path, settings: &str) -> [HashSet<String>; 2] {
    let documents = folder.join("docs.jsonl.zst");
    let all = read_records(&documents).unwrap().map(|record| record.unwrap().value["id"].as_str().unwrap().to_owned());
    let out = tempfile::tempdir().unwrap();
    let config = format!(
        "sources = ['{}']\nvalidation_fraction = 0.0\nkeep_dropped = 'none'\n[[steps]]\nstep = 'near_duplicates'\n{settings}",
        documents.display()
    );
    run_stage(out.path(), "out", 2, &config).unwrap();
    let left = read_documents(&out.path().join("out"), Split::Train).unwrap().into_iter().map(|document| document.id);
    [left.collect(), all.collect()]
}

/// The shares of the pairs that `wanted` picks by kind, edit rate and Jaccard similarity of which one went.
fn recall(folder: &Path, left: &HashSet<String>, wanted: impl Fn(&str, &str, f64) -> bool) -> f64 {
    let truth = std::fs::read_to_string(folder.join("truth.csv")).unwrap();
    let (mut found, mut pairs) = (0, 0);
    for line in truth.lines().skip(1) {
        let [copy, original, kind, rate, jaccard] = line.split(',').collect::<Vec<&str>>()[..] else {
            panic!("{line}")
        };
        if wanted(kind, rate, jaccard.parse().unwrap()) {
            pairs += 1;
            found += usize::from(!left.contains(copy) || !left.contains(original));
        }
    }
    assert!(pairs > 100);
    f64::from(u32::try_from(found).unwrap()) / f64::from(pairs)
}

/// The share of the documents that went that belong to a pair of copies.
fn precision(folder: &Path, [left, all]: &[HashSet<String>; 2]) -> f64 {
    let truth = std::fs::read_to_string(folder.join("truth.csv")).unwrap();
    let copied: HashSet<&str> = truth.lines().flat_map(|line| line.split(',').take(2)).collect();
    let gone = all.difference(left);
    gone.clone().filter(|id| copied.contains(id.as_str())).count() as f64 / gone.count() as f64
}

#[test]
fn the_defaults_find_all_exact_copies_and_those_with_few_changes() {
    let Some(folder) = folder() else { return };
    for verify in ["signature", "jaccard"] {
        let sets = left(&folder, &format!("verify = '{verify}'"));
        let exact = recall(&folder, &sets[0], |kind, _, _| kind == "exact");
        let near = recall(&folder, &sets[0], |kind, _, jaccard| kind == "near" && jaccard >= 0.8);
        let precision = precision(&folder, &sets);
        eprintln!("{verify}: exact {exact:.3}, Jaccard of 0.8 or more {near:.3}, precision {precision:.3}");
        assert!(exact == 1.0 && near >= 0.98 && precision >= 0.98, "{exact} {near} {precision}");
    }
}

#[test]
fn the_preset_for_edited_copies_finds_nine_of_ten_with_a_tenth_of_their_words_changed() {
    let Some(folder) = folder() else { return };
    let sets = left(&folder, "preset = 'edited'");
    let [fiftieth, twentieth, tenth] = ["0.02", "0.05", "0.1"]
        .map(|wanted| recall(&folder, &sets[0], |kind, rate, _| kind == "near" && rate == wanted));
    let precision = precision(&folder, &sets);
    eprintln!("edited by 2% {fiftieth:.3}, 5% {twentieth:.3}, 10% {tenth:.3}, precision {precision:.3}");
    assert!(fiftieth >= 0.98 && twentieth >= 0.95 && tenth >= 0.9 && precision >= 0.98);
}
