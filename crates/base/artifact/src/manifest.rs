//! An artifact's manifest: what it is, what it holds, what it was made from, and proof that none of it has changed.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::atomic::{sync_dir, sync_file, write_atomic};
use crate::hash::{hash_file, list_files, sha256_hex};
use crate::machine::Machine;
use crate::stage::{Input, Report};
use crate::time::rfc3339;
use crate::{Context, Error, Result};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";

/// The last field; the text before and after it is fixed, so that every byte of the file is covered.
const SELF_HASH: &str = "\"manifest_hash\": \"";
const ENDING: &str = "\"\n}\n";
const HASH_DIGITS: usize = 64;

/// What `manifest.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The stage kind that made it.
    pub kind: String,
    /// The version of the kind's layout.
    pub format_version: u32,
    /// The stage's name in the recipe.
    pub name: String,
    /// Every file of the artifact but the manifest, sorted by path.
    pub files: Vec<FileRecord>,
    /// What it was made from.
    pub inputs: Vec<InputRecord>,
    /// All settings, defaults included.
    pub config: Value,
    /// Where the randomness started.
    pub seed: u64,
    /// `cpu`, `vulkan`, `cuda`, `rocm` or `metal`.
    pub device: String,
    /// What made it.
    pub program: Program,
    /// Where it was made.
    pub machine: Machine,
    /// When the stage began (RFC 3339, UTC).
    pub started: String,
    /// When it ended.
    pub finished: String,
    /// How long it took.
    pub seconds: f64,
    /// What the stage told at its end.
    pub report: Report,
    /// The hash over the kind and the files: equal for artifacts that are equal to their users.
    pub content_hash: String,
    /// See [`run_key`].
    pub run_key: String,
}

/// A file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// The path below the artifact, with `/` between the parts.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its hash.
    pub sha256: String,
}

/// Something an artifact was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord {
    /// The setting that names it.
    pub key: String,
    /// What the recipe says.
    pub reference: String,
    /// Where it is: relative to the artifact for one of the same run, else absolute.
    pub path: PathBuf,
    /// The stage kind for an artifact, nothing for a file or folder.
    pub kind: Option<String>,
    /// The content hash of an artifact, the hash of a file or folder.
    pub hash: String,
}

/// The program that made an artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What a manifest says beyond what the files themselves tell.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The stage kind.
    pub kind: String,
    /// The version of the kind's layout.
    pub format_version: u32,
    /// The stage's name in the recipe.
    pub name: String,
    /// What the artifact was made from.
    pub inputs: Vec<InputRecord>,
    /// All settings.
    pub config: Value,
    /// Where the randomness started.
    pub seed: u64,
    /// The device it was made on.
    pub device: String,
    /// When the stage began.
    pub started: SystemTime,
    /// How long it took, with earlier attempts that were cut off where the stage knows them.
    pub seconds: f64,
    /// What the stage told at its end.
    pub report: Report,
}

impl InputRecord {
    /// Records an input of the artifact that will live at `home`.
    pub fn new(input: &Input, hash: String, home: &Path) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let (path, home) = (absolute(&input.path), absolute(home));
        let path = match (path.parent(), home.parent(), path.file_name()) {
            (Some(a), Some(b), Some(name)) if a == b && input.kind.is_some() => Path::new("..").join(name),
            _ => path,
        };
        Self { key: input.key.clone(), reference: input.reference.clone(), path, kind: input.kind.clone(), hash }
    }

    /// Where the input is, given where the artifact is.
    pub fn locate(&self, artifact: &Path) -> PathBuf {
        match (self.path.strip_prefix(".."), artifact.parent()) {
            (Ok(rest), Some(parent)) if artifact.file_name().is_some() => parent.join(rest),
            _ => artifact.join(&self.path),
        }
    }
}

/// The hash of all that decides whether a stage must run again: its kind and layout, its settings, seed and device, and
/// the contents of its inputs.
pub fn run_key(
    kind: &str,
    format_version: u32,
    config: &Value,
    seed: u64,
    device: &str,
    inputs: &[InputRecord],
) -> String {
    let mut text = format!("{kind}\n{format_version}\n{}\n{seed}\n{device}\n", sorted(config));
    for input in inputs {
        text.push_str(&format!("{} {}\n", input.key, input.hash));
    }
    sha256_hex(text.as_bytes())
}

/// The same value with the keys of its objects in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            Value::Object(entries.into_iter().map(|(k, v)| (k.clone(), sorted(v))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// Whether a folder is an artifact (or claims to be one).
pub fn is_artifact(dir: &Path) -> bool {
    dir.join(MANIFEST).is_file()
}

impl Manifest {
    /// Completes the artifact in `dir`: hashes its files and writes the manifest, last and atomically.
    pub fn seal(dir: &Path, facts: Facts) -> Result<Self> {
        let mut files = Vec::new();
        for (path, file) in list_files(dir)?.into_iter().filter(|(path, _)| path != MANIFEST) {
            sync_file(&file)?;
            let (sha256, bytes) = hash_file(&file)?;
            files.push(FileRecord { path, bytes, sha256 });
        }
        let run_key =
            run_key(&facts.kind, facts.format_version, &facts.config, facts.seed, &facts.device, &facts.inputs);
        let manifest = Self {
            content_hash: content_hash(&facts.kind, &files),
            run_key,
            kind: facts.kind,
            format_version: facts.format_version,
            name: facts.name,
            files,
            inputs: facts.inputs,
            config: facts.config,
            seed: facts.seed,
            device: facts.device,
            program: Program { name: "cupola".into(), version: env!("CARGO_PKG_VERSION").into() },
            machine: Machine::this(),
            started: rfc3339(facts.started),
            finished: rfc3339(SystemTime::now()),
            seconds: facts.seconds,
            report: facts.report,
        };
        write_atomic(&dir.join(MANIFEST), &manifest.to_bytes()?)?;
        sync_dir(dir).context(|| format!("cannot bring {} to the disk", dir.display()))?;
        Ok(manifest)
    }

    /// Reads an artifact's manifest and checks it against its own hash. The files are not read: see [`crate::verify`].
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let bytes = std::fs::read(&path).map_err(|e| {
            let error = Error::failed(format!("cannot read {}", path.display())).with_source(e);
            if path.exists() { error } else { error.with_hint("an artifact is a folder that a stage has made") }
        })?;
        Self::from_bytes(&bytes).map_err(|reason| {
            Error::failed(format!("{} is damaged: {reason}", path.display()))
                .with_hint("run the stage again; `cupola verify` shows what else has changed")
        })
    }

    /// The manifest's text. Its last field is the hash of the text with zeros in that field.
    fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_string_pretty(self).context(|| "cannot write the manifest as JSON".into())?;
        text.truncate(text.trim_end_matches(['}', '\n']).len());
        text.push_str(&format!(",\n  {SELF_HASH}{}{ENDING}", "0".repeat(HASH_DIGITS)));
        let hash = sha256_hex(text.as_bytes());
        let end = text.len() - ENDING.len();
        text.replace_range(end - HASH_DIGITS..end, &hash);
        Ok(text.into_bytes())
    }

    /// Reads the text back; the error says what is wrong with it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let hash_end = bytes.len().checked_sub(ENDING.len()).filter(|end| bytes[*end..] == *ENDING.as_bytes());
        let hash_start = hash_end
            .and_then(|end| end.checked_sub(HASH_DIGITS))
            .filter(|start| bytes[..*start].ends_with(SELF_HASH.as_bytes()));
        let (Some(start), Some(end)) = (hash_start, hash_end) else {
            return Err("it does not end with its own hash".into());
        };
        let stated = String::from_utf8_lossy(&bytes[start..end]).into_owned();
        let mut zeroed = bytes.to_vec();
        zeroed[start..end].fill(b'0');
        let actual = sha256_hex(&zeroed);
        if stated != actual {
            return Err(format!("it states the hash {stated}, but its content has {actual}"));
        }
        serde_json::from_slice(bytes).map_err(|e| format!("it is not a manifest: {e}"))
    }

    /// The size of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether all files are there with the right lengths; a quick look that reads nothing.
    pub fn files_look_complete(&self, dir: &Path) -> bool {
        self.files.iter().all(|f| std::fs::metadata(dir.join(&f.path)).is_ok_and(|m| m.is_file() && m.len() == f.bytes))
    }
}

/// The hash over the kind and the sorted files' paths and hashes.
pub(crate) fn content_hash(kind: &str, files: &[FileRecord]) -> String {
    let lines: Vec<String> = files.iter().map(|file| format!("{}\0{}\n", file.path, file.sha256)).collect();
    sha256_hex(format!("{kind}\n{}", lines.concat()).as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    pub(crate) fn facts(config: Value) -> Facts {
        Facts {
            kind: "data".into(),
            format_version: 1,
            name: "corpus".into(),
            inputs: vec![],
            config,
            seed: u64::MAX,
            device: "cpu".into(),
            started: SystemTime::now(),
            seconds: 0.1,
            report: Report { scores: vec![("base".into(), Map::new())], ..Report::default() },
        }
    }

    #[test]
    fn sealed_manifest_reads_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/train.bin"), b"12345").unwrap();
        for config in [json!({}), json!({"nested": {"list": [{}]}})] {
            let manifest = Manifest::seal(dir.path(), facts(config)).unwrap();
            assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
            assert_eq!(manifest.files.len(), 1);
            assert!(manifest.files_look_complete(dir.path()));
        }
    }

    #[test]
    fn every_flipped_byte_of_a_manifest_is_found() {
        let dir = tempfile::tempdir().unwrap();
        Manifest::seal(dir.path(), facts(json!({"a": 1}))).unwrap();
        let bytes = std::fs::read(dir.path().join(MANIFEST)).unwrap();
        for at in 0..bytes.len() {
            for mask in [1, 0x20, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= mask;
                assert!(Manifest::from_bytes(&damaged).is_err(), "byte {at} with {mask}");
            }
        }
        assert!(Manifest::from_bytes(b"").is_err() && Manifest::from_bytes(&bytes[1..]).is_err());
    }

    #[test]
    fn run_key_depends_on_what_matters_and_on_nothing_else() {
        let input = |hash: &str| InputRecord {
            key: "data".into(),
            reference: "x".into(),
            path: "/x".into(),
            kind: None,
            hash: hash.into(),
        };
        let key = |config: Value, seed, device, hash| run_key("pretrain", 1, &config, seed, device, &[input(hash)]);
        let base = key(json!({"a": 1, "b": {"c": 2, "d": 3}}), 0, "cpu", "1");
        assert_eq!(base, key(json!({"b": {"d": 3, "c": 2}, "a": 1}), 0, "cpu", "1"));
        assert_ne!(base, key(json!({"b": {"d": 3, "c": 1}, "a": 1}), 0, "cpu", "1"));
        assert_ne!(base, key(json!({"a": 1, "b": {"c": 2, "d": 3}}), 1, "cpu", "1"));
        assert_ne!(base, key(json!({"a": 1, "b": {"c": 2, "d": 3}}), 0, "cuda", "1"));
        assert_ne!(base, key(json!({"a": 1, "b": {"c": 2, "d": 3}}), 0, "cpu", "2"));
    }

    #[test]
    fn inputs_of_the_same_run_are_recorded_by_relative_path() {
        let input = |kind: Option<&str>, path: &str| Input {
            key: "data".into(),
            reference: "corpus".into(),
            path: path.into(),
            kind: kind.map(Into::into),
        };
        let home = Path::new("/runs/q/tokenizer.bpe");
        let record = |input: Input| InputRecord::new(&input, String::new(), home);
        let near = record(input(Some("data"), "/runs/q/data.corpus"));
        assert_eq!(near.path, Path::new("../data.corpus"));
        assert_eq!(near.locate(Path::new("/moved/tokenizer.bpe")), Path::new("/moved/data.corpus"));
        assert_eq!(record(input(None, "/texts/a.txt")).locate(home), Path::new("/texts/a.txt"));
    }
}
