//! What a reward model learns from pairs.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

/// `-log σ(r_w - r_l - m) + c·(r_w + r_l)²` for each pair, `[P]`: Bradley and Terry's model, a margin `m` by which the better
/// answer is to lead (Touvron et al. 2023, section 3.2.2), and a pull of strength `c` to a mean of 0 (Eisenstein et al.
/// 2023, equation 2).
pub fn reward_loss(chosen: Tensor<1>, rejected: Tensor<1>, margin: Option<Tensor<1>>, centering: f64) -> Tensor<1> {
    let lead = chosen.clone() - rejected.clone();
    let lead = match margin {
        Some(margin) => lead - margin,
        None => lead,
    };
    let loss = -log_sigmoid(lead);
    match centering == 0.0 {
        true => loss,
        false => loss + (chosen + rejected).square().mul_scalar(centering),
    }
}
