//! Models for other programs: what is written loads again, here and in llama.cpp.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cupola_testkit::{TempDir, tiny_llama_dir};
use serde_json::{Value, json};

fn cupola(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cupola")).args(args).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the program, which must succeed, and gives back what it prints.
fn says(args: &[&str]) -> String {
    let output = cupola(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The program's greedy answers to lines of text.
fn answers(model: &Path, lines: &str) -> String {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_cupola"))
        .args(["chat", text(model), "--temperature", "0", "--max-tokens", "12"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn exported(dir: &TempDir, model: &Path, element: &str) -> PathBuf {
    let out = dir.path().join(format!("{element}.gguf"));
    let said = says(&["export", text(model), "--to", "gguf", "--type", element, "--out", text(&out)]);
    assert!(said.contains(text(&out)) && said.contains(&element.to_uppercase()), "{said}");
    out
}

/// The program's greedy tokens after a prompt.
fn likeliest(engine: &cupola_generate::Engine, prompt: &[u32], count: usize) -> Vec<u32> {
    let params =
        cupola_generate::SamplingParams { temperature: 0.0, max_tokens: count, ignore_eos: true, ..Default::default() };
    let request = cupola_generate::Request { prompt: prompt.to_vec(), params };
    engine.generate_ids(request).unwrap().0
}

#[test]
fn exported_file_answers_as_the_folder_does() {
    let dir = TempDir::new("export");
    let model = tiny_llama_dir(&dir.path().join("tiny"), 3).dir;
    let file = exported(&dir, &model, "f32");
    let lines = "Hello\nWhat is a cupola?\n";
    let want = answers(&model, lines);
    assert!(want.len() > 10, "{want:?}");
    assert_eq!(answers(&file, lines), want);
    // And back into a folder.
    let folder = dir.path().join("again");
    says(&["export", text(&file), "--to", "hf", "--out", text(&folder)]);
    assert_eq!(answers(&folder, lines), want);
    let shown = says(&["inspect", text(&file)]);
    for part in ["GGUF version 3", "tokenizer.ggml.pre = \"gpt-2\"", "blk.1.ffn_down.weight F32 [32, 64]"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for element in ["bf16", "q8_0", "q4_k"] {
        assert!(!answers(&exported(&dir, &model, element), lines).is_empty(), "{element}");
    }
}

#[test]
fn wrong_exports_say_the_way_out() {
    let dir = TempDir::new("export");
    let model = tiny_llama_dir(&dir.path().join("tiny"), 3).dir;
    let out = dir.path().join("x.gguf");
    for (status, args, words) in [
        (2, &["export", text(&model), "--to", "onnx"][..], &["gguf", "hf"][..]),
        (2, &["export", text(&model), "--to", "gguf", "--type", "q8"], &["no element type `q8`", "hint: ", "Q8_0"]),
        (2, &["export", text(&model), "--to", "hf", "--type", "f16"], &["`--type` is for `--to gguf`"]),
        (2, &["export", "nowhere", "--to", "gguf"], &["there is no nowhere", "hint: "]),
        (2, &["export", text(&model), "--to", "hf", "--out", text(&model)], &["holds a model already", "hint: "]),
        (1, &["export", text(&model), "--to", "gguf", "--out", "/nowhere/at/all.gguf"], &["/nowhere/at/all.gguf"]),
    ] {
        let output = cupola(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
    }
    std::fs::write(&out, b"GGUF nonsense").unwrap();
    let output = cupola(&["inspect", text(&out)]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("x.gguf is not a sound GGUF file"));
}

/// Needs llama-cpp-python: `CUPOLA_LLAMA_PYTHON` names a Python that has it. `CUPOLA_EXPORT_MODEL` names a model folder to
/// check instead of a random model.
#[test]
fn llama_cpp_gives_the_same_tokens() {
    let Some(python) = std::env::var_os("CUPOLA_LLAMA_PYTHON").filter(|path| !path.is_empty()) else {
        eprintln!("skipped: CUPOLA_LLAMA_PYTHON names no Python with llama-cpp-python");
        return;
    };
    let dir = TempDir::new("export");
    let model = match std::env::var_os("CUPOLA_EXPORT_MODEL") {
        Some(model) => PathBuf::from(model),
        None => tiny_llama_dir(&dir.path().join("tiny"), 3).dir,
    };
    let engine = cupola_generate::Engine::load(&model, "cpu", &cupola_generate::EngineOptions::default()).unwrap();
    let tokenizer = cupola_tokenizer::Tokenizer::load(&model).unwrap();
    let (mut tokens, mut greedy) = (Vec::new(), Vec::new());
    for text in
        ["ROMEO:", "To be, or not to be", "12 + 30 = 42;\n\n\t\u{fc}ber \u{4f60}\u{597d} <|im_end|>", "I'll don't  two"]
    {
        let prompt = tokenizer.encode_special(text).unwrap();
        tokens.push(json!({"text": text, "add": false, "ids": prompt}));
        greedy.push(json!({"prompt": prompt, "ids": likeliest(&engine, &prompt, 24)}));
    }
    let file = exported(&dir, &model, "f32");
    let cases: Value = json!([{"file": file, "tokens": tokens}, {"file": file, "greedy": greedy}]);
    let path = dir.path().join("cases.json");
    std::fs::write(&path, cases.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/peer_gguf.py");
    let output = Command::new(python).arg(script).arg(path).output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code() == Some(3) {
        eprintln!("skipped: {report}");
        return;
    }
    eprintln!("{report}");
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
}
