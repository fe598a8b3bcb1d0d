//! The same model on the CPU and on a Vulkan device gives the same numbers: forward, backward, training, generation.
//!
//! Mesa's software device will do; `.ci/run` installs it.
#![cfg(feature = "vulkan")]
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::sync::Arc;

use cupola_arch::Model;
use cupola_nn::{Batch, Module, ParamMut, Step};
use cupola_testkit::{TempDir, assert_close, tiny_llama_dir};
use cupola_train::optim::{Gradients, Optimizer, OptimizerConfig, gradient_norm};

const SEQ: usize = 24;
const ROWS: usize = 2;
const ATOL: f32 = 1e-3;
const RTOL: f32 = 1e-3;

/// The tiny model on a device.
fn tiny(dir: &TempDir, device: &str) -> Model {
    Model::load(dir.path(), &cupola_ops::open(device).unwrap()).unwrap()
}

/// The tiny model on the CPU and on the GPU.
fn both() -> [Model; 2] {
    let dir = TempDir::new("vulkan");
    tiny_llama_dir(dir.path(), 11);
    let models = ["cpu", "vulkan"].map(|device| tiny(&dir, device));
    announce(&models[1]);
    models
}

#[expect(clippy::print_stdout, reason = "which adapter was tested belongs in the log")]
fn announce(model: &Model) {
    let device = model.network.device();
    assert!(!cupola_ops::is_host(&device), "the device named vulkan computes on the CPU's tensors");
    println!("device: {device:?}");
}

/// Two rows of two segments each, the targets, and the weights of a mean.
fn batch() -> (Batch, Arc<[i32]>, Arc<[f32]>) {
    let ids: Vec<u32> = (0..ROWS * SEQ).map(|i| (i * i * 7 + i * 3 + 5) as u32 % 256).collect();
    let segments: Vec<u32> = (0..ROWS * SEQ).map(|i| u32::from(i % SEQ >= 10)).collect();
    let last_of_segment = |i: usize| i % SEQ == 9 || i % SEQ == SEQ - 1;
    let target = |i: usize| if last_of_segment(i) { cupola_ops::IGNORE } else { ids[i + 1] as i32 };
    let targets: Vec<i32> = (0..ROWS * SEQ).map(target).collect();
    let counted = targets.iter().filter(|t| **t != cupola_ops::IGNORE).count();
    let weights = vec![1.0 / counted as f32; targets.len()];
    (Batch::segmented(ids, ROWS, &segments), targets.into(), weights.into())
}

/// The loss, and every parameter's gradient in the order of the parameters.
fn loss_and_gradients(model: &mut Model) -> (f32, Gradients) {
    let (batch, targets, weights) = batch();
    let loss = model.decoder().unwrap().loss(&batch, &targets, &weights);
    let value = cupola_ops::scalar(&loss);
    let mut tape = loss.backward();
    let gradients = model.params_mut().iter().map(|p| p.take_gradient(&mut tape)).collect();
    (value, gradients)
}

#[test]
fn logits_are_those_of_the_cpu() {
    let (batch, ..) = batch();
    let [cpu, gpu] =
        both().map(|m| cupola_ops::to_vec(&m.decoder().unwrap().logits(m.decoder().unwrap().hidden(&batch))));
    assert_close("logits", &gpu, &cpu, ATOL, RTOL);
}

#[test]
fn loss_and_gradients_are_those_of_the_cpu() {
    let [mut cpu, mut gpu] = both();
    for model in [&mut cpu, &mut gpu] {
        model.set_trainable(|_| true);
    }
    let names: Vec<String> = cpu.params_mut().iter().map(|p| p.name().to_owned()).collect();
    let ((want_loss, want), (got_loss, got)) = (loss_and_gradients(&mut cpu), loss_and_gradients(&mut gpu));
    assert_close("loss", &[got_loss], &[want_loss], 1e-4, 1e-4);
    assert!((5.0..8.0).contains(&want_loss), "a random model's loss is near ln 320, not {want_loss}");
    for ((name, want), got) in names.iter().zip(&want).zip(&got) {
        let (want, got) = (want.as_ref().unwrap(), got.as_ref().unwrap());
        assert!(want.iter().any(|g| *g != 0.0), "{name} has no gradient");
        assert_close(name, got, want, ATOL, RTOL);
    }
    let (want, got) = (gradient_norm(&want), gradient_norm(&got));
    assert!((want - got).abs() < 1e-3 * want, "the gradients' norm is {got}, on the CPU {want}");
}

#[test]
fn a_few_optimizer_steps_end_where_the_cpu_ends() {
    const STEPS: u64 = 4;
    let train = |mut model: Model| {
        model.set_trainable(|_| true);
        let mut optimizer = Optimizer::new(&OptimizerConfig::default()).unwrap();
        let mut losses = Vec::new();
        for step in 1..=STEPS {
            let (loss, gradients) = loss_and_gradients(&mut model);
            losses.push(loss);
            let scale = 1.0 / gradient_norm(&gradients).max(1.0) as f32;
            optimizer.step(model.params_mut(), &gradients, 1e-3, step, scale);
        }
        losses.push(loss_and_gradients(&mut model).0);
        let weights: Vec<(String, Vec<f32>)> =
            model.params_mut().iter().map(|p: &ParamMut<'_>| (p.name().to_owned(), host(p))).collect();
        (losses, weights)
    };
    let [(want_losses, want), (got_losses, got)] = both().map(train);
    assert_close("losses", &got_losses, &want_losses, ATOL, RTOL);
    assert!(got_losses[STEPS as usize] < got_losses[0], "training did not lower the loss: {got_losses:?}");
    // Where a gradient is nearly zero, AdamW turns its rounding into a step of the full learning rate.
    for ((name, want), (_, got)) in want.iter().zip(&got) {
        assert_close(name, got, want, 2e-3, RTOL);
    }
}

fn host(param: &ParamMut<'_>) -> Vec<f32> {
    param.to_host().to_f32().unwrap()
}

/// Greedy tokens after a prompt, each with the logits it was chosen by: the prompt in one step, then one by one.
fn generate(model: &Model, prompt: &[u32], count: usize) -> Vec<(u32, Vec<f32>)> {
    let mut cache = model.decoder().unwrap().cache();
    let mut next: Arc<[u32]> = prompt.into();
    let mut out = Vec::new();
    for _ in 0..count {
        let rows = next.len();
        let hidden = model.decoder().unwrap().step(&next, &mut [Step { cache: &mut cache, rows }]);
        let logits = cupola_ops::to_vec(&model.decoder().unwrap().logits(hidden));
        let last = logits[logits.len() - model.decoder().unwrap().spec().vocab_size..].to_vec();
        let largest = |best: usize, i: usize| if last[i] > last[best] { i } else { best };
        let token = (0..last.len()).reduce(largest).unwrap() as u32;
        out.push((token, last));
        next = [token].into();
    }
    assert_eq!(cache.len(), prompt.len() + count - 1);
    out
}

#[test]
fn greedy_tokens_are_those_of_the_cpu() {
    let prompt: Vec<u32> = "First light".bytes().map(u32::from).collect();
    let [want, got] = both().map(|model| generate(&model, &prompt, 8));
    for (step, ((want_token, want), (got_token, got))) in want.iter().zip(&got).enumerate() {
        assert_close(&format!("the logits of step {step}"), got, want, ATOL, RTOL);
        assert_eq!(got_token, want_token, "step {step}");
    }
}
