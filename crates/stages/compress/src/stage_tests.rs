#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use cupola_artifact::Class;
use cupola_artifact::stage::Silent;
use cupola_nn::Module;
use cupola_testkit::{TempDir, tiny_llama_dir};

use super::*;

/// Resolves the references as paths in `dir` and runs.
fn run(dir: &TempDir, recipe: &str, out: &str) -> Result<Report> {
    let stage = CompressStage.configure(recipe.parse().unwrap()).unwrap();
    let inputs: Vec<Input> = stage
        .references()
        .into_iter()
        .map(|r| Input { key: r.key.into(), path: dir.join(&r.value), reference: r.value, kind: None })
        .collect();
    let out = dir.join(out);
    std::fs::create_dir_all(&out).unwrap();
    stage.run(&StageContext {
        name: "int8",
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
    let dir = TempDir::new("compress");
    tiny_llama_dir(&dir.join("model"), 1);
    std::fs::write(dir.join("text.txt"), "Some held-out text. ".repeat(100)).unwrap();
    dir
}

#[test]
fn an_int8_model_is_smaller_and_predicts_nearly_as_well() {
    let dir = setup();
    let report = run(&dir, "model = 'model'\ntext = 'text.txt'\nspeed_tokens = 8\ngroup = 16", "out").unwrap();
    let metric = |name: &str| report.metrics[name].as_f64().unwrap();
    assert!(metric("size_bytes") < metric("original_size_bytes") && (0.2..0.8).contains(&metric("ratio")));
    let (bits, original) = (metric("bits_per_byte"), metric("original_bits_per_byte"));
    assert!(bits != original && (bits - original).abs() < 0.05, "{bits} {original}");
    assert!(metric("tokens_per_second") > 0.0 && metric("original_tokens_per_second") > 0.0);
    // Half a step of a scale, which is the group's largest magnitude over 127.
    assert!(metric("largest_weight_error") > 0.0 && metric("largest_weight_error_relative") < 0.51 / 127.0);
    let json: Value = serde_json::from_slice(&std::fs::read(dir.join("out/report.json")).unwrap()).unwrap();
    assert!(json["largest_weight_error_in"].as_str().unwrap().ends_with(".weight"));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(
            std::fs::read(dir.join("model").join(name)).unwrap(),
            std::fs::read(dir.join("out").join(name)).unwrap()
        );
    }
}

#[test]
fn experts_are_not_made_int8() {
    let mut model = Model::load(&cupola_testkit::fixture("mixtral"), &cupola_ops::open("cpu").unwrap()).unwrap();
    let before = model.state();
    let table: toml::Table = "group = 16".parse().unwrap();
    let int8 = crate::ALL[0].configure("compress.int8", table).unwrap();
    let error = int8.apply(&mut model).unwrap_err();
    assert!(error.to_string().contains("int8 weights of experts are not supported"), "{error}");
    assert_eq!(model.state(), before);
}

#[test]
fn compressing_twice_is_refused() {
    let dir = setup();
    run(&dir, "model = 'model'\nspeed_tokens = 2", "out").unwrap();
    let error = run(&dir, "model = 'out'", "again").unwrap_err();
    assert!(error.chain().contains("already") && error.hint().is_some(), "{}", error.chain());
}

#[test]
fn wrong_settings_are_usage_errors() {
    for (text, message, hint) in [
        ("modl = 'a'", "unknown key `modl`", "`model`"),
        ("model = 'a'\ngruop = 3", "unknown key `gruop`", "`group`"),
        ("model = 'a'\nmethod = 'int9'", "cannot be `int9`", "`int8`"),
        ("model = 'a'\ngroup = 0", "`group`", "64"),
        ("", "`model` is missing", "model"),
    ] {
        let error = CompressStage.configure(text.parse().unwrap()).err().unwrap();
        assert_eq!(error.class(), Class::Usage);
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
    }
}

#[test]
fn the_effective_settings_hold_the_methods_own() {
    let stage = CompressStage.configure("model = 'a'".parse().unwrap()).unwrap();
    let config = stage.effective_config();
    assert_eq!((&config["method"], &config["group"], &config["text"]), (&json!("int8"), &json!(64), &Value::Null));
}

#[test]
fn the_plan_passes_the_models_facts_on() {
    let stage = CompressStage.configure("model = 'a'".parse().unwrap()).unwrap();
    let mut model = Plan::default();
    model.facts.insert("parameters".into(), 1e6);
    let input = Input { key: "model".into(), reference: "a".into(), path: "a".into(), kind: None };
    let inputs = PlanInputs { inputs: vec![(input, Some(&model))], recipe_dir: Path::new("."), peak_flops: 1e11 };
    let plan = stage.plan(&inputs).unwrap();
    assert_eq!((plan.facts["parameters"], plan.disk_bytes), (1e6, 1.0625e6));
}
