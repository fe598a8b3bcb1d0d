#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::path::Path;

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_artifact::Class;
use cupola_artifact::stage::{Input, Progress, Silent, Stage};
use cupola_nn::{Batch, Module};
use cupola_ops::{scalar, to_vec};
use cupola_testkit::{KillAt, TempDir, assert_close, metric, run_stage, tiny_llama_dir};
use cupola_train::Objective;
use cupola_train::finetune::Method;
use cupola_train::loader::Steps;

use super::*;
use crate::stage::TuneStage;
use crate::tuning::Tuning;

/// A folder with a tiny model and a few conversations.
fn setup() -> TempDir {
    let dir = TempDir::new("tune");
    tiny_llama_dir(&dir.join("model"), 1);
    let lines: Vec<String> = (0..12)
        .map(|i| {
            let (say, answer) = (format!("Say {i}"), "ha ".repeat(1 + i % 4));
            json!({"instruction": say, "input": "", "output": answer}).to_string()
        })
        .collect();
    std::fs::write(dir.join("data.jsonl"), lines.join("\n")).unwrap();
    dir
}

/// Resolves the references as paths in `dir` and runs.
fn run(dir: &TempDir, recipe: &str, out: &str, progress: &dyn Progress) -> Result<Report> {
    let section = format!("model = 'model'\ndata = 'data.jsonl'\n{recipe}");
    run_stage(&TuneStage, dir, &section, out, progress)
}

fn logits(dir: &Path) -> Vec<f32> {
    let model = Model::load(dir, &Device::flex()).unwrap();
    let batch = Batch::causal((60..90).collect(), 1);
    let decoder = model.decoder().unwrap();
    to_vec(&decoder.logits(decoder.hidden(&batch)))
}

fn tuning(dir: &TempDir, layout: Layout, micro_batch: Option<usize>) -> Tuning {
    let tokenizer = Tokenizer::load(&dir.join("model")).unwrap();
    let records = read_all(&dir.join("data.jsonl")).unwrap();
    let train: Vec<Example> = records
        .iter()
        .map(|r| Example::conversation(&tokenizer, &read_conversation(r, None).unwrap()).unwrap())
        .collect();
    Tuning {
        steps: Steps::new(train.len(), 0, 8, micro_batch),
        validation: vec![("data".into(), train[..3].to_vec())],
        train,
        form: LossForm::default(),
        layout,
        pad: 259,
        flops_per_token: 1.0,
        parts: vec![],
    }
}

#[test]
fn packed_and_padded_and_micro_batched_losses_and_gradients_are_equal() {
    let dir = setup();
    let mut model = Model::load(&dir.join("model"), &Device::flex()).unwrap();
    model.set_trainable(|_| true);
    let mut all = Vec::new();
    for (layout, micro) in [(Layout::Padded, None), (Layout::Packed(100), None), (Layout::Packed(256), Some(3))] {
        let mut objective = tuning(&dir, layout, micro);
        let parts = objective.begin_step(&model, 0).unwrap();
        assert_eq!(parts, if micro.is_some() { 3 } else { 1 });
        let (mut loss, mut gradient) = (0.0, vec![0.0; 320 * 32]);
        for i in 0..parts {
            let part = objective.part(&model, i).unwrap();
            loss += scalar(&part.loss);
            let mut tape = part.loss.backward();
            let own = model.params_mut()[0].take_gradient(&mut tape).unwrap();
            gradient.iter_mut().zip(own).for_each(|(sum, g)| *sum += g);
        }
        all.push((loss, gradient));
    }
    for (loss, gradient) in &all[1..] {
        assert_close("loss", &[*loss], &[all[0].0], 1e-6, 1e-6);
        assert_close("gradient", gradient, &all[0].1, 1e-7, 1e-3);
    }
}

#[test]
fn smoothed_labels_change_what_is_learned_and_not_what_is_measured() {
    let dir = setup();
    let model = Model::load(&dir.join("model"), &Device::flex()).unwrap();
    let figures = |smoothing: f32| {
        let mut objective = tuning(&dir, Layout::Packed(256), None);
        objective.form.label_smoothing = smoothing;
        objective.begin_step(&model, 0).unwrap();
        let part = objective.part(&model, 0).unwrap();
        (scalar(&part.loss), objective.evaluate(&model).unwrap())
    };
    let (plain, smoothed) = (figures(0.0), figures(0.5));
    assert!(plain.0 != smoothed.0);
    assert_eq!(plain.1, smoothed.1);
    let refused = run(&dir, "label_smoothing = 1.0", "out", &Silent).unwrap_err();
    assert!(refused.to_string().contains("label_smoothing = 1"), "{refused}");
}

#[test]
fn what_the_user_says_is_not_learned() {
    // The loss is the mean over the answers' tokens alone, computed here token by token.
    let dir = setup();
    let model = Model::load(&dir.join("model"), &Device::flex()).unwrap();
    let mut objective = tuning(&dir, Layout::Packed(256), None);
    let figures = objective.evaluate(&model).unwrap();
    let (mut sum, mut count) = (0.0, 0);
    for example in &objective.validation[0].1 {
        let n = example.inputs();
        let batch = Batch::causal(example.ids[..n].to_vec(), 1);
        let nll =
            to_vec(&model.decoder().unwrap().nll(&batch, &example.ids[1..].iter().map(|id| *id as i32).collect()));
        // "ha " once to four times, and the end of the turn.
        for (i, nll) in nll.iter().enumerate().filter(|(i, _)| example.learn[i + 1]) {
            assert!(b"ha ".map(u32::from).contains(&example.ids[i + 1]) || example.ids[i + 1] == 258);
            (sum, count) = (sum + nll, count + 1);
        }
    }
    assert_eq!(count, 3 + 1 + 6 + 1 + 9 + 1);
    assert_close("loss", &[figures[0].1 as f32], &[sum / count as f32], 1e-6, 1e-6);
}

#[test]
fn tuning_lowers_the_loss_and_writes_a_model() {
    let dir = setup();
    let report =
        run(&dir, "epochs = 20\nbatch_size = 4\nlr = 5e-3\nvalidation_fraction = 0.2", "out", &Silent).unwrap();
    let (before, after) = (metric(&report, "validation_loss_before"), metric(&report, "validation_loss"));
    assert!(after < 0.5 * before, "{before} {after}");
    assert_eq!(metric(&report, "examples") + metric(&report, "validation_examples"), 12.0);
    assert!(
        metric(&report, "train_loss") < before && metric(&report, "perplexity") < metric(&report, "perplexity_before")
    );
    assert_eq!(metric(&report, "trainable_parameters"), metric(&report, "parameters"));
    assert_ne!(logits(&dir.join("out")), logits(&dir.join("model")));
    let generation: Value =
        serde_json::from_slice(&std::fs::read(dir.join("out/generation_config.json")).unwrap()).unwrap();
    assert!(generation["eos_token_id"].as_array().unwrap().contains(&json!(258)));
    let lines = std::fs::read_to_string(dir.join("out/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert!(last["validation_loss"].is_f64() && last["seconds"].as_f64().unwrap() > 0.0, "{last}");
    assert!(Tokenizer::load(&dir.join("out")).is_ok());
}

#[test]
fn lora_trains_adapters_only_and_the_merged_model_equals_them() {
    let dir = setup();
    let recipe = "method = 'lora'\nadapter.r = 4\nepochs = 10\nbatch_size = 4\nlr = 1e-2\nadapter.target_modules = ['q_proj', 'down_proj']";
    let report = run(&dir, recipe, "out", &Silent).unwrap();
    assert!(metric(&report, "validation_loss") < metric(&report, "validation_loss_before"));
    // Two layers with q [32, 32] and down [32, 64].
    assert_eq!(metric(&report, "trainable_parameters"), (2 * 4 * (32 + 32 + 64 + 32)) as f64);
    let (merged, adapter, base) =
        (logits(&dir.join("out")), logits(&dir.join("out/adapter")), logits(&dir.join("model")));
    assert_close("merged", &merged, &adapter, 1e-4, 1e-4);
    assert!(merged.iter().zip(&base).any(|(m, b)| (m - b).abs() > 1e-2));
    let state = |name: &str| Model::load(&dir.join(name), &Device::flex()).unwrap().state();
    let (tuned, original) = (state("out"), state("model"));
    for (name, tensor) in &original {
        let changes = name.contains("q_proj") || name.contains("down_proj");
        assert_eq!(tensor != &tuned[name], changes, "{name}");
    }
}

/// Settings of a kind that suit a tiny model.
fn small(method: &str) -> &'static str {
    match method {
        "oft" => "adapter.block_size = 8",
        "houlsby" | "pfeiffer" => "adapter.width = 8",
        "prompt_tuning" | "p_tuning" | "prefix_tuning" | "llama_adapter" => "adapter.tokens = 4",
        "adalora" => "adapter.r = 4\nadapter.target_r = 2",
        "full" | "ia3" | "layer_norm" => "",
        _ => "adapter.r = 4",
    }
}

#[test]
fn every_method_learns_and_what_it_saves_is_what_it_learned() {
    for method in Method::names() {
        let dir = setup();
        let recipe = format!("method = '{method}'\nepochs = 25\nbatch_size = 4\n{}", small(method));
        let report = run(&dir, &recipe, "out", &Silent).unwrap();
        let (before, after) = (metric(&report, "validation_loss_before"), metric(&report, "validation_loss"));
        // A tenth and more above what was seen; without training it would be 1.
        let bar = match *method {
            "prompt_tuning" | "p_tuning" => 0.8,
            "prefix_tuning" | "llama_adapter" => 0.6,
            _ => 0.45,
        };
        assert!(after < bar * before, "{method}: {before} {after}");
        let base = logits(&dir.join("model"));
        let tuned = logits(&dir.join("out"));
        assert!(tuned.iter().zip(&base).any(|(t, b)| (t - b).abs() > 1e-2), "{method}");
        if *method == "full" {
            continue;
        }
        // With the base beside it the adapter gives what the model does, and the base's own weights are as they were.
        let adapter = if dir.join("out/adapter").exists() { dir.join("out/adapter") } else { dir.join("out") };
        assert_close(method, &logits(&adapter), &tuned, 1e-3, 1e-3);
        let again = dir.join("again");
        let loaded = Model::load(&adapter, &Device::flex()).unwrap();
        cupola_arch::save_adapter(&loaded, "..", &again).unwrap();
        let tensors = |dir: &Path| std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
        assert!(tensors(&adapter) == tensors(&again), "{method}: load and save change the file");
        assert_eq!(metric(&report, "trainable_parameters"), counted(&dir, &recipe), "{method}");
    }
}

/// How many parameters the plan says are trained.
fn counted(dir: &TempDir, recipe: &str) -> f64 {
    let stage =
        TuneStage.configure(format!("model = 'model'\ndata = 'data.jsonl'\n{recipe}").parse().unwrap()).unwrap();
    let inputs: Vec<(Input, Option<&Plan>)> = stage
        .references()
        .into_iter()
        .map(|r| (Input { key: r.key.into(), path: dir.join(&r.value), reference: r.value, kind: None }, None))
        .collect();
    let plan = stage.plan(&PlanInputs { inputs, recipe_dir: dir.path(), peak_flops: 1e9 }).unwrap();
    plan.facts["trainable_parameters"]
}

#[test]
fn beside_weights_in_four_bits_an_adapter_learns_almost_as_well() {
    let dir = setup();
    let loss = |recipe: &str, out: &str| metric(&run(&dir, recipe, out, &Silent).unwrap(), "validation_loss");
    let recipe = "method = 'lora'\nadapter.r = 4\nepochs = 20\nbatch_size = 4";
    let (whole, four) = (loss(recipe, "whole"), loss(&format!("{recipe}\nquantize = 'nf4'"), "four"));
    assert!((four / whole - 1.0).abs() < 0.2, "{whole} {four}");
    // The model that is written has the weights that were trained beside, as floats.
    let changed = |name: &str| {
        let state = |out: &str| Model::load(&dir.join(out), &Device::flex()).unwrap().state()[name].to_f32().unwrap();
        state("four").iter().zip(state("model")).any(|(a, b)| (a - b).abs() > 1e-6)
    };
    assert!(changed("model.layers.0.mlp.up_proj.weight") && !changed("model.embed_tokens.weight"));
}

#[test]
fn resume_equals_uninterrupted_run() {
    for method in Method::names() {
        let dir = setup();
        let settings = small(method);
        let recipe = format!(
            "method = '{method}'\nepochs = 5\nbatch_size = 4\nlr = 1e-3\ncheckpoint_every = 3\nmicro_batch = 2\n{settings}"
        );
        let whole = run(&dir, &recipe, "whole", &Silent).unwrap();
        for at in [2, 5, 8] {
            let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                run(&dir, &recipe, "cut", &KillAt::update(at))
            }));
            assert!(killed.is_err());
        }
        let resumed = run(&dir, &recipe, "cut", &Silent).unwrap();
        assert!(dir.join("cut.work/checkpoints").is_dir());
        let merges = dir.join("whole/model.safetensors").exists();
        let own = if merges {
            ["model.safetensors", "config.json"]
        } else {
            ["adapter_model.safetensors", "adapter_config.json"]
        };
        for file in own.into_iter().chain(["tokenizer.json", "generation_config.json"]) {
            let read = |out: &str| std::fs::read(dir.join(out).join(file)).unwrap();
            assert!(read("whole") == read("cut"), "{method}: {file} differs");
        }
        for name in ["validation_loss", "validation_loss_before", "train_loss", "steps", "tokens"] {
            assert_eq!(whole.metrics[name], resumed.metrics[name], "{method}: {name}");
        }
    }
}

#[test]
fn long_conversations_are_counted() {
    let dir = setup();
    let report = run(&dir, "epochs = 1\nmax_seq_len = 30", "out", &Silent).unwrap();
    assert!(metric(&report, "truncated") > 0.0);
    let error = run(&dir, "max_seq_len = 5", "none", &Silent).unwrap_err();
    assert!(error.to_string().contains("first 5 tokens") && error.hint().is_some(), "{error}");
}

#[test]
fn bad_data_is_an_error_that_says_where() {
    let dir = setup();
    let good = json!({"prompt": "a", "completion": "b"}).to_string();
    for (text, message) in [
        (String::new(), "no records"),
        ("{\"instruction\": \"a\"}".to_owned(), "line 1: a record with `instruction` is no conversation"),
        (format!("{good}\n{{\"prompt\": 1, \"completion\": \"b\"}}"), "line 2: `prompt` is not a text"),
        (format!("{good}\n{{\"prompt\""), "line 2"),
    ] {
        std::fs::write(dir.join("data.jsonl"), text).unwrap();
        let error = run(&dir, "", "out", &Silent).unwrap_err();
        assert!(error.chain().contains(message) && error.chain().contains("data.jsonl"), "{}", error.chain());
    }
    std::fs::write(dir.join("data.jsonl"), good).unwrap();
    let report = run(&dir, "epochs = 1", "one", &Silent).unwrap();
    assert!(report.metrics.get("validation_loss").is_none() && report.came_out.starts_with("training loss"));
}

#[test]
fn wrong_settings_are_usage_errors() {
    for (text, message, hint) in [
        ("data = 'd'", "`model` is missing", "model"),
        ("model = 'm'", "`data` is missing", "data"),
        ("model = 'm'\ndata = 'd'\npackign = true", "unknown key `packign`", "`packing`"),
        ("model = 'm'\ndata = 'd'\nbatchsize = 3", "unknown key `batchsize`", "`batch_size`"),
        ("model = 'm'\ndata = 'd'\nmethod = 'lorra'", "cannot be `lorra`", "`lora`"),
        ("model = 'm'\ndata = 'd'\nmethod = 'lora'\nadapter.alfa = 3", "no setting `alfa`", "`alpha`"),
        ("model = 'm'\ndata = 'd'\nformat = 'mesages'", "cannot be `mesages`", "`messages`"),
        ("model = 'm'\ndata = 'd'\nschedule = 'cosin'", "`cosin`", "cosine"),
    ] {
        let error = TuneStage.configure(text.parse().unwrap()).err().unwrap();
        assert_eq!(error.class(), Class::Usage);
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
    }
    for text in [
        "epochs = 0",
        "batch_size = 0",
        "validation_fraction = 1.0",
        "lr = -1",
        "method = 'lora'\nadapter.r = 0",
        "adapter.r = 1",
        "quantize = 'nf4'",
    ] {
        let error = TuneStage.configure(format!("model = 'm'\ndata = 'd'\n{text}").parse().unwrap()).err().unwrap();
        assert_eq!(error.class(), Class::Usage, "{text}");
    }
    let stage = TuneStage.configure("model = 'm'\ndata = 'd'".parse().unwrap()).unwrap();
    let config = stage.effective_config();
    assert_eq!((&config["epochs"], &config["packing"], &config["format"]), (&json!(3.0), &json!(true), &json!("auto")));
}

#[test]
fn tasks_are_mixed_by_weight_and_measured_each() {
    let dir = setup();
    let records = |word: &str, n: usize| -> String {
        (0..n).map(|i| json!({"prompt": format!("{word} {i}"), "completion": word}).to_string() + "\n").collect()
    };
    std::fs::write(dir.join("data.jsonl"), records("ha", 30)).unwrap();
    std::fs::write(dir.join("more.jsonl"), records("boo", 10)).unwrap();
    let recipe = "epochs = 2\nbatch_size = 4\nlr = 3e-3\nvalidation_fraction = 0.2\nmix = [{ data = 'more.jsonl', name = 'boo', weight = 3 }]";
    let report = run(&dir, recipe, "out", &Silent).unwrap();
    for name in ["data", "boo"] {
        let (before, after) = (format!("validation_loss_{name}_before"), format!("validation_loss_{name}"));
        assert!(metric(&report, &after) < metric(&report, &before), "{name}");
    }
    // Weighed three times, ten records count as thirty: about as many steps as for twice the data, and more with even shares.
    let alone =
        run(&dir, "epochs = 2\nbatch_size = 4\nlr = 3e-3\nvalidation_fraction = 0.2", "alone", &Silent).unwrap();
    assert!(metric(&report, "steps") > 1.7 * metric(&alone, "steps"));
    let error = run(&dir, "mix = [{ data = 'more.jsonl', name = '' }]", "none", &Silent).unwrap_err();
    assert!(error.to_string().contains("`name`"), "{error}");
}
