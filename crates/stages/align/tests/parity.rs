//! Losses and their gradients equal to TRL's: the fixtures `loss-*` of this repository, and of the folder that
//! `CUPOLA_FIXTURES` names.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::path::Path;

use burn::tensor::{Device, Tensor};
use cupola_align::gae::{Scale, advantages, group_advantages, leave_one_out, token_rewards, value_loss, whiten};
use cupola_align::loss::{self, Divergence, LossSettings, PairLogps, PairLoss};
use cupola_align::policy::{self, PolicyBatch, PolicySettings, policy_loss};
use cupola_align::reward_loss::reward_loss;
use cupola_align::unpaired::{self, SingleLogps, SingleSettings};
use cupola_ops::{from_vec, into_vec, to_vec};
use cupola_testkit::{Golden, fixture};
use serde_json::Value;

/// The fixture of this name here, and the one in the other folder.
fn each(name: &str, check: impl Fn(&Golden)) {
    check(&Golden::load_dir(&fixture(name)));
    let other = std::env::var_os("CUPOLA_FIXTURES").map(|root| Path::new(&root).join(name));
    if let Some(dir) = other.filter(|dir| dir.exists()) {
        check(&Golden::load_dir(&dir));
    }
}

fn cases(golden: &Golden) -> Vec<(String, Value)> {
    golden.info["settings"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or(0.0)
}

/// A tensor of a fixture, flat.
fn constant(values: Vec<f32>) -> Tensor<1> {
    let n = values.len();
    from_vec(values, [n], &Device::flex())
}

fn given(golden: &Golden, name: &str) -> Tensor<1> {
    constant(golden.f32(name).1)
}

fn on_tape(golden: &Golden, name: &str) -> Tensor<1> {
    Tensor::from_inner(given(golden, name)).require_grad()
}

/// The sums of rows of `[rows, width]` values where the mask is 1.
struct Rows {
    /// `[rows, rows · width]`.
    members: Tensor<2>,
    lengths: Vec<usize>,
}

impl Rows {
    fn of(golden: &Golden) -> Self {
        let name = if golden.names().contains(&"in.mask") { "in.mask" } else { "in.completion_mask" };
        let (shape, mask) = golden.i64(name);
        let (rows, width) = (shape[0], shape[1]);
        let mut members = vec![0.0; rows * rows * width];
        for (i, on) in mask.iter().enumerate() {
            members[(i / width) * rows * width + i] = *on as f32;
        }
        let lengths = mask.chunks(width).map(|row| row.iter().sum::<i64>() as usize).collect();
        Self { members: from_vec(members, [rows, rows * width], &Device::flex()), lengths }
    }

    fn sums(&self, values: Tensor<1>) -> Tensor<1> {
        let [rows, n] = self.members.dims();
        let members = Tensor::from_inner(self.members.clone());
        members.matmul(values.reshape([n, 1])).reshape([rows])
    }
}

fn taped(tensor: Tensor<1>) -> Tensor<1> {
    Tensor::from_inner(tensor)
}

/// Compares a loss and its gradients with the case's.
fn compare(golden: &Golden, case: &str, loss: Tensor<1>, leaves: &[(&str, &Tensor<1>)]) {
    golden.check(&format!("{case}.loss"), &to_vec(&loss));
    let mut gradients = loss.sum().backward();
    for (name, leaf) in leaves {
        let gradient = leaf.grad_remove(&mut gradients).unwrap();
        golden.check(&format!("{case}.grad.{name}"), &into_vec(gradient));
    }
}

fn pair_loss(name: &str) -> &'static dyn PairLoss {
    loss::ALL.iter().copied().find(|l| l.name() == name).unwrap_or_else(|| panic!("there is no loss {name}"))
}

#[test]
fn losses_on_pairs_have_parity_with_trl() {
    each("loss-dpo", |golden| {
        let rows = Rows::of(golden);
        let half = rows.lengths.len() / 2;
        for (name, case) in cases(golden) {
            let leaf = on_tape(golden, "in.policy_token_logps");
            let sums = rows.sums(leaf.clone());
            let tokens = |range: std::ops::Range<usize>| {
                taped(constant(rows.lengths[range].iter().map(|n| *n as f32).collect()))
            };
            let pairs = PairLogps {
                chosen: sums.clone().narrow(0, 0, half),
                rejected: sums.narrow(0, half, half),
                ref_chosen: taped(given(golden, "in.ref_chosen_logps")),
                ref_rejected: taped(given(golden, "in.ref_rejected_logps")),
                chosen_tokens: tokens(0..half),
                rejected_tokens: tokens(half..2 * half),
                mean_chosen_tokens: rows.lengths[..half].iter().sum::<usize>() as f64 / half as f64,
            };
            let divergence = case["f_divergence_type"]
                .as_str()
                .map_or(Divergence::ReverseKl, |name| serde_json::from_value(Value::from(name)).unwrap());
            let settings = LossSettings {
                beta: number(&case, "beta"),
                label_smoothing: number(&case, "label_smoothing"),
                divergence,
                ..LossSettings::default()
            };
            let loss = pair_loss(case["loss_type"].as_str().unwrap()).loss(&pairs, &settings).mean();
            compare_masked(golden, &name, loss, ("policy_token_logps", &leaf), &rows);
        }
    });
}

/// The same where what is outside the answers is 0 and gets the gradient of the whole row from TRL.
fn compare_masked(golden: &Golden, case: &str, loss: Tensor<1>, leaf: (&str, &Tensor<1>), rows: &Rows) {
    golden.check(&format!("{case}.loss"), &to_vec(&loss));
    let mut gradients = loss.sum().backward();
    let got = into_vec(leaf.1.grad_remove(&mut gradients).unwrap());
    let output = format!("{case}.grad.{}", leaf.0);
    let (_, expected) = golden.f32(&output);
    let [answers, n] = rows.members.dims();
    let members = to_vec(&rows.members.clone().reshape([answers * n]));
    let inside = |i: usize| (0..answers).any(|row| members[row * n + i] > 0.0);
    let got: Vec<f32> = (0..n).map(|i| if inside(i) { got[i] } else { expected[i] }).collect();
    golden.check(&output, &got);
}

#[test]
fn losses_without_a_reference_have_parity_with_trl() {
    each("loss-preference-reference-free", |golden| {
        for (name, case) in cases(golden) {
            let (chosen, rejected) = (on_tape(golden, "in.chosen_logps"), on_tape(golden, "in.rejected_logps"));
            let ours = match (name.as_str(), case["loss_type"].as_str()) {
                ("orpo", _) => "orpo",
                (_, Some("simpo")) => "simpo",
                (_, Some("sigmoid")) => "cpo",
                (_, Some("hinge")) => "cpo_hinge",
                other => panic!("no loss for {other:?}"),
            };
            let ones = || taped(constant(vec![1.0; golden.f32("in.chosen_logps").1.len()]));
            let pairs = PairLogps {
                chosen: chosen.clone(),
                rejected: rejected.clone(),
                ref_chosen: ones() * f32::NAN,
                ref_rejected: ones() * f32::NAN,
                chosen_tokens: ones(),
                rejected_tokens: ones(),
                mean_chosen_tokens: 1.0,
            };
            let settings = LossSettings {
                beta: number(&case, "beta"),
                label_smoothing: number(&case, "label_smoothing"),
                gamma: number(&case, "simpo_gamma"),
                alpha: number(&case, "alpha"),
                nll_weight: 0.0,
                ..LossSettings::default()
            };
            let loss = pair_loss(ours).loss(&pairs, &settings);
            compare(golden, &name, loss, &[("chosen_logps", &chosen), ("rejected_logps", &rejected)]);
        }
    });
}

#[test]
fn losses_on_single_answers_have_parity_with_trl() {
    each("loss-kto", |golden| {
        let rows = Rows::of(golden);
        let (kl, ref_kl) = (golden.f32("in.kl_logps").1, golden.f32("in.ref_kl_logps").1);
        let divergence = kl.iter().zip(&ref_kl).map(|(a, b)| f64::from(a - b)).sum::<f64>() / kl.len() as f64;
        let desirable: Vec<bool> = golden.tensors["in.desirable"].bytes.iter().map(|byte| *byte == 1).collect();
        for (name, case) in cases(golden) {
            let leaf = on_tape(golden, "in.policy_token_logps");
            let answers = SingleLogps {
                policy: rows.sums(leaf.clone()),
                reference: taped(given(golden, "in.ref_logps")),
                desirable: desirable.clone(),
                divergence,
            };
            let settings = SingleSettings {
                beta: number(&case, "beta"),
                desirable_weight: number(&case, "desirable_weight"),
                undesirable_weight: number(&case, "undesirable_weight"),
            };
            let loss = unpaired::ALL.iter().find(|l| Some(l.name()) == case["loss_type"].as_str()).unwrap();
            let loss = loss.loss(&answers, &settings).mean();
            compare_masked(golden, &name, loss, ("policy_token_logps", &leaf), &rows);
        }
    });
}

#[test]
fn reward_models_have_parity_with_trl() {
    each("loss-reward-model", |golden| {
        for (name, case) in cases(golden) {
            let leaf = on_tape(golden, "in.rewards");
            let half = leaf.dims()[0] / 2;
            let margin = case["use_margin"].as_bool().unwrap().then(|| taped(given(golden, "in.margin")));
            let (chosen, rejected) = (leaf.clone().narrow(0, 0, half), leaf.clone().narrow(0, half, half));
            let loss = reward_loss(chosen, rejected, margin, number(&case, "center_rewards_coefficient")).mean();
            compare(golden, &name, loss, &[("rewards", &leaf)]);
        }
    });
}

#[test]
fn losses_on_own_answers_have_parity_with_trl() {
    each("loss-grpo", |golden| {
        let rows = Rows::of(golden);
        let (rewards, answers) = (golden.f64("in.rewards").1, rows.lengths.len());
        let per_group = answers / 2;
        let groups: Vec<Vec<f64>> = rewards.chunks(per_group).map(<[f64]>::to_vec).collect();
        let advantages = |from: &str| match from {
            "group" => group_advantages(&groups, Scale::Group).concat(),
            "batch" => group_advantages(&groups, Scale::Batch).concat(),
            "none" => group_advantages(&groups, Scale::None).concat(),
            "rloo" => leave_one_out(&groups).concat(),
            other => panic!("no advantages {other}"),
        };
        let plain = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        for from in ["group", "batch", "none", "rloo"] {
            golden.check(&format!("in.advantages.{from}"), &plain(&advantages(from)));
        }
        for (name, case) in cases(golden) {
            let leaf = on_tape(golden, "in.policy_token_logps");
            let from = case["advantages_from"].as_str().unwrap_or("group");
            let mut batch = PolicyBatch {
                policy: leaf.clone(),
                old: taped(given(golden, "in.old_token_logps")),
                reference: Some(taped(given(golden, "in.ref_token_logps"))),
                advantages: leaf.clone(),
                answer_advantages: taped(constant(plain(&advantages(from)))),
                members: Tensor::from_inner(rows.members.clone()),
                lengths: rows.lengths.clone(),
                step_answers: answers,
                step_tokens: rows.lengths.iter().sum(),
            };
            batch.advantages = batch.spread(batch.answer_advantages.clone());
            let epsilon = |key: &str| case[key].as_f64().unwrap_or(0.2);
            let settings = PolicySettings {
                beta: number(&case, "beta"),
                epsilon_low: epsilon("epsilon_low"),
                epsilon_high: epsilon("epsilon_high"),
                max_tokens: 8,
            };
            let ours = match (name.as_str(), case["loss_type"].as_str()) {
                ("rloo" | "gspo", _) => name.as_str(),
                (_, kind) => kind.unwrap_or("grpo"),
            };
            let loss = policy::ALL.iter().copied().find(|l| l.name() == ours).unwrap();
            compare(golden, &name, policy_loss(loss, &batch, &settings), &[("policy_token_logps", &leaf)]);
        }
    });
}

#[test]
fn ppo_has_parity_with_its_reference() {
    each("loss-ppo", |golden| {
        let rows = Rows::of(golden);
        let width = rows.members.dims()[1] / rows.lengths.len();
        let of_row = |name: &str, row: usize| golden.f32(name).1[row * width..][..rows.lengths[row]].to_vec();
        for (name, case) in cases(golden) {
            let (mut rewards, mut gae, mut returns) = (vec![], vec![], vec![]);
            let scores = golden.f64("in.scores").1;
            for (row, score) in scores.iter().enumerate() {
                let (old, reference) = (of_row("in.old_logps", row), of_row("in.ref_logps", row));
                let own = token_rewards(&old, &reference, *score, number(&case, "kl_coef"));
                let values = of_row("in.old_values", row);
                let (advantage, worth) = advantages(&own, &values, number(&case, "gamma"), number(&case, "lam"));
                rewards.push(own);
                gae.push(advantage);
                returns.push(worth);
            }
            let padded = |rows: &[Vec<f64>]| {
                let row =
                    |row: &Vec<f64>| (0..width).map(|t| row.get(t).map_or(0.0, |v| *v as f32)).collect::<Vec<_>>();
                rows.iter().flat_map(row).collect::<Vec<f32>>()
            };
            golden.check(&format!("{name}.rewards"), &padded(&rewards));
            golden.check(&format!("{name}.gae"), &padded(&gae));
            golden.check(&format!("{name}.returns"), &padded(&returns));
            if case["whiten"].as_bool().unwrap() {
                let mut flat: Vec<f64> = gae.concat();
                whiten(&mut flat);
                let mut rest = flat.into_iter();
                gae.iter_mut().for_each(|row| row.iter_mut().for_each(|v| *v = rest.next().unwrap()));
            }
            golden.check(&format!("{name}.advantages"), &padded(&gae));
            let (logps, values) = (on_tape(golden, "in.new_logps"), on_tape(golden, "in.new_values"));
            let batch = PolicyBatch {
                policy: logps.clone(),
                old: taped(given(golden, "in.old_logps")),
                reference: None,
                advantages: taped(constant(padded(&gae))),
                answer_advantages: taped(constant(vec![0.0; rows.lengths.len()])),
                members: Tensor::from_inner(rows.members.clone()),
                lengths: rows.lengths.clone(),
                step_answers: rows.lengths.len(),
                step_tokens: rows.lengths.iter().sum(),
            };
            let clip = number(&case, "cliprange");
            let settings = PolicySettings { beta: 0.0, epsilon_low: clip, epsilon_high: clip, max_tokens: width };
            let by_token = policy::ALL.iter().copied().find(|l| l.name() == "bnpo").unwrap();
            let policy = policy_loss(by_token, &batch, &settings);
            golden.check(&format!("{name}.policy_loss"), &to_vec(&policy));
            let (old, returns) = (taped(given(golden, "in.old_values")), taped(constant(padded(&returns))));
            let each = value_loss(values.clone(), old, returns, number(&case, "cliprange_value"));
            let value = (each * batch.mask()).sum().div_scalar(batch.step_tokens as f64);
            golden.check(&format!("{name}.value_loss"), &to_vec(&value));
            let loss = policy + value.mul_scalar(number(&case, "vf_coef"));
            compare(golden, &name, loss, &[("new_logps", &logps), ("new_values", &values)]);
        }
    });
}
