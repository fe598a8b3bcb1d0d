//! What happens to routers of experts beside gradients: their biases move, and their load becomes figures.

use cupola_arch::Model;
use cupola_nn::{Module, Param};

/// The biases of the routers that are trained.
pub(crate) fn biases(model: &mut Model) -> impl Iterator<Item = &mut Param<1>> {
    model.routers().into_iter().filter(|router| router.weight().trainable()).filter_map(|router| router.bias_mut())
}

/// After the optimizer: moves the biases by the step's load, and gives the load's figures. `router_max_load` and
/// `router_min_load` are the largest and the smallest share of an expert of any layer as a multiple of the even share,
/// `router_entropy` is the mean entropy of the layers' shares, 1 where they are even; `expert_share/L/E` is the share of the tokens of
/// mixture `L` that went to expert `E`.
pub(crate) fn after_step(model: &mut Model) -> Vec<(String, f64)> {
    let mut shares: Vec<Vec<f64>> = vec![];
    for router in model.routers() {
        let load = router.take_load();
        let total = load.iter().sum::<u64>();
        if total == 0 {
            continue;
        }
        if router.weight().trainable() {
            router.balance(&load);
        }
        shares.push(load.iter().map(|n| *n as f64 / total as f64).collect());
    }
    figures(&shares)
}

fn figures(shares: &[Vec<f64>]) -> Vec<(String, f64)> {
    if shares.is_empty() {
        return vec![];
    }
    let relative = || shares.iter().flat_map(|layer| layer.iter().map(|share| share * layer.len() as f64));
    let entropy: f64 = shares.iter().map(|layer| entropy(layer)).sum::<f64>() / shares.len() as f64;
    let mut figures = vec![
        ("router_max_load".to_string(), relative().fold(0.0, f64::max)),
        ("router_min_load".to_string(), relative().fold(f64::INFINITY, f64::min)),
        ("router_entropy".to_string(), entropy),
    ];
    for (l, layer) in shares.iter().enumerate() {
        figures.extend(layer.iter().enumerate().map(|(e, share)| (format!("expert_share/{l}/{e}"), *share)));
    }
    figures
}

/// The entropy of shares that add up to 1, over that of even ones.
fn entropy(shares: &[f64]) -> f64 {
    if shares.len() < 2 {
        return 1.0;
    }
    let nats: f64 = shares.iter().filter(|share| **share > 0.0).map(|share| -share * share.ln()).sum();
    nats / (shares.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_tell_even_loads_from_collapsed_ones() {
        let figure =
            |shares: &[Vec<f64>], name: &str| figures(shares).into_iter().find(|(n, _)| n == name).map(|f| f.1);
        let even = vec![vec![0.25; 4]; 2];
        assert_eq!(figure(&even, "router_max_load"), Some(1.0));
        assert_eq!(figure(&even, "router_min_load"), Some(1.0));
        assert_eq!(figure(&even, "router_entropy"), Some(1.0));
        let collapsed = vec![vec![0.25; 4], vec![0.0, 1.0, 0.0, 0.0]];
        assert_eq!(figure(&collapsed, "router_max_load"), Some(4.0));
        assert_eq!(figure(&collapsed, "router_min_load"), Some(0.0));
        assert_eq!(figure(&collapsed, "router_entropy"), Some(0.5));
        assert_eq!(figure(&collapsed, "expert_share/1/1"), Some(1.0));
        assert!(figures(&[]).is_empty());
    }
}
