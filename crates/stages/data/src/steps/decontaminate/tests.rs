//! Tests of the step.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use super::*;

const QUESTION: &str = "A train leaves the northern station at seven and reaches the harbour before the last ferry of the day. \
    How long does it take?";
const SHORT: &str = "Which planet has the longest day of all?";

fn step(settings: &str) -> Decontaminate {
    let dir = tempfile::tempdir().unwrap();
    let records: String =
        [QUESTION, SHORT, "Too short"].iter().map(|text| json!({"question": text}).to_string() + "\n").collect();
    std::fs::write(dir.path().join("set.jsonl"), records).unwrap();
    let mut step: Decontaminate = toml::from_str(&format!("against = ['set.jsonl']\n{settings}")).unwrap();
    step.validate().unwrap();
    step.prepare(&Setting { recipe_dir: dir.path(), seed: 0 }).unwrap();
    step
}

fn apply(step: &Decontaminate, text: &str) -> (Verdict, String, Notes) {
    let (mut document, mut notes) = (Document::new("doc", text, "source"), Notes::default());
    let verdict = step.apply(&mut document, &mut notes);
    (verdict, document.text, notes)
}

/// Words that no item has.
fn prose(seed: usize) -> String {
    (0..100).map(|i| format!("word{seed}x{i} ")).collect()
}

#[test]
fn documents_with_items_are_dropped_and_each_hit_has_both_texts() {
    let quoted = QUESTION.to_uppercase().replace("SEVEN", "seven,\n");
    let (verdict, _, notes) = apply(&step(""), &format!("{}{quoted}{}", prose(1), prose(2)));
    assert_eq!(verdict, Verdict::Drop("contaminated"));
    assert_eq!(notes.counts()["contaminated_documents"], 1);
    let [(HITS, hit)] = notes.records() else { panic!("{notes:?}") };
    assert_eq!((&hit["file"], &hit["item"], &hit["document"]), (&json!("set.jsonl"), &json!(0), &json!("doc")));
    assert_eq!(hit["document_text"], quoted.trim_end_matches('?'));
    assert_eq!(hit["item_text"], QUESTION.trim_end_matches('?'));
    assert_eq!(hit_items([hit]), BTreeMap::from([("set.jsonl".to_owned(), BTreeSet::from([0]))]));
}

#[test]
fn thirteen_words_are_a_hit_and_twelve_are_not_and_short_items_need_eight() {
    let words = |n: usize| QUESTION.split(' ').skip(3).take(n).collect::<Vec<_>>().join(" ");
    let step = step("");
    for (text, hit) in [
        (words(13), true),
        (words(12), false),
        (words(8), false),
        (SHORT.to_owned(), true),
        (SHORT.replace("Which planet", "which  PLANET -"), true),
        (SHORT.replace("longest", "shortest"), false),
        ("too short".to_owned(), false),
    ] {
        let (verdict, _, notes) = apply(&step, &format!("{} {text} {}", prose(1), prose(2)));
        assert_eq!(verdict != Verdict::Keep, hit, "{text}");
        assert_eq!(notes.records().len(), usize::from(hit));
    }
}

#[test]
fn cutting_leaves_whole_words_far_from_the_item() {
    let step = step("action = 'cut'\nmargin = 30");
    let (verdict, text, notes) = apply(&step, &format!("{}. {QUESTION} {}", prose(1), prose(2)));
    assert_eq!(verdict, Verdict::Keep);
    let (before, after) = text.split_once("\n\n").unwrap();
    assert!(before.starts_with("word1x0 ") && before.ends_with(" word1x95"), "{before}");
    assert!(after.starts_with("word2x4 ") && after.ends_with(" word2x99"), "{after}");
    assert_eq!(notes.records().len(), 1);
    // What is left is shorter than the margin.
    assert_eq!(apply(&step, &format!("Well then: {QUESTION}")).0, Verdict::Drop("contaminated"));
}

#[test]
fn a_document_that_would_fall_to_pieces_is_dropped() {
    let step = step("action = 'cut'\nmargin = 0\nmax_pieces = 3");
    let text = |n: usize| format!("{QUESTION} {}", prose(1)).repeat(n);
    assert_eq!(apply(&step, &text(3)).0, Verdict::Keep);
    assert_eq!(apply(&step, &text(4)).0, Verdict::Drop("contaminated"));
    assert_eq!(apply(&step, QUESTION).0, Verdict::Drop("contaminated"));
}

#[test]
fn settings_without_sets_or_without_sense_are_refused() {
    for settings in ["ngram = 5", "short_ngram = 1"] {
        assert!(DECONTAMINATE.configure(settings.parse().unwrap()).is_err(), "{settings}");
    }
    let mut step = DECONTAMINATE.configure(toml::Table::new()).unwrap();
    let error =
        step.prepare(&Setting { recipe_dir: std::path::Path::new("."), seed: 0 }, &std::env::temp_dir()).unwrap_err();
    assert!(error.to_string().contains("`against` is missing"), "{error}");
}
