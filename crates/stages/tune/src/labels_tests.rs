#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use burn::tensor::Device;
use cupola_artifact::Class;
use cupola_artifact::stage::{Silent, Stage};
use cupola_ops::IGNORE;
use cupola_testkit::{TempDir, assert_close, fixture, metric, run_stage, tiny_llama_dir};

use super::*;
use crate::stage::TuneStage;

fn run(dir: &TempDir, recipe: &str, out: &str) -> Result<Report> {
    let section = format!("model = 'model'\ndata = 'data.jsonl'\n{recipe}");
    run_stage(&TuneStage, dir, &section, out, &Silent)
}

/// A tiny decoder, and records.
fn setup(records: impl Iterator<Item = Value>) -> TempDir {
    let dir = TempDir::new("labels");
    tiny_llama_dir(&dir.join("model"), 1);
    write(&dir, records);
    dir
}

fn write(dir: &TempDir, records: impl Iterator<Item = Value>) {
    std::fs::write(dir.join("data.jsonl"), records.map(|r| r.to_string() + "\n").collect::<String>()).unwrap();
}

/// A tiny BERT with its tokenizer, whose vocabulary is larger than the fixture's: words that both have.
const RECIPE: &str = "precision = 'f32'\nepochs = 10\nbatch_size = 8\nlr = 2e-3\nvalidation_fraction = 0.25\n";

const WORDS: [&str; 4] = ["sun", "rain", "snow", "fog"];

fn text(i: usize) -> String {
    format!("day {i}: {} all over", WORDS[i % 4])
}

#[test]
fn one_label_of_several_is_learned_and_named() {
    let names = ["good", "bad", "bad", "ugly"];
    let dir = setup((0..64).map(|i| json!({"text": text(i), "label": names[i % 4]})));
    let report = run(&dir, &format!("task = 'classification'\n{RECIPE}"), "out").unwrap();
    assert!(metric(&report, "validation_accuracy") > 0.95, "{report:?}");
    assert!(metric(&report, "validation_accuracy_before") < 0.8);
    assert!(metric(&report, "validation_macro_f1") > 0.9 && metric(&report, "validation_matthews") > 0.9);
    let model = Model::load(&dir.join("out"), &Device::flex()).unwrap();
    assert_eq!(model.encoder().unwrap().spec().labels, ["bad", "good", "ugly"]);
    // The division into forward passes changes nothing.
    let parts = run(&dir, &format!("task = 'classification'\n{RECIPE}micro_batch = 3"), "parts").unwrap();
    for name in ["validation_loss", "train_loss"] {
        assert_close(name, &[metric(&report, name) as f32], &[metric(&parts, name) as f32], 1e-4, 1e-3);
    }
    // Numbers stand for the labels of a recipe.
    write(&dir, (0..16).map(|i| json!({"sentence": text(i), "label": i % 2})));
    let recipe =
        format!("task = 'classification'\nlabels = ['no', 'yes']\n{RECIPE}").replace("epochs = 10", "epochs = 0.5");
    run(&dir, &recipe, "named").unwrap();
    let model = Model::load(&dir.join("named"), &Device::flex()).unwrap();
    assert_eq!(model.encoder().unwrap().spec().labels, ["no", "yes"]);
}

#[test]
fn adapters_train_the_head_too() {
    let dir = setup((0..64).map(|i| json!({"text": text(i), "label": u8::from(i % 4 == 0)})));
    let recipe = format!("task = 'classification'\nmethod = 'lora'\n{RECIPE}").replace("2e-3", "1e-2");
    let report = run(&dir, &recipe, "out").unwrap();
    assert!(metric(&report, "validation_accuracy") > 0.95, "{report:?}");
    assert!(metric(&report, "trainable_parameters") < 0.5 * metric(&report, "parameters"));
}

/// What cannot be merged has its base with the head in its own folder, wherever that stands.
#[test]
fn an_adapter_that_is_more_than_weights_keeps_the_head_beside_it() {
    for method in ["prompt_tuning", "houlsby"] {
        let dir = setup((0..64).map(|i| json!({"text": text(i), "label": u8::from(i % 4 == 0)})));
        let recipe = format!("task = 'classification'\nmethod = '{method}'\n{RECIPE}").replace("2e-3", "1e-2");
        let report = run(&dir, &recipe, "out").unwrap();
        assert!(metric(&report, "validation_loss") < 0.8 * metric(&report, "validation_loss_before"), "{report:?}");
        std::fs::rename(dir.join("out"), dir.join("moved")).unwrap();
        assert!(cupola_generate::is_encoder(&dir.join("moved")).unwrap());
        let load = |place: &str| Model::load(&dir.join(place), &Device::flex()).unwrap();
        let (model, base) = (load("moved"), load("moved/base"));
        let scores = |model: &Model| {
            let encoder = model.encoder().unwrap();
            let batch = encoder.spec().batch((60..70).collect(), std::slice::from_ref(&(0..10)));
            cupola_ops::to_vec(&encoder.scores(encoder.hidden(&batch), &batch))
        };
        assert_eq!(scores(&model).len(), 2);
        assert!(model.adapted().is_some() && scores(&model) != scores(&base), "{method}");
    }
}

#[test]
fn several_labels_and_numbers_are_learned() {
    let dir = setup((0..64).map(|i| {
        let all = [vec!["dry", "warm"], vec!["wet"], vec!["wet", "cold"], vec![]];
        json!({"text": text(i), "labels": all[i % 4]})
    }));
    let report = run(&dir, &format!("task = 'multi_label'\n{RECIPE}"), "several").unwrap();
    assert!(metric(&report, "validation_accuracy") > 0.9 && metric(&report, "validation_micro_f1") > 0.9, "{report:?}");
    write(&dir, (0..64).map(|i| json!({"text": text(i), "label": ([1.0, -1.0, -2.5, 0.0][i % 4])})));
    let report = run(&dir, &format!("task = 'regression'\n{RECIPE}"), "number").unwrap();
    assert!(metric(&report, "validation_pearson") > 0.9 && metric(&report, "validation_spearman") > 0.8, "{report:?}");
    assert!(metric(&report, "validation_mean_squared_error") < metric(&report, "validation_mean_squared_error_before"));
}

#[test]
fn words_are_labelled_by_their_first_token() {
    // A decoder sees no more of a word than its first token: the words begin with different bytes.
    let words = [("rain", "O"), ("sun", "B-SUN"), ("fog", "O"), ("gleam", "I-SUN")];
    let dir = setup((0..96).map(|i| {
        let mut left = words.to_vec();
        let mixed: Vec<(&str, &str)> = [i % 4, i / 4 % 3, i / 12 % 2, 0].map(|at| left.remove(at)).to_vec();
        let (tokens, labels): (Vec<&str>, Vec<&str>) = mixed.into_iter().unzip();
        json!({"tokens": tokens, "labels": labels})
    }));
    let report = run(&dir, &format!("task = 'token_classification'\n{RECIPE}"), "out").unwrap();
    assert!(metric(&report, "validation_accuracy") > 0.9, "{report:?}");
    assert!(metric(&report, "validation_entity_f1") > 0.8, "{report:?}");
    let tokenizer = Tokenizer::load(&fixture("tokenizers").join("bert")).unwrap();
    let words = ["unbelievable".to_owned(), "a".to_owned(), "unbelievable".to_owned()];
    let encoded = tokenizer.encode_sequence(&words.join(" "), None, &SequenceOptions::default()).unwrap();
    let labels = first_tokens(&encoded, &words, &[5, 6, 7]);
    assert_eq!(labels.iter().filter(|l| **l != IGNORE).copied().collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!((labels[0], labels[1], labels.len() > 5), (IGNORE, 5, true));
}

#[test]
fn answers_are_found_in_their_contexts() {
    let tokenizer = Tokenizer::load(&fixture("tokenizers").join("bert")).unwrap();
    let record = |context: &str, answer: &str, start: usize| Record {
        source: "squad.jsonl".into(),
        line: 3,
        value: json!({"question": "Who wrote it?", "context": context, "answers": {"text": [answer], "answer_start": [start]}}),
    };
    let context = "It was Mary Shelley, née Godwin, who wrote it.";
    let asked = Asked::read(&record(context, "Mary Shelley", 7)).unwrap();
    let encoded = tokenizer.encode_sequence(&asked.question, Some(context), &SequenceOptions::default()).unwrap();
    let [first, last] = asked.span(&encoded).unwrap();
    let text = tokenizer.decode(&encoded.ids[first as usize..=last as usize]).unwrap().to_lowercase();
    assert_eq!(text.replace(' ', ""), "maryshelley");
    let short = SequenceOptions { max_len: Some(9), ..SequenceOptions::default() };
    let cut = tokenizer.encode_sequence(&asked.question, Some(context), &short).unwrap();
    assert_eq!(asked.span(&cut), None);
    let bare = Record { value: json!({"question": "a", "context": "b"}), ..record("", "", 0) };
    assert!(Asked::read(&bare).err().unwrap().to_string().contains("no `answers`"));
    let error = Asked::read(&record(context, "Percy", 7)).err().unwrap().to_string();
    assert!(error.contains("squad.jsonl: line 3") && error.contains("Mary "), "{error}");
}

#[test]
fn what_cannot_be_learned_is_an_error_that_says_where() {
    let dir = setup(std::iter::empty());
    for (task, records, message) in [
        ("classification", vec![json!({"text": "a"})], "line 1: there is no label: `label`"),
        ("classification", vec![json!({"text": "a", "label": 0}), json!({"label": 1})], "line 2: there is no text"),
        ("classification", vec![json!({"text": "a", "label": 0}); 3], "the same label"),
        ("classification", vec![json!({"text": "a", "label": [0]})], "neither a name nor a number"),
        ("regression", vec![json!({"text": "a", "label": "b"})], "is not a number"),
        ("token_classification", vec![json!({"tokens": ["a", "b"], "labels": ["O"]})], "2 tokens, but 1 labels"),
        // A decoder does not say where answers are.
        ("question_answering", vec![json!({"question": "a", "context": "b"})], "LlamaForCausalLM cannot have"),
    ] {
        write(&dir, records.into_iter());
        let error = run(&dir, &format!("task = '{task}'"), "out").unwrap_err();
        assert!(error.chain().contains(message), "{task}: {}", error.chain());
    }
    write(&dir, (0..4).map(|i| json!({"text": text(i), "label": i % 2})));
    let error = run(&dir, "task = 'classification'\npair_field = 'nothing'", "out").unwrap_err();
    assert!(error.chain().contains("`nothing`"), "{}", error.chain());
    for (text, message) in [
        ("task = 'classify'", "`task` in [tune] cannot be `classify`"),
        ("task = 'classification'\nlabels = []", "`labels` in [tune] is empty"),
        ("task = 'regression'\nlabels = ['a']", "is not for `task = \"regression\"`"),
        ("task = 'classification'\nformat = 'alpaca'", "unknown key `format`"),
    ] {
        let error = TuneStage.configure(format!("model = 'm'\ndata = 'd'\n{text}").parse().unwrap()).err().unwrap();
        assert_eq!(error.class(), Class::Usage);
        assert!(error.to_string().contains(message), "{error}");
    }
}
