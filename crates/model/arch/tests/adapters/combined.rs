//! Several adapters of one base: one after another, and as one.

use cupola_arch::{Adapter, Model, combine_adapters};
use cupola_nn::Batch;
use cupola_nn::adapters::Combination;
use cupola_ops::to_vec;
use cupola_testkit::{Golden, assert_close, fixture};

use crate::load;

fn two() -> [Adapter; 2] {
    ["one", "two"].map(|name| Adapter::read(&fixture("combined-lora").join(name)).unwrap())
}

fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let decoder = model.decoder().unwrap();
    to_vec(&decoder.logits(decoder.hidden(&Batch::causal(ids.to_vec(), 1))))
}

#[test]
fn combinations_equal_pefts_parity() {
    let golden = Golden::load("combined-lora");
    let ids: Vec<u32> = golden.i64("in.input_ids").1.iter().map(|id| *id as u32).collect();
    let (base, [one, two]) = (load(&fixture("llama")), two());
    for (name, case) in golden.info["cases"].as_object().unwrap() {
        let weights = case.get("weights").unwrap_or(&golden.info["weights"]);
        let weight = |i: usize| weights[i].as_f64().unwrap() as f32;
        let how: Combination = serde_json::from_value(case["combination_type"].clone()).unwrap();
        let density = case["density"].as_f64().unwrap_or(1.0) as f32;
        let rank = case["svd_rank"].as_u64().map(|rank| rank as usize);
        let both = combine_adapters(&[(&one, weight(0)), (&two, weight(1))], how, density, rank, 0).unwrap();
        check(&golden, name, &logits(&base.with_adapter(&both).unwrap(), &ids));
        // As a folder it is the same.
        let dir = tempfile::tempdir().unwrap();
        let mut both = both;
        both.base = fixture("llama").display().to_string();
        both.write(dir.path()).unwrap();
        check(&golden, name, &logits(&load(dir.path()), &ids));
    }
}

#[test]
fn what_is_dropped_at_random_depends_on_the_seed_alone() {
    let (base, [one, two], ids) = (load(&fixture("llama")), two(), [5, 9, 40, 41]);
    let run = |seed| {
        let both = combine_adapters(&[(&one, 0.5), (&two, 0.5)], Combination::DareTies, 0.5, None, seed).unwrap();
        logits(&base.with_adapter(&both).unwrap(), &ids)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn adapters_change_places_and_leave_no_trace() {
    let (base, [one, two], ids) = (load(&fixture("llama")), two(), [5, 9, 40, 41, 7]);
    let plain = logits(&base, &ids);
    let [first, second] = [&one, &two].map(|adapter| base.with_adapter(adapter).unwrap());
    let (a, b) = (logits(&first, &ids), logits(&second, &ids));
    assert!(a != b && a != plain && b != plain);
    assert_eq!((logits(&first, &ids), logits(&second, &ids), logits(&base, &ids)), (a.clone(), b, plain));
    // One merged, the other on top of it.
    let mut merged = first.clone();
    merged.merge_adapter().unwrap();
    assert_close("merged", &logits(&merged, &ids), &a, 1e-4, 1e-4);
    merged.put_on(&two).unwrap();
    let both = combine_adapters(&[(&one, 1.0), (&two, 1.0)], Combination::Cat, 1.0, None, 0).unwrap();
    assert_close("both", &logits(&merged, &ids), &logits(&base.with_adapter(&both).unwrap(), &ids), 1e-4, 1e-4);
}

#[test]
fn other_kinds_are_not_combined() {
    let (one, ia3) = (two()[0].clone(), Adapter::read(&fixture("peft-ia3")).unwrap());
    let dora = Adapter::read(&fixture("peft-dora")).unwrap();
    for other in [&ia3, &dora] {
        let error = combine_adapters(&[(&one, 1.0), (other, 1.0)], Combination::Cat, 1.0, None, 0).unwrap_err();
        assert!(error.to_string().contains("only LoRA") && error.hint().is_some(), "{error}");
    }
    assert!(combine_adapters(&[(&one, 1.0)], Combination::Ties, 0.0, None, 0).is_err());
}

/// A case's logits within the tolerance of all.
fn check(golden: &Golden, case: &str, got: &[f32]) {
    let tolerance = &golden.info["tolerances"]["*"];
    let [atol, rtol] = ["atol", "rtol"].map(|key| tolerance[key].as_f64().unwrap() as f32);
    assert_close(case, got, &golden.f32(&format!("{case}.logits")).1, atol, rtol);
}
