//! Artifacts: manifests, hashing, atomic writes, checkpoints, safetensors, lineage; and the contract of a stage.

mod atomic;
mod checkpoint;
mod config;
mod error;
mod hash;
mod inspect;
mod machine;
mod manifest;
mod run_dir;
pub mod stage;
mod tensors;
mod time;
mod verify;
mod weights;

pub use atomic::{create_dir, recover_dir, replace_dir, write_atomic, write_atomic_with};
pub use checkpoint::Checkpoints;
pub use config::{nearest, parse_config, parse_toml, parse_toml_text, read_text, syntax_error, unknown_name};
pub use error::{Class, Context, Error, Result};
pub use hash::{HashCache, hash_file, hash_path, list_files, sha256_hex};
pub use inspect::{inspect, inspect_manifest};
pub use machine::Machine;
pub use manifest::{Facts, FileRecord, InputRecord, MANIFEST, Manifest, Program, is_artifact, run_key};
pub use run_dir::{Bench, RunDir};
pub use tensors::{DType, HostTensor, StateDict};
pub use time::{human_bytes, human_count, human_seconds, rfc3339};
pub use verify::{Problem, Verification, verify};
pub use weights::{
    TensorInfo, read_header, read_safetensors, read_weights, weight_files, write_safetensors, write_safetensors_with,
};
