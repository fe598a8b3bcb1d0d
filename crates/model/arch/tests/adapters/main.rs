//! Adapters against PEFT: logits with the adapter, merged and without, loss, gradients, and files that are written as they were
//! read; of the reference fixtures in this repository and in the folder that `CUPOLA_FIXTURES` names.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::{Adapter, Model};
use cupola_artifact::{HostTensor, StateDict, read_safetensors, write_safetensors};
use cupola_nn::{Batch, Module, Weight};
use cupola_ops::{IGNORE, to_vec};
use cupola_testkit::{Golden, assert_close, fixture};

mod combined;
mod fresh;
mod refused;

/// A test for each fixture, and their names.
macro_rules! fixtures {
    ($($test:ident: $name:literal,)*) => {
        const FIXTURES: &[&str] = &[$($name),*];

        $(#[test]
        fn $test() {
            folders($name).iter().for_each(|dir| check(dir));
        })*
    };
}

fixtures! {
    parity_adalora: "peft-adalora",
    parity_bottleneck: "peft-bottleneck",
    parity_dora: "peft-dora",
    parity_ia3: "peft-ia3",
    parity_llama_adapter: "peft-llama-adapter",
    parity_ln_tuning: "peft-ln-tuning",
    parity_loha: "peft-loha",
    parity_lokr: "peft-lokr",
    parity_lora: "peft-lora",
    parity_lora_bias_head: "peft-lora-bias-head",
    parity_lora_gpt2: "peft-lora-gpt2",
    parity_oft: "peft-oft",
    parity_p_tuning: "peft-p-tuning",
    parity_prefix_tuning: "peft-prefix-tuning",
    parity_prompt_tuning: "peft-prompt-tuning",
    parity_qlora: "peft-qlora",
    parity_rslora: "peft-rslora",
}

/// Where a fixture lies: here, and in the further folder.
fn folders(name: &str) -> Vec<PathBuf> {
    let further = std::env::var_os("CUPOLA_FIXTURES").map(|root| Path::new(&root).join(name));
    [Some(fixture(name)), further.filter(|dir| dir.exists())].into_iter().flatten().collect()
}

#[test]
fn parity_has_a_test_for_every_fixture_with_an_adapter() {
    let own = fixture("llama").parent().unwrap().to_path_buf();
    for root in [Some(own), std::env::var_os("CUPOLA_FIXTURES").map(PathBuf::from)].into_iter().flatten() {
        for entry in std::fs::read_dir(&root).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_adapter = name.starts_with("peft-") && root.join(&name).join("golden.json").exists();
            assert!(!is_adapter || FIXTURES.contains(&name.as_str()), "no test reads {name} of {}", root.display());
        }
    }
}

fn load(dir: &Path) -> Model {
    Model::load(dir, &Device::flex()).unwrap_or_else(|e| panic!("{}: {}", dir.display(), e.chain()))
}

/// The golden batch, with padding as a segment of its own, counted as positions where the reference does; and which of its tokens
/// are no padding.
fn batch(golden: &Golden) -> (Batch, Vec<bool>) {
    let (shape, ids) = golden.i64("in.input_ids");
    let real: Vec<bool> = golden.i64("in.attention_mask").1.iter().map(|m| *m != 0).collect();
    let segments: Vec<u32> = real.iter().map(|real| u32::from(!real)).collect();
    let mut batch = Batch::segmented(ids.iter().map(|id| *id as u32).collect(), shape[0], &segments);
    batch.positions = (0..batch.ids.len()).map(|i| (i % batch.seq()) as u32).collect();
    batch.real = Some(real.as_slice().into());
    (batch, real)
}

/// Zero where padded, as the golden outputs are.
fn masked(values: Vec<f32>, real: &[bool]) -> Vec<f32> {
    let width = values.len() / real.len();
    values.iter().enumerate().map(|(i, v)| if real[i / width] { *v } else { 0.0 }).collect()
}

/// A model's logits against the golden ones, whose first positions belong to virtual tokens where there are more than ours.
fn compare_logits(golden: &Golden, model: &Model, key: &str) {
    let (batch, real) = batch(golden);
    let decoder = model.decoder().unwrap();
    let got = masked(to_vec(&decoder.logits(decoder.hidden(&batch))), &real);
    let (shape, want) = golden.f32(key);
    let (row, own) = (shape[1] * shape[2], batch.seq() * shape[2]);
    let want: Vec<f32> = want.chunks(row).flat_map(|row_| row_[row - own..].iter().copied()).collect();
    let (atol, rtol) = golden.tolerance(key);
    assert_close(key, &got, &want, atol, rtol);
}

/// Labels shifted by one, as the causal loss wants them.
fn targets(golden: &Golden, seq: usize) -> Arc<[i32]> {
    let (_, labels) = golden.i64("in.labels");
    labels.chunks(seq).flat_map(|row| row[1..].iter().map(|l| *l as i32).chain([IGNORE])).collect()
}

/// The loss, and the gradients of what the adapter trains, by the names of its file.
fn compare_loss(golden: &Golden, model: &Model, prefix: &str) {
    let (mut model, (batch, _)) = (model.clone(), batch(golden));
    let names = model.adapter_names();
    model.set_trainable(|param| names.iter().any(|name| name == param.name()));
    let targets = targets(golden, batch.seq());
    let counted = targets.iter().filter(|t| **t != IGNORE).count() as f32;
    let weights: Arc<[f32]> = vec![1.0 / counted; targets.len()].into();
    let loss = model.decoder().unwrap().loss(&batch, &targets, &weights);
    let penalty = adalora_penalty(&mut model);
    let all = loss + penalty;
    golden.check("out.loss", &to_vec(&all));
    let mut tape = all.backward();
    let mut gradients = StateDict::new();
    for param in model.params_mut() {
        if let Some(gradient) = param.take_gradient(&mut tape) {
            gradients.insert(param.name().to_string(), HostTensor::from_f32(param.shape(), &gradient));
        }
    }
    let (atol, rtol) = golden.tolerance("grad.*");
    let mut compared = 0;
    for key in golden.names().into_iter().filter(|name| name.starts_with("grad.")) {
        let name = key.trim_start_matches("grad.").trim_start_matches(prefix).replace("ln_tuning_layers.", "");
        let (_, want) = golden.f32(key);
        // The reference lists base weights that are saved along and not trained, with zeros.
        if want.iter().all(|g| *g == 0.0) && name.contains("base_layer") {
            continue;
        }
        let got = gradients.get(&name).unwrap_or_else(|| panic!("nothing is trained that is called {name}"));
        assert_close(key, &got.to_f32().unwrap(), &want, atol, rtol);
        compared += 1;
    }
    assert!(compared > 0, "no gradients");
}

/// What the reference adds to AdaLoRA's loss; nothing elsewhere.
fn adalora_penalty(model: &mut Model) -> burn::tensor::Tensor<1> {
    let zero = burn::tensor::Tensor::from_inner(burn::tensor::Tensor::zeros([1], &Device::flex()));
    let ranked = model.network.ranked();
    let count = (2 * ranked.len()).max(1) as f32;
    ranked.iter().flat_map(|a| a.penalty()).fold(zero, |sum, p| sum + p.mul_scalar(0.5 / count))
}

/// Everything that can be compared of a fixture.
fn check(dir: &Path) {
    let golden = Golden::load_dir(dir);
    let base = load(&dir.join(golden.info["base"].as_str().unwrap()));
    match dir.file_name().unwrap().to_str().unwrap() {
        "peft-qlora" => return four_bits(&golden, base, dir),
        "peft-bottleneck" => return bottleneck(&golden, &base, dir),
        _ => {}
    }
    compare_logits(&golden, &base, "base.logits");
    let adapter = Adapter::read(dir).unwrap();
    let model = base.with_adapter(&adapter).unwrap();
    compare_logits(&golden, &model, "out.logits");
    compare_loss(&golden, &model, "base_model.model.");
    written_equals_read(&model, &adapter.base, dir);
    assert_eq!(load(dir).state(), model.state(), "loaded by itself");
    // What the adapter was put on is as it was.
    compare_logits(&golden, &base, "base.logits");
    if golden.names().contains(&"merged.logits") {
        merged(&golden, model);
    } else {
        assert!(model.clone().merge_adapter().unwrap_err().hint().unwrap().contains("own directory"));
    }
}

/// The merged model's logits, and one of its weights as its file has it.
fn merged(golden: &Golden, mut model: Model) {
    model.merge_adapter().unwrap();
    assert!(model.adapted().is_none());
    compare_logits(golden, &model, "merged.logits");
    let state = model.packed(model.state());
    for key in golden.names().into_iter().filter(|name| name.starts_with("merged.weight.")) {
        let (_, want) = golden.f32(key);
        let (atol, rtol) = golden.tolerance("merged.weight.*");
        assert_close(key, &state[key.trim_start_matches("merged.weight.")].to_f32().unwrap(), &want, atol, rtol);
    }
}

/// A saved adapter has the tensors of the folder that it came from, byte for byte, and says the same.
fn written_equals_read(model: &Model, base: &str, from: &Path) {
    let dir = tempfile::tempdir().unwrap();
    cupola_arch::save_adapter(model, base, dir.path()).unwrap();
    let read = |dir: &Path| read_safetensors(&dir.join("adapter_model.safetensors")).unwrap();
    let (got, want) = (read(dir.path()), read(from));
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    got.iter().for_each(|(name, tensor)| assert!(*tensor == want[name], "{name} differs after load and save"));
    let config = |dir: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
    };
    let (got, want) = (config(dir.path()), config(from));
    for (key, value) in want.as_object().unwrap() {
        // Where the adapter was not in the repository's own layer pattern, nothing differs but how nothing is said.
        let empty = |v: &serde_json::Value| v.is_null() || v == &serde_json::json!([]) || v == &serde_json::json!({});
        assert!(got[key] == *value || (empty(&got[key]) && empty(value)), "{key}: {} instead of {value}", got[key]);
    }
}

/// Houlsby's adapters, whose golden file holds the weights themselves.
fn bottleneck(golden: &Golden, base: &Model, fixture: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let mut state = StateDict::new();
    for key in golden.names().into_iter().filter(|name| name.starts_with("adapter.")) {
        let name =
            key.trim_start_matches("adapter.").replace(".down.", ".adapter_down.").replace(".up.", ".adapter_up.");
        state.insert(format!("base_model.model.model.{name}"), golden.tensors[key].clone());
    }
    write_safetensors(&dir.path().join("adapter_model.safetensors"), &state, &[]).unwrap();
    let width = golden.tensors["adapter.layers.0.mlp.down.bias"].shape[0];
    let base_dir = fixture.join(golden.info["base"].as_str().unwrap()).canonicalize().unwrap();
    let config = serde_json::json!({
        "peft_type": "BOTTLENECK", "bottleneck_size": width, "non_linearity": "relu", "use_adapterp": false,
        "base_model_name_or_path": base_dir,
    });
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    let adapter = Adapter::read(dir.path()).unwrap();
    let model = base.with_adapter(&adapter).unwrap();
    compare_logits(golden, &model, "out.logits");
    let (mut renamed, at) = (Golden::load_dir(fixture), |name: &str| {
        let name = name.trim_start_matches("grad.").replace(".down.", ".adapter_down.").replace(".up.", ".adapter_up.");
        format!("grad.base_model.model.model.{name}")
    });
    let gradients: Vec<String> =
        renamed.names().iter().filter(|n| n.starts_with("grad.")).map(ToString::to_string).collect();
    for key in gradients {
        let tensor = renamed.tensors.remove(&key).unwrap();
        renamed.tensors.insert(at(&key), tensor);
    }
    compare_loss(&renamed, &model, "base_model.model.");
    written_equals_read(&model, &adapter.base, dir.path());
    assert!(model.clone().merge_adapter().is_err());
}

/// LoRA beside weights in four bits, whose codes and scales are the reference's.
fn four_bits(golden: &Golden, mut base: Model, dir: &Path) {
    base.quantize_nf4();
    let state = base.state();
    for key in golden.names().into_iter().filter(|name| name.ends_with(".packed")) {
        let weight = key.trim_start_matches("nf4.").trim_end_matches(".packed");
        let part = |part: &str| golden.tensors[&format!("nf4.{weight}.{part}")].clone();
        assert_eq!(state[weight].bytes, part("packed").bytes, "{weight}");
        assert_eq!(state[&format!("{weight}.absmax")].bytes, part("absmax_codes").bytes, "{weight}");
        let nested = state[&format!("{weight}.nested_absmax")].to_f32().unwrap();
        assert_close(weight, &nested, &part("absmax_absmax").to_f32().unwrap(), 1e-7, 1e-6);
    }
    let adapter = Adapter::read(&dir.join(golden.info["adapter"].as_str().unwrap())).unwrap();
    let reference = as_the_reference_reads(&base, dir);
    compare_logits(golden, &reference, "quantized_base.logits");
    compare_logits(golden, &reference.with_adapter(&adapter).unwrap(), "out.logits");
    let mut model = base.with_adapter(&adapter).unwrap();
    let refused = model.merge_adapter().unwrap_err();
    assert!(refused.to_string().contains("is quantized"), "{refused}");
    // Written and read again they are the same, and as floats they can be merged.
    let saved = tempfile::tempdir().unwrap();
    base.save(saved.path()).unwrap();
    let again = load(saved.path());
    assert!(again.is_nf4() && again.state() == base.state());
    let logits = |model: &Model| {
        let decoder = model.decoder().unwrap();
        to_vec(&decoder.logits(decoder.hidden(&batch(golden).0)))
    };
    let want = logits(&model);
    assert_eq!(logits(&again.with_adapter(&adapter).unwrap()), want);
    model.dequantize();
    assert_close("as floats", &logits(&model), &want, 1e-4, 1e-4);
    model.merge_adapter().unwrap();
    assert_close("merged", &logits(&model), &want, 1e-4, 1e-4);
}

/// The numbers of a weight in four bits with the scale that the reference takes for each. Where rows are no multiple of a
/// block of 64, its kernel for AVX-512 counts blocks row by row, as if each row began one, while its files, its other kernels and
/// we count them through the whole weight.
fn reference_numbers(weight: &cupola_ops::Nf4Weight, by_rows: bool) -> Vec<f32> {
    let ([rows, cols], codes) = (weight.shape(), cupola_kernels::nf4_scale_codes());
    let parts = &weight.parts;
    let scale = |block: usize| codes[usize::from(parts.scales[block])] * parts.nested[block / 256] + parts.offset;
    let number = |i: usize, j: usize| {
        let at = i * cols + j;
        let code = if at.is_multiple_of(2) { parts.packed[at / 2] >> 4 } else { parts.packed[at / 2] & 15 };
        let block = if by_rows && cols.is_multiple_of(16) { i * (cols / 64) + j / 64 } else { at / 64 };
        cupola_kernels::NF4[usize::from(code)] * scale(block)
    };
    (0..rows * cols).map(|at| number(at / cols, at % cols)).collect()
}

/// Whether the fixtures of a folder were made with that kernel.
fn counts_by_rows(root: &Path) -> bool {
    let golden = Golden::load_dir(&root.join("bitsandbytes"));
    let (shape, weight) = golden.f32("weight");
    let nf4 = cupola_ops::Nf4Weight::quantize(&weight, [shape[0], shape[1]]);
    let want = golden.f32("nf4.double.dequantized").1;
    reference_numbers(&nf4, true).iter().zip(&want).all(|(got, want)| (got - want).abs() <= 1e-6 + 1e-6 * want.abs())
}

/// A quantized model whose weights are floats again, as the reference reads them.
fn as_the_reference_reads(quantized: &Model, dir: &Path) -> Model {
    let by_rows = counts_by_rows(dir.parent().unwrap());
    let mut model = quantized.clone();
    let numbers: Vec<(String, Vec<f32>)> = model
        .network
        .linears_mut()
        .into_iter()
        .filter_map(|linear| match &linear.weight {
            Weight::Nf4 { name, weight, .. } => Some((name.clone(), reference_numbers(weight, by_rows))),
            _ => None,
        })
        .collect();
    assert!(!numbers.is_empty());
    model.dequantize();
    for mut param in model.params_mut() {
        if let Some((_, numbers)) = numbers.iter().find(|(name, _)| name == param.name()) {
            param.update(|values| values.copy_from_slice(numbers));
        }
    }
    model
}

#[test]
fn parity_four_bit_codes_and_scales_are_those_of_bitsandbytes() {
    for dir in folders("bitsandbytes") {
        let golden = Golden::load_dir(&dir);
        let (shape, weight) = golden.f32("weight");
        let nf4 = cupola_ops::Nf4Weight::quantize(&weight, [shape[0], shape[1]]);
        let bytes = |name: &str| golden.tensors[name].bytes.clone();
        assert_eq!(nf4.parts.packed, bytes("nf4.double.packed"), "{}", dir.display());
        assert_eq!(nf4.parts.scales, bytes("nf4.double.absmax_codes"), "{}", dir.display());
        assert_close("scales' scales", &nf4.parts.nested, &golden.f32("nf4.double.absmax_absmax").1, 1e-7, 1e-6);
        assert_close("offset", &[nf4.parts.offset], &golden.f32("nf4.double.absmax_offset").1, 1e-7, 1e-6);
        let by_rows = counts_by_rows(dir.parent().unwrap());
        let tolerance = &golden.info["tolerances"]["*.dequantized"];
        let [atol, rtol] = ["atol", "rtol"].map(|key| tolerance[key].as_f64().unwrap() as f32);
        let want = golden.f32("nf4.double.dequantized").1;
        assert_close("dequantized", &reference_numbers(&nf4, by_rows), &want, atol, rtol);
        assert_eq!(nf4.dequantize(), reference_numbers(&nf4, false), "counted through the whole weight");
        assert_eq!(
            cupola_kernels::nf4_scale_codes()[..],
            golden.f32("nf4.double.absmax_code").1[..],
            "codes of scales"
        );
        assert_eq!(cupola_kernels::NF4[..], golden.f32("nf4.code").1[..], "codes");
    }
}
