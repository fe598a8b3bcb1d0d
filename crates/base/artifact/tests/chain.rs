//! A chain of artifacts: whatever changes in it afterwards is found and named.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cupola_artifact::stage::{Input, Report};
use cupola_artifact::{Facts, InputRecord, MANIFEST, Manifest, RunDir, hash_path, inspect, verify};
use serde_json::json;

/// A run of two artifacts: a source file, data made from it, a tokenizer made from the data.
struct Chain {
    _dir: tempfile::TempDir,
    source: PathBuf,
    out: PathBuf,
}

impl Chain {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("corpus.txt"), dir.path().join("run"));
        fs::write(&source, "To be, or not to be").unwrap();
        let run = RunDir::lock(&out).unwrap();
        let chain = Self { _dir: dir, source, out: out.clone() };
        chain.stage(&run, "data", "corpus", None, &chain.source, &[("train.bin", "to be"), ("deep/val.bin", "not")]);
        chain.stage(&run, "tokenizer", "bpe", Some("data"), &out.join("data.corpus"), &[("tokenizer.json", "{}")]);
        chain
    }

    fn stage(&self, run: &RunDir, kind: &str, name: &str, of: Option<&str>, from: &Path, files: &[(&str, &str)]) {
        let bench = run.begin(kind, name, "key").unwrap();
        for (path, text) in files {
            let path = bench.artifact.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let hash = match of {
            Some(_) => Manifest::read(from).unwrap().content_hash,
            None => hash_path(from).unwrap(),
        };
        let input = Input {
            key: "from".into(),
            reference: from.file_name().unwrap().to_str().unwrap().into(),
            path: from.into(),
            kind: of.map(Into::into),
        };
        let facts = Facts {
            kind: kind.into(),
            format_version: 1,
            name: name.into(),
            inputs: vec![InputRecord::new(&input, hash, bench.home())],
            config: json!({"vocab_size": 300, "from": "corpus"}),
            seed: 1,
            device: "cpu".into(),
            started: SystemTime::now(),
            seconds: 0.5,
            report: Report { came_out: "something".into(), ..Report::default() },
        };
        Manifest::seal(&bench.artifact, facts).unwrap();
        bench.finish().unwrap();
    }

    fn last(&self) -> PathBuf {
        self.out.join("tokenizer.bpe")
    }

    /// The files of the whole chain.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.source.clone()];
        for path in ["data.corpus/train.bin", "data.corpus/deep/val.bin", "tokenizer.bpe/tokenizer.json"] {
            files.push(self.out.join(path));
        }
        files.extend([self.out.join("data.corpus").join(MANIFEST), self.last().join(MANIFEST)]);
        files
    }

    /// Whether a problem with this file (under whatever spelling of its path) is reported.
    fn finds(&self, file: &Path) -> bool {
        let result = match verify(&self.last()) {
            Ok(result) => result,
            Err(error) => return file == self.last().join(MANIFEST) && error.to_string().contains(MANIFEST),
        };
        let same = |a: &Path| fs::canonicalize(a).unwrap_or(a.into()) == fs::canonicalize(file).unwrap_or(file.into());
        !result.is_ok() && result.problems.iter().any(|problem| same(&problem.file))
    }
}

#[test]
fn untouched_chain_is_proven_down_to_the_sources() {
    let chain = Chain::new();
    let result = verify(&chain.last()).unwrap();
    assert!(result.is_ok(), "{:?}", result.problems);
    assert_eq!((result.artifacts.len(), result.files), (2, 6));
    let whole = verify(&chain.out).unwrap();
    assert!(whole.is_ok() && whole.artifacts.len() == 2);
    assert!(verify(chain.source.parent().unwrap()).is_err() && verify(Path::new("/nowhere")).is_err());
}

#[test]
fn moved_run_is_still_proven() {
    let chain = Chain::new();
    let moved = chain.out.with_file_name("moved");
    fs::rename(&chain.out, &moved).unwrap();
    assert!(verify(&moved.join("tokenizer.bpe")).unwrap().is_ok());
}

#[test]
fn every_flipped_byte_in_the_chain_is_found_and_its_file_named() {
    let chain = Chain::new();
    for file in chain.files() {
        let bytes = fs::read(&file).unwrap();
        let step = (bytes.len() / 40).max(1);
        for at in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&file, &damaged).unwrap();
            assert!(chain.finds(&file), "byte {at} of {}", file.display());
        }
        fs::write(&file, &bytes).unwrap();
    }
    assert!(verify(&chain.last()).unwrap().is_ok());
}

#[test]
fn missing_unexpected_and_cut_files_are_found() {
    let chain = Chain::new();
    for file in chain.files() {
        let aside = file.with_extension("aside");
        fs::rename(&file, chain.out.join("aside")).unwrap();
        assert!(chain.finds(&file), "{} is gone", file.display());
        fs::rename(chain.out.join("aside"), &file).unwrap();
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        assert!(chain.finds(&file), "{} is cut", file.display());
        fs::write(&file, &bytes).unwrap();
        if file != chain.source {
            fs::write(&aside, "").unwrap();
            assert!(chain.finds(&aside), "{} is unexpected", aside.display());
            fs::remove_file(&aside).unwrap();
        }
    }
}

#[test]
fn input_made_again_with_other_content_is_found() {
    let chain = Chain::new();
    let run = RunDir::lock(&chain.out).unwrap();
    chain.stage(&run, "data", "corpus", None, &chain.source, &[("train.bin", "other")]);
    assert!(chain.finds(&chain.out.join("data.corpus")));
    assert!(verify(&chain.out.join("data.corpus")).unwrap().is_ok());
}

#[test]
fn inspect_tells_what_an_artifact_is() {
    let chain = Chain::new();
    let text = inspect(&chain.last()).unwrap();
    for part in ["tokenizer.bpe", "vocab_size = 300", "from = data.corpus (data)", "tokenizer.json (2 B)", "something"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(inspect(&chain.out).unwrap().contains("data.corpus"));
}

#[test]
fn inspect_tells_what_a_model_folder_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "rope": {"theta": 10000.0}});
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let weights = cupola_artifact::HostTensor::from_f32([10, 150], &[0.5; 1500]);
    let tensors = [("w".to_string(), weights)].into();
    cupola_artifact::write_safetensors(&dir.path().join("model.safetensors"), &tensors, &[]).unwrap();
    let text = inspect(dir.path()).unwrap();
    for part in ["LlamaForCausalLM", "hidden_size = 64", "rope.theta", "1 tensors, 1.5k parameters (1.5k F32), 6.0 kB"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}
