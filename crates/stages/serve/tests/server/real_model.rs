//! The stage and the server over the real engine and a random model of a few thousand parameters.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{Running, State};
use crate::encoders::write_tokenizer;
use cupola_arch::Parts;
use cupola_artifact::stage::{Input, Report, Silent, Stage, StageContext};
use cupola_generate::Engine;
use cupola_gguf::format_by_name;
use cupola_gguf::models::ToGguf;
use cupola_serve::{Backend, ServeConfig, ServeStage, Server, resolve_model, router};
use cupola_testkit::{Golden, fixture, tiny_llama_dir};
use cupola_tokenizer::Tokenizer;
use serde_json::json;

fn serve_tiny(dir: &Path) -> (Engine, Running) {
    tiny_llama_dir(dir, 1);
    serve(dir)
}

fn serve(dir: &Path) -> (Engine, Running) {
    let config = ServeConfig { port: 0, ..ServeConfig::default() };
    let engine = Engine::load(dir, "cpu", &config.engine).unwrap_or_else(|e| panic!("{}", e.chain()));
    let handle =
        Server::bind(&config).unwrap().spawn(router(Arc::new(engine.clone()), &config, crate::common::MODEL)).unwrap();
    (engine, Running { handle, state: Arc::<State>::default() })
}

/// Runs the stage over the model in `compress.int8` of a folder; gives the report and where the artifact is.
fn run_stage(root: &Path) -> (Report, PathBuf) {
    let (model, dir) = (root.join("compress.int8"), root.join(".work/serve.api/artifact"));
    std::fs::create_dir_all(&dir).unwrap();
    let stage = ServeStage.configure("model = \"int8\"\nport = 9000".parse().unwrap()).unwrap();
    let input =
        Input { key: "model".into(), reference: "int8".into(), path: model.clone(), kind: Some("compress".into()) };
    let context = StageContext {
        name: "api",
        dir: &dir,
        work: root,
        recipe_dir: root,
        inputs: &[input],
        device: "cpu",
        seed: 0,
        progress: &Silent,
    };
    let report = stage.run(&context).unwrap_or_else(|e| panic!("{}", e.chain()));
    (report, dir)
}

#[test]
fn adapters_are_models_that_requests_ask_for() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    tiny_llama_dir(&model, 1);
    let low = root.path().join("low");
    let mut adapted = cupola_arch::Model::load(&model, &burn::tensor::Device::flex()).unwrap();
    let kind = cupola_nn::adapters::kind("lora").unwrap();
    let config = cupola_nn::adapters::AdapterConfig::new(kind, serde_json::Map::new()).unwrap();
    adapted.adapt(&config, 1).unwrap();
    for mut param in cupola_nn::Module::adapter_params_mut(&mut adapted.network) {
        param.update(|numbers| numbers.iter_mut().enumerate().for_each(|(i, x)| *x += (i as f32).sin()));
    }
    cupola_arch::save_adapter(&adapted, "../model", &low).unwrap();
    let adapters = [("low".to_string(), low.clone())].into();
    let config = ServeConfig { port: 0, adapters, ..ServeConfig::default() };
    let engine = Engine::load_with(&model, &config.adapters, "cpu", &config.engine).unwrap();
    let handle = Server::bind(&config).unwrap().spawn(router(Arc::new(engine), &config, crate::common::MODEL)).unwrap();
    let server = Running { handle, state: Arc::<State>::default() };
    let ask = |model: &str| {
        server.post(
            "/v1/completions",
            &json!({"model": model, "prompt": "hello", "max_tokens": 12, "temperature": 0, "ignore_eos": true}),
        )
    };
    let (plain, adapted, unknown) = (ask(crate::common::MODEL).json(), ask("low").json(), ask("lwo"));
    assert_eq!((plain["model"].as_str(), adapted["model"].as_str()), (Some(crate::common::MODEL), Some("low")));
    assert_ne!(plain["choices"][0]["text"], adapted["choices"][0]["text"]);
    assert_eq!(unknown.status, 404);
    let listed = server.get("/v1/models").json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    let missing =
        Engine::load_with(&model, &[("x".to_string(), root.path().join("none"))].into(), "cpu", &config.engine);
    assert!(missing.unwrap_err().chain().contains("the adapter `x`"));
}

#[test]
fn the_stage_writes_an_artifact_that_leads_back_to_the_model() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("compress.int8");
    tiny_llama_dir(&model, 1);
    let (report, dir) = run_stage(root.path());
    for metric in ["first_token_seconds", "tokens_per_second", "completion_tokens"] {
        assert!(report.metrics[metric].as_f64().unwrap() > 0.0, "{metric}");
    }
    std::fs::rename(&dir, root.path().join("serve.api")).unwrap();
    let (found, settings) = resolve_model(&root.path().join("serve.api")).unwrap();
    assert_eq!(found.canonicalize().unwrap(), model.canonicalize().unwrap());
    assert_eq!((settings.port, settings.model_name.as_deref()), (9000, Some("int8")));
}

#[test]
fn the_stage_tries_encoders_out_by_what_they_are_for() {
    for (name, task) in [("bert-mlm", true), ("roberta-seqcls", true), ("bert-tokcls", false)] {
        let root = tempfile::tempdir().unwrap();
        let model = root.path().join("compress.int8");
        std::fs::create_dir_all(&model).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture(name).join(file), model.join(file)).unwrap();
        }
        write_tokenizer(&model, 98);
        let (report, dir) = run_stage(root.path());
        assert_eq!(report.metrics["vector_width"], 32, "{name}");
        assert_eq!(report.metrics.contains_key("task_seconds"), task, "{name}");
        assert!(dir.join("serve.json").is_file());
    }
}

/// A GGUF file answers as the folder that it was made of.
#[test]
fn a_gguf_file_is_served_as_its_folder_is() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, server) = serve_tiny(dir.path());
    let parts = Parts::read(dir.path(), &cupola_ops::open("cpu").unwrap()).unwrap();
    let shapes: Vec<_> = parts.state.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
    let mut file = ToGguf::plan(&parts.config, &shapes, format_by_name("F32").unwrap()).unwrap();
    let rows = parts.config["vocab_size"].as_u64().unwrap() as usize;
    Tokenizer::load(dir.path()).unwrap().set_gguf(&mut file.metadata, rows).unwrap();
    let path = dir.path().join("model.gguf");
    file.write(&path, |name| Ok(parts.state[name].clone())).unwrap();
    let (_other, packed) = serve(&path);
    let fields = || json!({"temperature": 0.0, "max_tokens": 16, "ignore_eos": true});
    let (one, two) = (server.chat("hello", fields()).json(), packed.chat("hello", fields()).json());
    assert_eq!(one["choices"], two["choices"]);
    let texts = |server: &Running| server.complete(json!(["hello", "you"]), fields()).json()["choices"].clone();
    assert_eq!(texts(&server), texts(&packed));
    assert_eq!(texts(&packed).as_array().unwrap().len(), 2);
}

/// An encoder-decoder reads the prompt and writes what follows from its start token.
#[test]
fn an_encoder_decoder_answers_completions_with_its_golden_tokens() {
    for name in ["t5", "bart"] {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture(name).join(file), dir.path().join(file)).unwrap();
        }
        write_tokenizer(dir.path(), 98);
        let (_engine, server) = serve(dir.path());
        let golden = Golden::load(name);
        let (shape, ids) = golden.i64("gen.in.input_ids");
        let mask = golden.i64("gen.in.attention_mask").1;
        let row = (0..shape[0]).find(|row| mask[row * shape[1]..(row + 1) * shape[1]].iter().all(|m| *m == 1)).unwrap();
        let prompt = &ids[row * shape[1]..(row + 1) * shape[1]];
        let (all, sequences) = golden.i64("gen.sequences");
        let count = all[1] - 1;
        let body = json!({"temperature": 0.0, "max_tokens": count, "ignore_eos": true, "logprobs": 1});
        let answer = server.complete(json!(prompt), body).json();
        let words: Vec<&str> = answer["choices"][0]["logprobs"]["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t.as_str().unwrap())
            .collect();
        let want = &sequences[row * all[1] + 1..(row + 1) * all[1]];
        let ended = want.iter().position(|id| *id == 2).unwrap_or(want.len());
        for (word, id) in words.iter().zip(&want[..ended]) {
            assert!(word.trim() == format!("w{id}") || *id < 5, "{name}: {words:?} and {want:?}");
        }
        assert_eq!(answer["usage"]["prompt_tokens"], prompt.len(), "{name}");
    }
}

#[test]
fn streamed_and_whole_answers_agree_for_a_seed() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, server) = serve_tiny(dir.path());
    let fields = |stream: bool| json!({"seed": 3, "max_tokens": 20, "n": 2, "stream": stream});
    let whole = server.chat("hello", fields(false)).json();
    let chunks = server.chat("hello", fields(true)).chunks();
    for index in 0..2 {
        let pieces = chunks.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index);
        let text: String = pieces.filter_map(|c| c["delta"]["content"].as_str()).collect();
        assert_eq!(whole["choices"][index]["message"]["content"], text);
    }
    let used = whole["usage"]["completion_tokens"].as_u64().unwrap();
    assert!((2..=40).contains(&used), "{used}");
}

#[test]
fn settings_reach_the_model_and_do_not_disturb_others() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, server) = serve_tiny(dir.path());
    let ask = |fields: &serde_json::Value| {
        let mut body = json!({"seed": 3, "max_tokens": 20, "ignore_eos": true, "logprobs": 2});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        server.complete(json!("hello"), body).json()["choices"][0].clone()
    };
    let settings = [
        json!({}),
        json!({"logit_bias": {"65": 100}}),
        json!({"presence_penalty": 2, "frequency_penalty": 2, "temperature": 0.2}),
        json!({"top_k": 2, "repetition_penalty": 1.8}),
        json!({"min_p": 0.2, "no_repeat_ngram_size": 1}),
        json!({"typical_p": 0.5, "min_tokens": 10}),
    ];
    let alone: Vec<_> = settings.iter().map(ask).collect();
    assert_eq!(alone[1]["text"], "A".repeat(20));
    assert_eq!(alone[0]["logprobs"]["tokens"].as_array().unwrap().len(), 20);
    for (i, one) in alone.iter().enumerate() {
        assert!(alone[..i].iter().all(|other| other["text"] != one["text"]), "{i}: {one}");
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = settings.iter().map(|s| scope.spawn(|| ask(s)["text"].clone())).collect();
        for (thread, alone) in threads.into_iter().zip(&alone) {
            assert_eq!(thread.join().unwrap(), alone["text"]);
        }
    });
}

#[test]
fn beam_search_answers_whole_and_one_beam_is_the_greedy_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, server) = serve_tiny(dir.path());
    let base = json!({"max_tokens": 12, "ignore_eos": true, "temperature": 0});
    let ask = |prompt: serde_json::Value, more: serde_json::Value| {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.complete(prompt, body)
    };
    let greedy = ask(json!("hello"), json!({})).json()["choices"][0]["text"].clone();
    let one = ask(json!("hello"), json!({"use_beam_search": true})).json();
    assert_eq!(one["choices"][0]["text"], greedy);
    let answer =
        ask(json!(["hello", "you"]), json!({"use_beam_search": true, "n": 2, "best_of": 4, "echo": true})).json();
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert!(texts.len() == 4 && texts[..2].iter().all(|t| t.starts_with("hello")), "{texts:?}");
    assert!(texts[0] != texts[1] && texts[2..].iter().all(|t| t.starts_with("you")), "{texts:?}");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 8, "completion_tokens": 48, "total_tokens": 56}));
    let chat =
        server.chat("hi", json!({"use_beam_search": true, "n": 3, "max_tokens": 5, "length_penalty": 0.5})).json();
    assert_eq!(chat["choices"].as_array().unwrap().len(), 3);
    for (more, param) in [
        (json!({"use_beam_search": true, "stream": true}), "stream"),
        (json!({"use_beam_search": true, "stop": "x"}), "stop"),
        (json!({"use_beam_search": true, "logprobs": 1}), "logprobs"),
        (json!({"use_beam_search": true, "early_stopping": "maybe"}), "early_stopping"),
        (json!({"use_beam_search": true, "length_penalty": 11}), "length_penalty"),
        (json!({"length_penalty": 1}), "length_penalty"),
    ] {
        assert_eq!(ask(json!("hello"), more).error(400)["param"], param);
    }
}

#[test]
fn the_context_bounds_prompt_and_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, server) = serve_tiny(dir.path());
    let error = server.complete(json!("x".repeat(300)), json!({})).error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    server.complete(json!([300_000]), json!({})).error(400);
    let answer = server.complete(json!("x".repeat(250)), json!({"max_tokens": 1000})).json();
    assert!(answer["usage"]["total_tokens"].as_u64().unwrap() <= 257, "{answer}");
}

#[test]
fn a_client_that_goes_away_frees_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, server) = serve_tiny(dir.path());
    let body = json!({"prompt": "x", "max_tokens": 250, "n": 8, "stream": true, "temperature": 2.0}).to_string();
    let mut socket = TcpStream::connect(server.handle.address()).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    socket.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(&socket).read_line(&mut line).unwrap();
    assert!(line.contains("200"), "{line}");
    drop(socket);
    let deadline = Instant::now() + Duration::from_secs(20);
    while Backend::stats(&engine).running + Backend::stats(&engine).waiting > 0 {
        assert!(Instant::now() < deadline, "{:?}", Backend::stats(&engine));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Backend::stats(&engine).generated_tokens < 8 * 250, "{:?}", Backend::stats(&engine));
    assert_eq!(server.get("/health").status, 200);
}
