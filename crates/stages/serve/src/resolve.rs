//! Finds what to serve: a model's directory, or an artifact of the `serve` stage, which points to one.

use std::path::{Component, Path, PathBuf};

use cupola_artifact::{Error, Result, is_artifact, read_text};
use serde::{Deserialize, Serialize};

use crate::config::ServeConfig;

/// The file that makes a directory an artifact of the `serve` stage.
pub const SERVE_FILE: &str = "serve.json";

/// What `serve.json` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeFile {
    /// Where the model is, relative to the artifact.
    pub model: PathBuf,
    /// How to serve it.
    pub settings: ServeConfig,
}

/// What `cupola serve PATH` serves: the model's directory, and the settings if `path` is an artifact of the `serve`
/// stage, else the defaults.
pub fn resolve_model(path: &Path) -> Result<(PathBuf, ServeConfig)> {
    let file = if path.is_file() { path.to_path_buf() } else { path.join(SERVE_FILE) };
    if !file.ends_with(SERVE_FILE) || !file.is_file() {
        return Ok((find_model(path)?, ServeConfig::default()));
    }
    let artifact = file.parent().unwrap_or(Path::new("."));
    let ServeFile { model, settings } = serde_json::from_str(&read_text(&file)?)
        .map_err(|e| Error::usage(format!("{} cannot be read", file.display())).with_source(e))?;
    let model = find_model(&join(artifact, &model))
        .map_err(|e| e.wrap(format!("{} points to a model that is not there", file.display())))?;
    Ok((model, settings))
}

/// The directory with the model's files: the path itself, or `model` in it. A GGUF file is a model by itself.
pub fn find_model(path: &Path) -> Result<PathBuf> {
    if cupola_arch::is_gguf(path) {
        return Ok(path.to_path_buf());
    }
    for dir in [path.to_path_buf(), path.join("model")] {
        if dir.join("config.json").is_file() {
            return Ok(dir);
        }
    }
    let message = if path.is_dir() {
        format!("{} is no model: it has no config.json", path.display())
    } else if path.exists() {
        format!("{} is a file, not a model's directory", path.display())
    } else {
        format!("there is no {}", path.display())
    };
    Err(Error::usage(message).with_hint(
        "give a model's directory (config.json, tokenizer.json, *.safetensors), a .gguf file or a `serve` artifact",
    ))
}

/// What the API calls a model by default: its directory's name, without the stage kind for an artifact.
pub fn model_name(dir: &Path) -> String {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let name = dir.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    match name.split_once('.') {
        Some((_, name)) if is_artifact(&dir) && !name.is_empty() => name.into(),
        _ => name,
    }
}

/// `base` and a relative path, `..` taken away where that does not depend on links.
fn join(base: &Path, relative: &Path) -> PathBuf {
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_path_buf());
    let mut path = base;
    for part in relative.components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn model_at(dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("config.json"), "{}").unwrap();
    }

    #[test]
    fn a_serve_artifact_leads_to_its_model_and_settings() {
        let root = tempfile::tempdir().unwrap();
        model_at(&root.path().join("compress.int8"));
        let artifact = root.path().join("serve.api");
        std::fs::create_dir(&artifact).unwrap();
        let settings = ServeConfig { port: 9000, ..ServeConfig::default() };
        let file = ServeFile { model: "../compress.int8".into(), settings };
        std::fs::write(artifact.join(SERVE_FILE), serde_json::to_vec(&file).unwrap()).unwrap();
        for path in [artifact.clone(), artifact.join(SERVE_FILE)] {
            let (model, settings) = resolve_model(&path).unwrap();
            assert_eq!(model.canonicalize().unwrap(), root.path().join("compress.int8").canonicalize().unwrap());
            assert_eq!(settings.port, 9000);
        }
        std::fs::remove_dir_all(root.path().join("compress.int8")).unwrap();
        assert!(resolve_model(&artifact).unwrap_err().chain().contains("there is no"));
    }

    #[test]
    fn a_directory_without_a_model_is_a_usage_error_with_a_hint() {
        let root = tempfile::tempdir().unwrap();
        for path in [root.path().to_path_buf(), root.path().join("nowhere")] {
            let error = resolve_model(&path).unwrap_err();
            assert_eq!(error.class(), cupola_artifact::Class::Usage);
            assert!(error.hint().is_some());
        }
        model_at(&root.path().join("tiny"));
        assert_eq!(resolve_model(&root.path().join("tiny")).unwrap().0, root.path().join("tiny"));
        assert_eq!(model_name(&root.path().join("tiny")), "tiny");
    }
}
