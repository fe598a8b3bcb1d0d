//! Broken weights give an error that names the file; sound ones load.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use cupola_artifact::{
    DType, HostTensor, StateDict, inspect, read_header, read_safetensors, read_weights, write_safetensors,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed")
}

fn some_tensors() -> StateDict {
    StateDict::from([
        ("b".to_string(), HostTensor::from_f32([2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])),
        ("a".to_string(), HostTensor::from_i8([3], &[-1, 0, 1])),
        ("c".to_string(), HostTensor::from_i64(vec![], &[7])),
        ("empty".to_string(), HostTensor::from_f32([0, 4], &[])),
    ])
}

#[test]
fn every_broken_file_is_an_error_that_names_it() {
    let mut broken = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if name == "valid.safetensors" {
            continue;
        }
        broken += 1;
        let error = read_safetensors(&path).unwrap_err();
        assert!(error.to_string().contains(&name), "{}", error.chain());
        assert!(error.hint().is_some() && std::error::Error::source(&error).is_some(), "{error:?}");
        assert!(read_header(&path).is_err() && inspect(&path).is_err());
    }
    assert_eq!(broken, 17);
}

#[test]
fn the_cause_says_what_is_wrong() {
    let cause = |name: &str| read_safetensors(&folder().join(name)).unwrap_err().chain();
    for (name, reason) in [
        ("duplicate_name.safetensors", "`a` stands twice"),
        ("header_length_2gb.safetensors", "the header would have 2147483648 bytes"),
        ("truncated_data.safetensors", "the tensors take"),
        ("header_invalid_utf8.safetensors", "not UTF-8"),
        ("too_short.safetensors", "it has 3 bytes"),
        ("unknown_dtype.safetensors", "F31"),
    ] {
        assert!(cause(name).contains(reason), "{name}: {}", cause(name));
    }
}

#[test]
fn sound_file_loads() {
    let tensors = read_safetensors(&folder().join("valid.safetensors")).unwrap();
    assert_eq!(tensors.len(), 2);
    assert_eq!(tensors["a"].shape, [3, 4]);
    assert_eq!(tensors["a"].to_f32().unwrap(), (0..12).map(|v| v as f32).collect::<Vec<_>>());
    assert_eq!(tensors["b"].to_i64().unwrap(), [1; 4]);
}

#[test]
fn written_file_reads_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (path, again) = (dir.path().join("model.safetensors"), dir.path().join("again.safetensors"));
    write_safetensors(&path, &some_tensors(), &[("made_by", "a test"), ("x", "y")]).unwrap();
    write_safetensors(&again, &some_tensors(), &[("x", "y"), ("made_by", "a test")]).unwrap();
    assert_eq!(read_safetensors(&path).unwrap(), some_tensors());
    assert_eq!(read_weights(dir.path()).unwrap(), some_tensors());
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes, std::fs::read(&again).unwrap());
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(r#""format":"pt""#) && text.contains(r#""made_by":"a test""#), "{text}");
    assert!(inspect(&path).unwrap().contains("4 tensors, 10 parameters"), "{}", inspect(&path).unwrap());
}

#[test]
fn every_truncation_and_many_flips_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    write_safetensors(&path, &some_tensors(), &[]).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(read_safetensors(&path).is_err(), "cut to {length} bytes");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&path, &damaged).unwrap();
        // Some flips leave a sound file; none may panic.
        let _ = read_safetensors(&path);
    }
}

#[test]
fn shards_are_joined_and_a_missing_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let all = some_tensors();
    let mut map = serde_json::Map::new();
    for (number, name) in all.keys().enumerate() {
        let shard = format!("model-{number}.safetensors");
        let part = StateDict::from([(name.clone(), all[name].clone())]);
        write_safetensors(&dir.path().join(&shard), &part, &[]).unwrap();
        map.insert(name.clone(), shard.into());
    }
    let index = |map: &serde_json::Map<_, _>| {
        let text = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
        std::fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
    };
    index(&map);
    assert_eq!(read_weights(dir.path()).unwrap(), all);
    std::fs::rename(dir.path().join("model-1.safetensors"), dir.path().join("gone")).unwrap();
    assert!(read_weights(dir.path()).unwrap_err().to_string().contains("model-1.safetensors"));
    std::fs::rename(dir.path().join("gone"), dir.path().join("model-1.safetensors")).unwrap();
    map.insert("d".into(), "model-1.safetensors".into());
    index(&map);
    assert!(read_weights(dir.path()).unwrap_err().to_string().contains("`d`"));
    map.insert("d".into(), "../model-1.safetensors".into());
    index(&map);
    assert!(read_weights(dir.path()).is_err());
    assert!(read_weights(&folder()).unwrap_err().to_string().contains("neither"));
}

#[test]
fn unsupported_element_type_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let header = br#"{"w":{"dtype":"U16","shape":[1],"data_offsets":[0,2]}}"#;
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header, &[0, 0]].concat()).unwrap();
    let error = read_safetensors(&path).unwrap_err();
    assert!(error.to_string().contains("`w` has the element type U16"), "{error}");
    assert_eq!(read_header(&path).unwrap()[0].dtype, "U16");
    assert_eq!(DType::BF16.name(), "BF16");
}
