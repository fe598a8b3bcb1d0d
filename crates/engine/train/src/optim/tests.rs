#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_artifact::{DType, HostTensor, StateDict, read_safetensors, write_safetensors};
use cupola_nn::{Module, Param, ParamMut};
use cupola_testkit::{Golden, TempDir, assert_close, tiny_llama_dir};

use super::*;

fn config(name: &str) -> OptimizerConfig {
    OptimizerConfig { name: name.into(), ..Default::default() }
}

/// Twenty steps on the fixture's weight end each where torch's do.
fn follows_torch(fixture: &str, config: &OptimizerConfig, lr: f32) {
    let golden = Golden::load("optimizers");
    let (shape, start) = golden.f32("in.start");
    let path_name = format!("{fixture}.path");
    let (path_shape, path) = golden.f32(&path_name);
    let (_, grads) = golden.f32("in.grads");
    let n = start.len();
    assert_eq!(path_shape[0], 20);
    let (atol, rtol) = golden.tolerance(&path_name);
    let mut optimizer = Optimizer::new(config).unwrap();
    let mut param = Param::<2>::new("weight", cupola_ops::from_vec(start, [shape[0], shape[1]], &Device::flex()));
    for step in 0..20 {
        let gradient = vec![Some(grads[step * n..][..n].to_vec())];
        assert!(optimizer.step(vec![ParamMut::Matrix(&mut param)], &gradient, lr, step as u64 + 1, 1.0));
        let got = cupola_ops::to_vec(&param.value());
        assert_close(&format!("{fixture}, step {step}"), &got, &path[step * n..][..n], atol, rtol);
    }
}

#[test]
fn parity_adamw_follows_torch_over_twenty_steps() {
    follows_torch("adamw", &OptimizerConfig { beta2: 0.95, weight_decay: 0.1, ..config("adamw") }, 0.02);
}

#[test]
fn parity_sgd_with_nesterov_follows_torch_over_twenty_steps() {
    let (momentum, nesterov) = (Some(0.9), Some(true));
    follows_torch("sgd-nesterov", &OptimizerConfig { momentum, nesterov, weight_decay: 0.01, ..config("sgd") }, 0.05);
}

#[test]
fn parity_adafactor_follows_torch_over_twenty_steps() {
    follows_torch("adafactor-torch", &OptimizerConfig { weight_decay: 0.01, ..config("adafactor") }, 0.02);
}

#[test]
fn parity_muon_follows_torch_over_twenty_steps() {
    follows_torch("muon", &OptimizerConfig { weight_decay: 0.1, ..config("muon") }, 0.02);
}

#[test]
fn parity_the_norm_of_accumulated_gradients_is_torchs() {
    let golden = Golden::load("optimizers");
    let (_, grads) = golden.f32("in.grads");
    let n = golden.f32("in.start").1.len();
    let joint = vec![Some(grads[2 * n..][..n].to_vec()), Some(grads[3 * n..][..n].to_vec())];
    let norm = golden.f32("clip.norm").1[0];
    assert!((gradient_norm(&joint) - f64::from(norm)).abs() < 1e-6 * f64::from(norm));
    let halves: Gradients = joint.iter().map(|g| g.as_ref().map(|g| g.iter().map(|x| x / 2.0).collect())).collect();
    let mut sums = Gradients::new();
    assert_eq!(accumulate(&mut sums, halves.clone(), false), 0.0);
    let squares = accumulate(&mut sums, halves, true);
    assert_eq!((squares.sqrt(), &sums), (gradient_norm(&joint), &joint));
}

#[test]
fn gradients_that_only_some_micro_batches_have_are_counted() {
    let some = |x: f32| Some(vec![x; 3]);
    let mut sums = Gradients::new();
    accumulate(&mut sums, vec![some(1.0), None, some(1.0), None], false);
    accumulate(&mut sums, vec![some(1.0), None, None, None], false);
    let squares = accumulate(&mut sums, vec![some(1.0), some(2.0), None, None], true);
    assert_eq!(sums, vec![some(3.0), some(2.0), some(1.0), None]);
    assert_eq!(squares, 3.0 * (9.0 + 4.0 + 1.0));
    assert_eq!(accumulate(&mut Gradients::new(), vec![some(2.0), None], true), 12.0);
}

/// A vector, a hidden matrix and a table.
struct Three(Param<1>, Param<2>, Param<2>);

impl Three {
    fn new() -> Self {
        let device = Device::flex();
        let numbers = |n: usize| (0..n).map(|i| ((i * i * 7 + 3) % 23) as f32 / 23.0 - 0.4).collect::<Vec<_>>();
        Self(
            Param::new("norm.weight", cupola_ops::from_vec(numbers(5), [5], &device)),
            Param::new("q.weight", cupola_ops::from_vec(numbers(15), [3, 5], &device)),
            Param::new("embed.weight", cupola_ops::from_vec(numbers(35), [7, 5], &device)),
        )
    }

    fn params(&mut self) -> Vec<ParamMut<'_>> {
        vec![ParamMut::Vector(&mut self.0), ParamMut::Matrix(&mut self.1), ParamMut::Table(&mut self.2)]
    }

    fn values(&self) -> [Vec<f32>; 3] {
        [cupola_ops::to_vec(&self.0.value()), cupola_ops::to_vec(&self.1.value()), cupola_ops::to_vec(&self.2.value())]
    }

    fn steps(&mut self, optimizer: &mut Optimizer, steps: std::ops::Range<u64>) {
        for step in steps {
            let gradient = |n: usize| Some((0..n).map(|i| ((i as f32 + 2.0) * step as f32).sin()).collect::<Vec<_>>());
            let gradients = vec![gradient(5), gradient(15), gradient(35)];
            optimizer.step(self.params(), &gradients, 0.02, step, 0.7);
        }
    }
}

/// Every rule with every type of state that it can keep.
fn every_kind() -> Vec<OptimizerConfig> {
    let types =
        |rule: &&dyn Rule| if rule.halves() { vec![StateType::F32, StateType::Bf16] } else { vec![StateType::F32] };
    ALL.iter().flat_map(|r| types(r).into_iter().map(|state| OptimizerConfig { state, ..config(r.name()) })).collect()
}

#[test]
fn restored_state_continues_bit_for_bit() {
    let dir = TempDir::new("optimizer-state");
    for config in every_kind() {
        let mut optimizer = Optimizer::new(&config).unwrap();
        let mut whole = Three::new();
        whole.steps(&mut optimizer, 1..9);

        let (mut first, mut three) = (Optimizer::new(&config).unwrap(), Three::new());
        three.steps(&mut first, 1..5);
        let file = dir.path().join("optimizer.safetensors");
        write_safetensors(&file, &first.state(), &[]).unwrap();
        let mut second = Optimizer::new(&config).unwrap();
        second.restore(read_safetensors(&file).unwrap(), &three.params()).unwrap();
        assert_eq!(second.state(), first.state(), "{config:?}");
        three.steps(&mut second, 5..9);
        let bits = |t: &Three| t.values().map(|v| v.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        assert_eq!(bits(&three), bits(&whole), "{config:?}");
        assert_eq!(second.state(), optimizer.state(), "{config:?}");
    }
}

#[test]
fn sixteen_bits_halve_the_state() {
    let bytes = |state| {
        let mut optimizer = Optimizer::new(&OptimizerConfig { state, ..config("adamw") }).unwrap();
        Three::new().steps(&mut optimizer, 1..2);
        optimizer.state().values().map(|t| t.bytes.len()).sum::<usize>()
    };
    assert_eq!(bytes(StateType::F32), 55 * 8);
    assert_eq!(bytes(StateType::Bf16), 55 * 4);
    let per_parameter = |config| Optimizer::new(&config).unwrap().bytes_per_parameter();
    assert_eq!(per_parameter(config("adamw")), 8.0);
    assert_eq!(per_parameter(OptimizerConfig { state: StateType::Bf16, ..config("muon") }), 2.0);
    assert!(per_parameter(config("adafactor")) < 0.01);
}

#[test]
fn state_that_does_not_fit_is_refused() {
    let mut three = Three::new();
    let mut optimizer = Optimizer::new(&config("lion")).unwrap();
    three.steps(&mut optimizer, 1..2);
    let good = optimizer.state();
    let mut refused = |config: &OptimizerConfig, change: &dyn Fn(&mut StateDict)| {
        let mut state = good.clone();
        change(&mut state);
        Optimizer::new(config).unwrap().restore(state, &three.params()).unwrap_err().to_string()
    };
    let lion = config("lion");
    let message = refused(&config("sgd"), &|_| {});
    assert!(message.contains("`embed.weight.exp_avg` is not of sgd"), "{message}");
    let message = refused(&OptimizerConfig { state: StateType::Bf16, ..lion.clone() }, &|_| {});
    assert!(message.contains("`norm.weight.exp_avg` is not the 5 numbers of type bf16 that lion keeps"), "{message}");
    let shorter = HostTensor { shape: vec![4], dtype: DType::F32, bytes: vec![0; 16] };
    let message = refused(&lion, &|s| drop(s.insert("norm.weight.exp_avg".into(), shorter.clone())));
    assert!(message.contains("is not the 5 numbers"), "{message}");
    let message = refused(&config("adamw"), &|_| {});
    assert!(message.contains("`norm.weight.exp_avg_sq` is not the 5 numbers"), "{message}");
    let message = refused(&lion, &|s| drop(s.insert("k.weight.exp_avg".into(), shorter.clone())));
    assert!(message.contains("`k.weight.exp_avg` is not of lion"), "{message}");
    let mut state = good.clone();
    state.remove("norm.weight.exp_avg");
    Optimizer::new(&lion).unwrap().restore(state, &three.params()).unwrap();
}

#[test]
fn lion_follows_its_formula() {
    let (mut three, mut optimizer) = (Three::new(), Optimizer::new(&config("lion")).unwrap());
    let start = three.values();
    three.steps(&mut optimizer, 1..4);
    // The vector has no weight decay, the others 0.1.
    for (i, (got, mut want)) in three.values().into_iter().zip(start).enumerate() {
        let mut m = vec![0.0; want.len()];
        for step in 1..4 {
            for (j, p) in want.iter_mut().enumerate() {
                let g = 0.7 * ((j as f32 + 2.0) * step as f32).sin();
                let direction: f32 = 0.9 * m[j] + 0.1 * g;
                *p = *p * (1.0 - 0.02 * if i == 0 { 0.0 } else { 0.1 }) - 0.02 * direction.signum();
                m[j] = 0.95 * m[j] + 0.05 * g;
            }
        }
        assert_close("parameters", &got, &want, 1e-6, 1e-5);
    }
}

#[test]
fn muon_leaves_vectors_and_tables_to_adamw() {
    let run = |name: &str| {
        let (mut three, mut optimizer) = (Three::new(), Optimizer::new(&config(name)).unwrap());
        three.steps(&mut optimizer, 1..4);
        three.values()
    };
    let ([vector, hidden, table], [want_vector, other, want_table]) = (run("muon"), run("adamw"));
    assert_eq!((vector, table), (want_vector, want_table));
    assert_ne!(hidden, other);
}

#[test]
fn muon_can_make_steps_as_large_as_adamws() {
    let moved = |adjust_lr| {
        let muon = OptimizerConfig { adjust_lr, weight_decay: 0.0, ..config("muon") };
        let (mut three, mut optimizer) = (Three::new(), Optimizer::new(&muon).unwrap());
        let before = three.values()[1].clone();
        three.steps(&mut optimizer, 1..2);
        three.values()[1].iter().zip(&before).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
    };
    // [3, 5]: the ratio is 1 or 0.2 sqrt(5).
    let (original, matched) = (moved(AdjustLr::Original), moved(AdjustLr::MatchRmsAdamw));
    assert!((matched / original - 0.2 * 5f32.sqrt()).abs() < 1e-4, "{matched} against {original}");
}

#[test]
fn the_embedding_and_the_output_layer_are_no_hidden_matrices() {
    let dir = TempDir::new("hidden");
    tiny_llama_dir(dir.path(), 3);
    let mut model = Model::load(dir.path(), &Device::flex()).unwrap();
    let params = model.params_mut();
    let names = |hidden: bool| {
        let of_kind = params.iter().filter(move |p| p.is_matrix() && p.is_hidden() == hidden);
        of_kind.map(|p| p.name().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(false), ["model.embed_tokens.weight", "lm_head.weight"]);
    assert!(names(true).iter().all(|n| n.starts_with("model.layers.")) && names(true).len() >= 7, "{:?}", names(true));
}

#[test]
fn settings_that_cannot_be_followed_are_refused() {
    let refused = |change: &dyn Fn(&mut OptimizerConfig)| {
        let mut config = OptimizerConfig::default();
        change(&mut config);
        Optimizer::new(&config).map(|_| ()).unwrap_err()
    };
    let error = refused(&|c| c.name = "adam".into());
    assert_eq!(error.to_string(), "unknown optimizer `adam`");
    assert_eq!(error.hint(), Some("there are: adamw, lion, sgd, adafactor, muon"));
    let error = refused(&|c| c.momentum = Some(1.0));
    assert_eq!(error.to_string(), "the optimizer's momentum = 1 is not at least 0 and below 1");
    assert!(refused(&|c| c.beta2 = f32::NAN).to_string().contains("beta2 = NaN"));
    assert!(refused(&|c| c.eps = 0.0).to_string().contains("eps = 0"));
    let error = refused(&|c| (c.name, c.state) = ("adafactor".into(), StateType::Bf16));
    assert_eq!(error.to_string(), "the optimizer `adafactor` keeps its state in f32");
}
