#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use cupola_artifact::stage::Silent;
use cupola_testkit::{TempDir, tiny_llama_dir};

use super::*;

/// Resolves the references as paths in `dir` and runs.
fn run(dir: &TempDir, recipe: &str) -> Result<Report> {
    let stage = EvalStage.configure(recipe.parse().unwrap()).unwrap();
    let inputs: Vec<Input> = stage
        .references()
        .into_iter()
        .map(|r| Input { key: r.key.into(), path: dir.join(&r.value), reference: r.value, kind: None })
        .collect();
    let out = dir.join("out");
    std::fs::create_dir_all(&out).unwrap();
    stage.run(&StageContext {
        name: "report",
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
    let dir = TempDir::new("eval");
    tiny_llama_dir(&dir.join("models/one"), 1);
    tiny_llama_dir(&dir.join("models/two"), 2);
    std::fs::write(dir.join("text.txt"), "Some held-out text. ".repeat(50)).unwrap();
    let quiz: Vec<Value> = (0..8).map(|i| json!({"question": i, "choices": ["a", "b"], "answer": i % 2})).collect();
    let quiz: Vec<Value> = quiz
        .into_iter()
        .map(|mut q| {
            q["question"] = json!(q["question"].to_string());
            q
        })
        .collect();
    std::fs::write(dir.join("quiz.json"), json!(quiz).to_string()).unwrap();
    std::fs::write(dir.join("say.jsonl"), "{\"prompt\": \"Say a\", \"answer\": \"a\"}\n").unwrap();
    let pairs = "{\"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": \"long and longer\"}\n".repeat(4);
    std::fs::write(dir.join("pairs.jsonl"), pairs).unwrap();
    dir
}

#[test]
fn models_stand_side_by_side_in_every_file() {
    let dir = setup();
    let report = run(
        &dir,
        "models = ['models/one', 'models/two']
         text = 'text.txt'
         max_gen_tokens = 4
         tasks = ['perplexity', { task = 'multiple_choice', data = 'quiz.json', limit = 6 },
                  { task = 'exact_match', data = 'say.jsonl', chat = true },
                  { task = 'preference', data = 'pairs.jsonl', last = 0.5 },
                  { task = 'multiple_choice', name = 'quiz2', data = 'quiz.json', chat = true }]",
    )
    .unwrap();
    let names: Vec<&str> = report.scores.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    let keys: Vec<&str> = report.scores[1].1.keys().map(String::as_str).collect();
    let want = [
        "bits_per_byte",
        "perplexity",
        "multiple_choice.acc",
        "multiple_choice.acc_norm",
        "exact_match",
        "preference_accuracy",
        "preference_accuracy_norm",
        "quiz2.acc",
        "quiz2.acc_norm",
    ];
    assert_eq!(keys, want);
    let results: Value = serde_json::from_slice(&std::fs::read(dir.join("out/results.json")).unwrap()).unwrap();
    for model in ["one", "two"] {
        let tasks = &results["models"][model]["tasks"];
        assert_eq!(
            (&tasks["multiple_choice"]["n"], &tasks["preference"]["n"], &tasks["quiz2"]["n"]),
            (&json!(6), &json!(2), &json!(8))
        );
        assert!(
            tasks["quiz2"]["stderr"]["acc"].is_f64()
                && tasks["perplexity"]["metrics"]["bits_per_byte"].as_f64() > Some(1.0)
        );
    }
    assert_eq!(results["tasks"]["quiz2"]["chat"], true);
    let page = std::fs::read_to_string(dir.join("out/report.md")).unwrap();
    assert!(page.contains("| task | measure | one | two |") && page.contains("| quiz2 | acc_norm |"), "{page}");
    let samples = std::fs::read_to_string(dir.join("out/samples.jsonl")).unwrap();
    assert!(samples.lines().all(|l| serde_json::from_str::<Value>(l).is_ok()) && samples.contains("\"model\":\"two\""));
}

#[test]
fn the_same_evaluation_gives_the_same_results() {
    let dir = setup();
    let recipe =
        "models = ['models/one']\nseed = 5\ntasks = [{ task = 'multiple_choice', data = 'quiz.json', limit = 3 }]";
    let first = run(&dir, recipe).unwrap();
    assert_eq!(first, run(&dir, recipe).unwrap());
}

#[test]
fn a_failing_task_is_named() {
    let dir = setup();
    let error =
        run(&dir, "models = ['models/one']\ntasks = [{ task = 'preference', data = 'quiz.json' }]").unwrap_err();
    let chain = error.chain();
    assert!(chain.contains("`preference` failed on one") && chain.contains("line 1"), "{chain}");
}

#[test]
fn models_of_the_same_folder_name_are_told_apart() {
    let input = |reference: &str, kind: Option<&str>| Input {
        key: "models".into(),
        reference: reference.into(),
        path: reference.into(),
        kind: kind.map(Into::into),
    };
    let all = [input("a/model", None), input("b/model", None), input("c/other", None), input("base", Some("pretrain"))];
    assert_eq!(model_names(&all.iter().collect::<Vec<_>>()), ["a/model", "b/model", "other", "base"]);
}

#[test]
fn the_plan_counts_every_model() {
    let stage = EvalStage.configure("models = ['a', 'b']\ntext = 'c'".parse().unwrap()).unwrap();
    let mut model = Plan::default();
    model.facts.insert("parameters".into(), 1e6);
    let mut text = Plan::default();
    text.facts.insert("bytes".into(), 4e6);
    let input = |key: &str| Input { key: key.into(), reference: String::new(), path: "x".into(), kind: None };
    let inputs = vec![(input("models"), Some(&model)), (input("models"), Some(&model)), (input("text"), Some(&text))];
    let plan = stage.plan(&PlanInputs { inputs, recipe_dir: Path::new("."), peak_flops: 1e11 }).unwrap();
    assert_eq!(plan.flops, 2.0 * 1e5 * 2e6);
    assert!(plan.seconds > 0.0 && plan.memory_bytes > 4e6);
}
