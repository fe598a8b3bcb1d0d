//! Several low-rank adapters of one base as one.

use std::collections::BTreeSet;

use cupola_artifact::{Error, HostTensor, Result, StateDict};
use cupola_nn::Rng;
use cupola_nn::adapters::{Combination, LowRank, combine};
use serde_json::{Value, json};

use super::Adapter;

/// One adapter out of several with a weight for each: all of them LoRA on linear layers. `density` is the share of numbers that stay
/// where some are dropped, and `rank` that of [`Combination::Svd`], or the largest; where random numbers are drawn, `seed` begins
/// them.
///
/// # Errors
/// Adapters of other kinds, of other bases, or of ranks that the combination does not take.
pub fn combine_adapters(
    adapters: &[(&Adapter, f32)],
    how: Combination,
    density: f32,
    rank: Option<usize>,
    seed: u64,
) -> Result<Adapter> {
    let Some((first, _)) = adapters.first() else { return Err(Error::usage("there are no adapters to combine")) };
    if !(density > 0.0 && density <= 1.0) {
        return Err(Error::usage(format!("`density` = {density} is not above 0 and at most 1")));
    }
    let mut modules = BTreeSet::new();
    for (adapter, _) in adapters {
        modules.extend(modules_of(adapter)?);
    }
    let mut rng = Rng::new(seed, "combination");
    let (mut state, mut largest) = (StateDict::new(), 0);
    for module in &modules {
        let parts: Vec<(LowRank, f32)> = adapters
            .iter()
            .map(|(adapter, weight)| Ok(low_rank(adapter, module)?.map(|part| (part, *weight))))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        let views: Vec<(&LowRank, f32)> = parts.iter().map(|(part, weight)| (part, *weight)).collect();
        let widest = parts.iter().map(|(part, _)| part.r).max().unwrap_or(1);
        let one =
            combine(&views, how, density, rank.unwrap_or(widest), &mut rng).map_err(|e| e.wrap(module.clone()))?;
        largest = largest.max(one.r);
        state.insert(format!("{module}.lora_A.weight"), HostTensor::from_f32([one.r, one.a.len() / one.r], &one.a));
        state.insert(format!("{module}.lora_B.weight"), HostTensor::from_f32([one.b.len() / one.r, one.r], &one.b));
    }
    // Scales are in the matrices: alpha is each layer's rank.
    let ranks: serde_json::Map<String, Value> = modules
        .iter()
        .filter_map(|module| {
            let r = state.get(&format!("{module}.lora_A.weight"))?.shape[0];
            (r != largest).then(|| (module.replace('.', "\\."), json!(r)))
        })
        .collect();
    let names: Vec<&String> = modules.iter().collect();
    let settings = json!({
        "r": largest, "alpha": largest, "target_modules": names, "exclude_modules": null, "layers": null,
        "rank_pattern": ranks, "alpha_pattern": ranks, "rank_stabilized": false,
    });
    let settings = settings.as_object().cloned().unwrap_or_default();
    let config = first.config.with(settings.clone())?;
    let mut file = first.file.clone();
    for field in config.kind.fields().iter().filter(|field| !field.peft.is_empty()) {
        if let Some(value) = settings.get(field.name) {
            file.insert(field.peft.to_string(), value.clone());
        }
    }
    Ok(Adapter { config, base: first.base.clone(), state, file, dir: first.dir.clone() })
}

/// The linear layers that a LoRA stands at.
fn modules_of(adapter: &Adapter) -> Result<Vec<String>> {
    let plain = adapter.config.adapter.low_rank().is_some_and(|settings| !settings.magnitudes);
    let other = adapter.state.keys().find(|name| !name.contains(".lora_A.weight") && !name.contains(".lora_B.weight"));
    if !plain || other.is_some() {
        let what = other.map_or_else(|| adapter.config.kind.peft_type().to_string(), |name| format!("`{name}`"));
        return Err(Error::usage(format!("only LoRA on linear layers can be combined, and an adapter has {what}"))
            .with_hint("merge adapters of other kinds into the model one after another"));
    }
    Ok(adapter.state.keys().filter_map(|name| name.strip_suffix(".lora_A.weight")).map(str::to_string).collect())
}

/// An adapter's matrices at a module, where it has some.
fn low_rank(adapter: &Adapter, module: &str) -> Result<Option<LowRank>> {
    let part = |side: &str| adapter.state.get(&format!("{module}.lora_{side}.weight"));
    let (Some(a), Some(b)) = (part("A"), part("B")) else { return Ok(None) };
    let Some(settings) = adapter.config.adapter.low_rank() else { return Ok(None) };
    let (r, scale) = settings.sizes(module)?;
    if a.shape.len() != 2 || b.shape.len() != 2 || a.shape[0] != r || b.shape[1] != r {
        let message =
            format!("{module} has matrices of {:?} and {:?}, but the adapter's rank is {r}", a.shape, b.shape);
        return Err(Error::failed(message));
    }
    Ok(Some(LowRank { a: a.to_f32()?, b: b.to_f32()?, r, scale }))
}
