//! What families with experts have in common.

use cupola_artifact::{Error, Result};
use cupola_nn::{RouterSpec, Scores};

use crate::config::ConfigJson;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// A softmax router over experts in the words of Mixtral's configuration, `chosen` experts for each token.
pub(crate) fn router(config: &ConfigJson<'_>) -> Result<RouterSpec> {
    // transformers 5 calls all of them `num_local_experts`.
    let key = ["num_experts", "n_routed_experts"].into_iter().find(|key| config.get(key).is_some());
    let n_experts = config.required_size(key.unwrap_or("num_local_experts"))?;
    let chosen = config.required_size("num_experts_per_tok")?;
    if chosen > n_experts {
        return Err(Error::failed(format!(
            "config.json sends each token to {chosen} experts (`num_experts_per_tok`), but there are {n_experts}"
        )));
    }
    Ok(RouterSpec {
        n_experts,
        chosen,
        scores: Scores::Softmax,
        normalize: true,
        scale: 1.0,
        groups: None,
        bias_step: None,
        balance: config.number("router_aux_loss_coef", 0.001)? as f32,
        z_loss: config.number("router_z_loss_coef", 0.0)? as f32,
    })
}

/// The experts' matrices, which files keep apart: in `model.layers.{}.MLP.experts.{}`, with the names of the gate, what it
/// multiplies, and the way back.
pub(crate) fn stacked(spec: &Spec, mlp: &str, parts: [&str; 3]) -> Vec<Rearrangement> {
    let blocks = spec.stack().blocks.iter().enumerate();
    let of_layer = |(layer, experts): (usize, usize)| {
        let experts_at = format!("model.layers.{layer}.{mlp}.experts");
        parts.map(|part| Rearrangement::Stacked {
            file: format!("{experts_at}.{{}}.{part}.weight"),
            count: experts,
            name: format!("{experts_at}.{part}.weight"),
        })
    };
    blocks.filter_map(|(i, block)| Some((i, block.experts()?.router.n_experts))).flat_map(of_layer).collect()
}
