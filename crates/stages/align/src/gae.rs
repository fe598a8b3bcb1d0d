//! What the tokens of an answer were worth: rewards per token, advantages, and the value function's loss.

use burn::tensor::Tensor;

/// The rewards of an answer's tokens: `-coefficient·(log π_old - log π_ref)` each, and the answer's score at the last one
/// (Ziegler et al. 2019, equation 2).
pub fn token_rewards(old: &[f32], reference: &[f32], score: f64, coefficient: f64) -> Vec<f64> {
    let mut rewards: Vec<f64> = old
        .iter()
        .zip(reference)
        .map(|(old, reference)| -coefficient * (f64::from(*old) - f64::from(*reference)))
        .collect();
    if let Some(last) = rewards.last_mut() {
        *last += score;
    }
    rewards
}

/// Generalized advantage estimation (Schulman et al. 2016, equation 16) over one answer, whose end is worth nothing more:
/// advantages, and the returns `advantage + value` that the value function is to predict.
pub fn advantages(rewards: &[f64], values: &[f32], gamma: f64, lambda: f64) -> (Vec<f64>, Vec<f64>) {
    let (mut following, mut sum) = (0.0, 0.0);
    let mut out = vec![0.0; rewards.len()];
    for (t, (reward, value)) in rewards.iter().zip(values).enumerate().rev() {
        let value = f64::from(*value);
        sum = reward + gamma * following - value + gamma * lambda * sum;
        (out[t], following) = (sum, value);
    }
    let returns = out.iter().zip(values).map(|(advantage, value)| advantage + f64::from(*value)).collect();
    (out, returns)
}

/// Shifts and scales numbers to a mean of 0 and an unbiased variance of 1.
pub fn whiten(values: &mut [f64]) {
    let n = values.len() as f64;
    if values.len() < 2 {
        return;
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let scale = (variance + 1e-8).sqrt().recip();
    values.iter_mut().for_each(|v| *v = (*v - mean) * scale);
}

/// `½·max((V - R)², (clip(V, V_old ± ε) - R)²)` of each token (Schulman et al. 2017's clipping on values, as PPO's
/// implementations have it).
pub fn value_loss(values: Tensor<1>, old: Tensor<1>, returns: Tensor<1>, epsilon: f64) -> Tensor<1> {
    let moved = (values.clone() - old.clone()).clamp(-epsilon, epsilon) + old;
    let (plain, clipped) = ((values - returns.clone()).square(), (moved - returns).square());
    plain.max_pair(clipped).mul_scalar(0.5)
}

/// Standard deviations are taken of one less than the number, and so much is added.
const TINY: f64 = 1e-4;

/// How the rewards of the answers to one prompt become advantages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Divided by the standard deviation of the prompt's answers (Shao et al. 2024, section 4.1.2).
    #[default]
    Group,
    /// Divided by the standard deviation of all answers of the step (Hu et al. 2025, "REINFORCE++", with a group's mean).
    Batch,
    /// Not divided (Liu et al. 2025, "Dr. GRPO").
    None,
}

/// The answers' rewards, by group, less the mean of their group, divided as `scale` says.
pub fn group_advantages(groups: &[Vec<f64>], scale: Scale) -> Vec<Vec<f64>> {
    let all = deviation(&groups.concat());
    let of_group = |group: &Vec<f64>| {
        let (mean, own) = (group.iter().sum::<f64>() / group.len().max(1) as f64, deviation(group));
        let divisor = match scale {
            Scale::Group => own + TINY,
            Scale::Batch => all + TINY,
            Scale::None => 1.0,
        };
        group.iter().map(|reward| (reward - mean) / divisor).collect()
    };
    groups.iter().map(of_group).collect()
}

/// The answers' rewards, by group, less the mean of the others of their group (Kool et al. 2019; Ahmadian et al. 2024,
/// equation 7).
pub fn leave_one_out(groups: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let of_group = |group: &Vec<f64>| {
        let sum: f64 = group.iter().sum();
        let others = group.len().saturating_sub(1).max(1) as f64;
        group.iter().map(|reward| reward - (sum - reward) / others).collect()
    };
    groups.iter().map(of_group).collect()
}

fn deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if values.len() < 2 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
}
