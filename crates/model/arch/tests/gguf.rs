//! Models in GGUF files: equal to the reference, and to the folder they come from.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::tensor::Device;
use cupola_arch::{Model, Parts};
use cupola_gguf::format_by_name;
use cupola_gguf::models::ToGguf;
use cupola_nn::{Batch, Module};
use cupola_ops::to_vec;
use cupola_testkit::{Golden, assert_close, fixture};

fn write(parts: &Parts, format: &str, path: &Path) {
    let shapes: Vec<_> = parts.state.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
    let file = ToGguf::plan(&parts.config, &shapes, format_by_name(format).unwrap()).unwrap();
    file.write(path, |name| Ok(parts.state[name].clone())).unwrap();
}

#[test]
fn logits_of_a_file_of_mixed_formats_equal_the_golden_ones() {
    let golden = Golden::load("gguf-llama");
    let model = Model::load(&golden.dir().join("model.gguf"), &Device::flex()).unwrap();
    let (shape, ids) = golden.i64("in.input_ids");
    let (_, mask) = golden.i64("in.attention_mask");
    // Padding is a segment of its own, so that no token attends it.
    let segments: Vec<u32> = mask.iter().map(|m| u32::from(*m == 0)).collect();
    let batch = Batch::segmented(ids.iter().map(|id| *id as u32).collect(), shape[0], &segments);
    let decoder = model.decoder().unwrap();
    let logits = to_vec(&decoder.logits(decoder.hidden(&batch)));
    let width = logits.len() / mask.len();
    let masked: Vec<f32> =
        logits.iter().enumerate().map(|(i, v)| if mask[i / width] != 0 { *v } else { 0.0 }).collect();
    golden.check("out.logits", &masked);
}

#[test]
fn a_file_holds_the_model_that_its_folder_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let exact =
        ["llama", "llama-linear-rope", "llama-sharded-bf16", "gpt2", "qwen3", "phi3", "gpt-neox", "bloom", "falcon"];
    for name in exact {
        write(&Parts::read(&fixture(name), &Device::flex()).unwrap(), "F32", &path);
        let (file, folder) =
            (Model::load(&path, &Device::flex()).unwrap(), Model::load(&fixture(name), &Device::flex()).unwrap());
        assert_eq!(file.state(), folder.state(), "{name}");
        // Special tokens are the tokenizer's in such files; all other numbers are the model's.
        assert_eq!(Model::read_spec(&path).unwrap().parameters(), folder.spec().parameters(), "{name}");
        assert_eq!(file.spec().stack(), folder.spec().stack(), "{name}");
    }
}

/// Norms' weights count from 1 in these files, and adding one rounds.
#[test]
fn a_file_of_weights_that_count_from_one_holds_the_model_to_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for name in ["gemma2", "gemma3"] {
        write(&Parts::read(&fixture(name), &Device::flex()).unwrap(), "F32", &path);
        let load = |path: &Path| Model::load(path, &Device::flex()).unwrap();
        let (file, folder) = (load(&path), load(&fixture(name)));
        assert_eq!(file.spec().stack(), folder.spec().stack(), "{name}");
        let state = file.state();
        for (key, tensor) in folder.state() {
            assert_close(&key, &state[&key].to_f32().unwrap(), &tensor.to_f32().unwrap(), 2e-7, 0.0);
        }
    }
}

/// Windows are left out of these files; a context that ends with the window makes up for it.
#[test]
fn a_file_of_a_model_with_a_window_ends_its_context_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for name in ["mistral", "qwen2"] {
        write(&Parts::read(&fixture(name), &Device::flex()).unwrap(), "F32", &path);
        let (file, folder) =
            (Model::load(&path, &Device::flex()).unwrap(), Model::load(&fixture(name), &Device::flex()).unwrap());
        assert_eq!(file.state(), folder.state(), "{name}");
        assert_eq!(file.spec().stack().max_seq_len, 4, "{name}");
    }
}

#[test]
fn adapters_are_merged_and_int8_weights_widened() {
    let device = Device::flex();
    let mut merged = Model::load(&fixture("peft-lora"), &device).unwrap();
    merged.merge_adapter().unwrap();
    assert_eq!(Parts::read(&fixture("peft-lora"), &device).unwrap().state, merged.state());
    for name in ["llama", "gpt2"] {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::load(&fixture(name), &device).unwrap();
        model.quantize_int8(16);
        model.save(dir.path()).unwrap();
        let (small, full) = (Parts::read(dir.path(), &device).unwrap(), Parts::read(&fixture(name), &device).unwrap());
        assert!(!small.config.contains_key("quantization_config"));
        assert_eq!(small.state.keys().collect::<Vec<_>>(), full.state.keys().collect::<Vec<_>>(), "{name}");
        let mut changed = 0;
        for (key, tensor) in &small.state {
            let (got, want) = (tensor.to_f32().unwrap(), full.state[key].to_f32().unwrap());
            let largest = want.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            assert_close(&format!("{name}: {key}"), &got, &want, largest / 250.0, 0.0);
            changed += usize::from(got != want);
        }
        assert!(changed >= 8, "{name}: {changed}");
        write(&small, "Q8_0", &dir.path().join("model.gguf"));
        Model::load(&dir.path().join("model.gguf"), &device).unwrap();
    }
}

#[test]
fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let bytes = std::fs::read(fixture("gguf-llama").join("model.gguf")).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = Model::load(&path, &Device::flex()).unwrap_err();
    assert!(error.chain().contains("model.gguf") && error.chain().contains("would take"), "{}", error.chain());
    assert!(error.hint().is_some_and(|hint| hint.contains("cut off")), "{error:?}");
}
