//! A model as its settings and tensors, without building it: what exports start from.

use std::path::Path;

use burn::tensor::Device;
use cupola_artifact::{Error, HostTensor, Result, StateDict, read_weights};
use cupola_gguf::Gguf;
use cupola_gguf::models::{FromGguf, read_model};
use cupola_nn::{Module, scale_name};
use serde_json::{Map, Value};

use crate::Model;
use crate::model::{family, read_json};

/// Settings and tensors as Hugging Face's files have them, all of them floats.
#[derive(Clone, Debug)]
pub struct Parts {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// The tensors.
    pub state: StateDict,
}

/// Whether a path is a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) && path.is_file()
}

/// Settings and tensors out of a GGUF file.
pub(crate) fn read_gguf(path: &Path) -> Result<(Map<String, Value>, StateDict)> {
    let FromGguf { config, state } = read_model(&Gguf::open(path)?)?;
    Ok((config, state))
}

impl Parts {
    /// Reads a model folder or a GGUF file; adapters are merged and int8 weights widened.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn read(path: &Path, device: &Device) -> Result<Self> {
        if is_gguf(path) {
            let (config, state) = read_gguf(path)?;
            return Ok(Self { config, state });
        }
        let file = path.join("config.json");
        let config = if file.exists() { read_json(&file)? } else { Map::new() };
        let quantized = config.get("quantization_config").is_some_and(|q| !q.is_null());
        if config.is_empty() || quantized {
            return Self::of(Model::load(path, device)?);
        }
        let mut state = read_weights(path)?;
        if let Ok(family) = family(config.get("model_type").and_then(Value::as_str).unwrap_or_default()) {
            state = state.into_iter().filter_map(|(name, tensor)| Some((family.rename(&name)?, tensor))).collect();
        }
        Ok(Self { config, state })
    }

    /// Takes a model apart.
    fn of(mut model: Model) -> Result<Self> {
        model.merge_adapter()?;
        let state = widened(model.state())?;
        let mut config = model.config().clone();
        config.remove("quantization_config");
        Ok(Self { config, state: model.packed(state) })
    }
}

/// Int8 weights times their scales, each for a group of neighbours in a row.
fn widened(mut state: StateDict) -> Result<StateDict> {
    let quantized: Vec<String> = state.keys().filter(|name| state.contains_key(&scale_name(name))).cloned().collect();
    for name in quantized {
        let (Some(weight), Some(scales)) = (state.remove(&name), state.remove(&scale_name(&name))) else { continue };
        let (q, all) = (weight.to_i8()?, scales.to_f32()?);
        let (columns, groups) = (weight.shape.last().copied().unwrap_or(1), scales.shape.last().copied().unwrap_or(1));
        let size = columns.div_ceil(groups.max(1));
        if all.len() * columns != q.len() * groups || groups == 0 {
            return Err(Error::failed(format!("{name} is {:?}, but its scales are {:?}", weight.shape, scales.shape)));
        }
        let scale = |at: usize| all[at / columns * groups + at % columns / size];
        let values: Vec<f32> = q.iter().enumerate().map(|(at, q)| f32::from(*q) * scale(at)).collect();
        state.insert(name, HostTensor::from_f32(weight.shape, &values));
    }
    Ok(state)
}
