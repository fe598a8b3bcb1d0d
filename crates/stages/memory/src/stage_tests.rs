#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use cupola_artifact::stage::{Input, Silent};
use cupola_generate::{load_reader, load_to_change};
use cupola_nn::{Batch, Step};
use cupola_ops::to_vec;
use cupola_testkit::{TempDir, assert_close, tiny_llama_dir};

use super::*;

/// Resolves the references as paths in `dir` and runs.
fn run(dir: &TempDir, recipe: &str, out: &str) -> Result<Report> {
    let stage = MemoryStage.configure(recipe.parse().unwrap())?;
    let inputs: Vec<Input> = stage
        .references()
        .into_iter()
        .map(|r| Input { key: r.key.into(), path: dir.join(&r.value), reference: r.value, kind: None })
        .collect();
    let out = dir.join(out);
    std::fs::create_dir_all(&out).unwrap();
    stage.run(&StageContext {
        name: "books",
        dir: &out,
        work: &dir.join("work"),
        recipe_dir: dir.path(),
        inputs: &inputs,
        device: "cpu",
        seed: 1,
        progress: &Silent,
    })
}

fn setup() -> TempDir {
    let dir = TempDir::new("memory");
    tiny_llama_dir(&dir.join("model"), 1);
    std::fs::write(dir.join("text.txt"), "The rain in Spain stays mainly in the plain. ".repeat(60)).unwrap();
    std::fs::write(dir.join("more.txt"), "A stitch in time saves nine. ".repeat(40)).unwrap();
    dir
}

fn number(report: &Report, name: &str) -> f64 {
    report.metrics[name].as_f64().unwrap()
}

#[test]
fn a_model_with_a_memory_predicts_what_it_has_read_far_better() {
    let dir = setup();
    let report = run(&dir, "model = 'model'\ndata = 'text.txt'\ntext = 'text.txt'\nlambda = 0.9", "out").unwrap();
    let (alone, with) = (number(&report, "model_bits_per_byte"), number(&report, "bits_per_byte"));
    // The model is random: it knows nothing, about eight bits of every byte are news to it.
    assert!(alone > 7.0 && with < 1.5, "{alone} alone, {with} with a memory");
    // A token for each byte of all but the last tenth.
    assert_eq!(number(&report, "pairs"), (45.0 * 60.0 * 0.9_f64).round());
    assert_eq!((number(&report, "cells"), number(&report, "recall")), (0.0, 1.0));
}

#[test]
fn whoever_loads_the_folder_reads_the_memory_and_sees_the_same_in_pieces() {
    let dir = setup();
    let report =
        run(&dir, "model = 'model'\ndata = 'text.txt'\ntext = 'text.txt'\ncells = 20\nprobes = 20", "out").unwrap();
    let (model, tokenizer) = load_reader(&dir.join("out"), &cupola_ops::open("cpu").unwrap()).unwrap();
    let decoder = model.decoder().unwrap();
    let documents = read_documents(&dir.join("text.txt"), Split::Validation).unwrap();
    let score = score_texts(decoder, &tokenizer, &[&documents[0].text], &mut |_, _| {}).unwrap();
    assert!((score.bits_per_byte() - number(&report, "bits_per_byte")).abs() < 1e-9);
    let ids = tokenizer.encode("The rain in Spain").unwrap();
    let whole = to_vec(&decoder.logits(decoder.hidden(&Batch::causal(ids.clone(), 1))));
    let (mut cache, mut got) = (decoder.cache(), vec![]);
    for piece in ids.chunks(5) {
        let hidden = decoder.step(&piece.into(), &mut [Step { cache: &mut cache, rows: piece.len() }]);
        got.extend(to_vec(&decoder.logits(hidden)));
    }
    assert_close("logits in pieces", &got, &whole, 1e-3, 1e-3);
}

#[test]
fn what_changes_a_model_refuses_one_that_reads_a_memory() {
    let dir = setup();
    run(&dir, "model = 'model'\ndata = 'text.txt'", "out").unwrap();
    let device = cupola_ops::open("cpu").unwrap();
    assert!(load_to_change(&dir.join("model"), &device).is_ok());
    let error = load_to_change(&dir.join("out"), &device).unwrap_err();
    assert!(error.to_string().contains("reads a memory") && error.hint().is_some(), "{error}");
}

#[test]
fn a_memory_grows_by_further_documents_and_its_settings_change_without_any() {
    let dir = setup();
    run(&dir, "model = 'model'\ndata = 'text.txt'\ncells = 16", "first").unwrap();
    let before = run(&dir, "model = 'first'\ntext = 'more.txt'\nlambda = 0.9", "same").unwrap();
    let after = run(&dir, "model = 'first'\ndata = 'more.txt'\ntext = 'more.txt'\nlambda = 0.9\nprobes = 16", "second")
        .unwrap();
    assert_eq!(number(&after, "pairs"), number(&before, "pairs") + number(&after, "added"));
    assert_eq!((number(&before, "cells"), number(&after, "cells")), (16.0, 16.0));
    assert!(number(&after, "bits_per_byte") < 0.7 * number(&before, "bits_per_byte"), "{after:?} {before:?}");
    let memory = |name: &str| Memory::load(&dir.join(name), 320).unwrap().unwrap();
    assert_eq!(memory("first").scale, memory("second").scale);
    assert_eq!((memory("same").settings.lambda, memory("same").len()), (0.9, memory("first").len()));
    let limited = run(&dir, "model = 'model'\ndata = 'text.txt'\nmost_pairs = 300", "limited").unwrap();
    assert_eq!(number(&limited, "pairs"), 300.0);
}

#[test]
fn wrong_settings_name_what_is_wrong() {
    let dir = setup();
    for (recipe, message) in [
        ("model = 'model'", "`data` is not set"),
        ("model = 'model'\nlambda = 1.0", "`lambda` = 1"),
        ("model = 'model'\ntemperature = 0.0", "`temperature` = 0"),
        ("model = 'model'\nk = 0", "at least 1"),
        ("model = 'model'\nmost_pairs = 0", "`most_pairs`"),
        ("model = 'model'\nlambada = 0.3", "`lambada`"),
    ] {
        let error = run(&dir, recipe, "wrong").unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}
