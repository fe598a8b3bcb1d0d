//! Golden files: inputs and outputs of other implementations, stored beside the code.

use std::path::{Path, PathBuf};

use cupola_artifact::{DType, HostTensor, StateDict, read_safetensors};
use half::{bf16, f16};
use serde_json::Value;

/// The fixture `name` of this repository.
pub fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    assert!(path.exists(), "there is no fixture {}", path.display());
    path
}

/// A fixture that is too large for this repository: `$CUPOLA_FIXTURES/<name>`. Where it is absent this prints a line
/// and gives `None`, and the test should return.
pub fn fixture_or_skip(name: &str) -> Option<PathBuf> {
    let inside = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    if inside.exists() {
        return Some(inside);
    }
    let found = std::env::var_os("CUPOLA_FIXTURES").map(|root| Path::new(&root).join(name)).filter(|p| p.exists());
    if found.is_none() {
        eprintln!("skipped: the fixture `{name}` is not in CUPOLA_FIXTURES");
    }
    found
}

/// A golden file: tensors, and what is said about them.
pub struct Golden {
    /// The content of `golden.safetensors`.
    pub tensors: StateDict,
    /// The content of `golden.json`: class, settings, tolerances, notes.
    pub info: Value,
    dir: PathBuf,
}

impl Golden {
    /// Reads a fixture of this repository.
    pub fn load(name: &str) -> Self {
        Self::load_dir(&fixture(name))
    }

    /// Reads a fixture from anywhere.
    pub fn load_dir(dir: &Path) -> Self {
        let info =
            std::fs::read(dir.join("golden.json")).unwrap_or_else(|e| panic!("{}/golden.json: {e}", dir.display()));
        let tensors = read_safetensors(&dir.join("golden.safetensors")).unwrap_or_else(|e| panic!("{}", e.chain()));
        Self { tensors, info: serde_json::from_slice(&info).unwrap(), dir: dir.to_path_buf() }
    }

    /// The fixture's folder, where the model's files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    /// The shape and the values of a tensor of floating-point numbers.
    pub fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, values) = self.f64(name);
        (shape, values.into_iter().map(|v| v as f32).collect())
    }

    /// The same in double precision, which the schedules are stored in.
    pub fn f64(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let HostTensor { shape, dtype, bytes } = self.tensor(name);
        let values = match dtype {
            DType::F64 => words(bytes).map(f64::from_le_bytes).collect(),
            DType::F32 => words(bytes).map(|w| f64::from(f32::from_le_bytes(w))).collect(),
            DType::F16 => words(bytes).map(|w| f64::from(f16::from_le_bytes(w))).collect(),
            DType::BF16 => words(bytes).map(|w| f64::from(bf16::from_le_bytes(w))).collect(),
            other => panic!("{name} holds {}, not floating-point numbers", other.name()),
        };
        (shape.clone(), values)
    }

    /// The shape and the values of a tensor of whole numbers or truth values.
    pub fn i64(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        let HostTensor { shape, dtype, bytes } = self.tensor(name);
        let values = match dtype {
            DType::I64 => words(bytes).map(i64::from_le_bytes).collect(),
            DType::I32 => words(bytes).map(|w| i64::from(i32::from_le_bytes(w))).collect(),
            DType::U8 | DType::Bool => bytes.iter().map(|&b| i64::from(b)).collect(),
            other => panic!("{name} holds {}, not whole numbers", other.name()),
        };
        (shape.clone(), values)
    }

    /// How far an output may be off, absolute and relative: from `tolerances`, whose keys may end in `*`; the most
    /// particular key decides.
    pub fn tolerance(&self, output: &str) -> (f32, f32) {
        let all =
            self.info["tolerances"].as_object().unwrap_or_else(|| panic!("{}: no tolerances", self.dir.display()));
        let fits = |key: &str| key == output || key.strip_suffix('*').is_some_and(|start| output.starts_with(start));
        let (_, found) = all
            .iter()
            .filter(|(key, _)| fits(key))
            .max_by_key(|(key, _)| (*key == output, key.len()))
            .unwrap_or_else(|| panic!("{}: no tolerance for {output}", self.dir.display()));
        (found["atol"].as_f64().unwrap() as f32, found["rtol"].as_f64().unwrap() as f32)
    }

    /// Compares an output with the golden one, within its tolerance.
    #[track_caller]
    pub fn check(&self, output: &str, got: &[f32]) {
        let (atol, rtol) = self.tolerance(output);
        crate::assert_close(output, got, &self.f32(output).1, atol, rtol);
    }

    fn tensor(&self, name: &str) -> &HostTensor {
        let found = self.tensors.get(name);
        found.unwrap_or_else(|| panic!("{} has no tensor {name}; it has {:?}", self.dir.display(), self.names()))
    }
}

/// The little-endian words of a tensor.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|c| c.try_into().unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixture_can_be_read_and_has_tolerances() {
        for name in [
            "llama",
            "generation",
            "gpt2",
            "llama-sharded-bf16",
            "llama-linear-rope",
            "peft-lora",
            "loss-dpo",
            "gguf-blocks",
            "optimizers",
            "recurrent",
            "sampling",
            "schedules",
        ] {
            let golden = Golden::load(name);
            assert!(golden.names().len() > 5, "{name}");
            assert!(golden.info["tolerances"].is_object(), "{name}");
        }
    }

    #[test]
    fn shapes_fit_the_values() {
        let golden = Golden::load("llama");
        let (shape, values) = golden.f32("out.logits");
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let (shape, ids) = golden.i64("in.input_ids");
        assert_eq!(shape.iter().product::<usize>(), ids.len());
        assert!(ids.iter().all(|&id| (0..99).contains(&id)));
    }

    #[test]
    fn the_most_particular_tolerance_decides() {
        let golden = Golden::load("optimizers");
        assert_eq!(golden.tolerance("muon.path"), (0.002, 0.01));
        assert_eq!(golden.tolerance("adamw.path"), (1e-6, 1e-5));
        assert_eq!(Golden::load("llama").tolerance("grad.lm_head.weight").1, 1e-3);
    }

    #[test]
    fn schedules_keep_their_double_precision() {
        let (_, rates) = Golden::load("schedules").f64("constant");
        assert!(rates.iter().all(|&r| r == 0.01));
    }

    #[test]
    fn an_absent_fixture_is_skipped() {
        assert!(fixture_or_skip("no-such-fixture").is_none());
        assert!(fixture_or_skip("llama").is_some());
    }
}
