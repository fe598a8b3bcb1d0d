//! Configurations and headers that somebody has damaged: an error or a model, never a panic.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_nn::Rng;
use cupola_testkit::fixture;
use serde_json::{Value, json};

/// The fixtures that hold a model.
fn models() -> Vec<PathBuf> {
    let root = fixture("llama").parent().unwrap().to_path_buf();
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    folders.filter(|dir| dir.join("config.json").exists()).collect()
}

/// Something that a setting should not be.
fn odd(rng: &mut Rng) -> Value {
    let values = [
        json!(0),
        json!(1),
        json!(3),
        json!(-1),
        json!(7),
        json!(65_537),
        json!(2_147_483_648_u64),
        json!(u64::MAX),
        json!(0.5),
        json!(-2.5),
        json!(1e300),
        json!(1e-300),
        json!(null),
        json!(true),
        json!(false),
        json!(""),
        json!("gelu"),
        json!("yarn"),
        json!([]),
        json!([1, 2]),
        json!(["full_attention"]),
        json!({}),
        json!({"factor": 0}),
        json!({"rope_type": "longrope", "short_factor": [1], "long_factor": [1]}),
        json!({"rope_type": "dynamic", "factor": 1e9, "original_max_position_embeddings": 1e-9}),
    ];
    values[rng.below(values.len())].clone()
}

/// Changes one setting, at the top or inside a section.
fn damage(config: &mut Value, rng: &mut Rng) {
    let Value::Object(map) = config else { return };
    let keys: Vec<String> = map.keys().filter(|k| *k != "model_type").cloned().collect();
    if keys.is_empty() {
        return;
    }
    let key = &keys[rng.below(keys.len())];
    match rng.below(4) {
        0 if map[key].is_object() => damage(&mut map[key], rng),
        1 => {
            map.remove(key);
        }
        _ => {
            map.insert(key.clone(), odd(rng));
        }
    }
}

#[test]
fn damaged_configurations_give_errors_or_models_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(7, "hostile");
    let (mut read, mut refused) = (0, 0);
    for from in models() {
        let whole: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        let file = dir.path().join("model.safetensors");
        let _ = std::fs::remove_file(&file);
        if from.join("model.safetensors").exists() {
            std::fs::copy(from.join("model.safetensors"), &file).unwrap();
        }
        for round in 0..60 {
            let mut config = whole.clone();
            (0..=rng.below(3)).for_each(|_| damage(&mut config, &mut rng));
            std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            let what = format!("{}, round {round}: {config}", from.display());
            let result = std::panic::catch_unwind(|| {
                let spec = Model::read_spec(dir.path());
                // Counting the parts of a model of 65,536 blocks takes a while; those of a smaller one are counted.
                if let Ok(spec) = &spec
                    && spec.stack().blocks.len() < 100
                {
                    spec.parameters();
                }
                spec.and_then(|_| Model::load(dir.path(), &Device::flex()))
            });
            match result {
                Ok(Ok(_)) => read += 1,
                Ok(Err(error)) => {
                    assert!(!error.chain().is_empty());
                    refused += 1;
                }
                Err(_) => panic!("{what}"),
            }
        }
    }
    assert!(read > 50 && refused > 50, "{read} read, {refused} refused");
}

#[test]
fn damaged_headers_give_errors_or_models_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (from, mut rng) = (fixture("llama"), Rng::new(8, "hostile"));
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let whole = std::fs::read(from.join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut refused = 0;
    for round in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(header);
            bytes[at] = [b'0', b'9', b'{', b'"', b',', 0, 255, rng.next_u64() as u8][rng.below(8)];
        }
        if rng.below(5) == 0 {
            bytes.truncate(rng.below(bytes.len()));
        }
        std::fs::write(dir.path().join("model.safetensors"), &bytes).unwrap();
        let result = std::panic::catch_unwind(|| Model::load(dir.path(), &Device::flex()));
        refused += usize::from(result.unwrap_or_else(|_| panic!("round {round}")).is_err());
    }
    assert!(refused > 200, "{refused} refused");
}

#[test]
fn an_unknown_type_is_answered_with_the_nearest() {
    let config = json!({"model_type": "mistrall"});
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let error = Model::read_spec(dir.path()).unwrap_err();
    assert!(error.hint().unwrap().contains("did you mean `mistral`?"), "{:?}", error.hint());
}

#[test]
fn pickled_weights_are_refused_with_the_way_to_convert() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("llama").join("config.json"), dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("pytorch_model.bin"), [0; 8]).unwrap();
    let error = Model::load(dir.path(), &Device::flex()).unwrap_err();
    assert!(error.chain().contains("pytorch_model.bin holds pickled weights"), "{}", error.chain());
    assert!(error.hint().unwrap().contains("save_pretrained"), "{:?}", error.hint());
}

#[test]
fn a_family_describes_its_fresh_models() {
    for family in cupola_arch::ALL {
        let sizes = cupola_arch::Sizes {
            vocab_size: 100,
            d_model: 64,
            n_layers: 3,
            n_heads: 4,
            n_kv_heads: 4,
            d_head: 16,
            d_ff: 96,
            max_seq_len: 32,
            tie_embeddings: true,
            bos: Some(1),
            eos: vec![2],
            pad: None,
            experts: family.experts().unwrap_or_default(),
            settings: Default::default(),
        };
        let spec = Model::fresh_spec(*family, &sizes).unwrap();
        assert_eq!(spec.stack().d_model, 64, "{}", family.model_type());
    }
}
