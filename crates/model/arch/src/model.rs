//! Model directories in Hugging Face's layout.

use std::path::Path;

use burn::tensor::Device;
use cupola_artifact::{Context, Error, Result, StateDict, read_weights, write_atomic, write_safetensors};
use cupola_nn::{Decoder, DecoderSpec};
use serde_json::{Map, Value, json};

use crate::ALL;
use crate::family::{ConfigJson, Family};
use crate::source::{Checkpoint, Fresh};

/// A decoder with the family it belongs to.
#[derive(Clone)]
pub struct Model {
    /// The decoder.
    pub decoder: Decoder,
    family: &'static dyn Family,
    int8_group: Option<usize>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("family", &self.family.model_type()).field("spec", self.decoder.spec()).finish()
    }
}

/// The family by its `model_type`.
///
/// # Errors
/// An unknown one; names those that are known.
pub fn family(model_type: &str) -> Result<&'static dyn Family> {
    ALL.iter().copied().find(|f| f.model_type() == model_type).ok_or_else(|| {
        let known: Vec<_> = ALL.iter().map(|f| f.model_type()).collect();
        Error::failed(format!("this build does not know the model type `{model_type}`"))
            .with_hint(format!("it knows: {}", known.join(", ")))
    })
}

/// Reads a JSON object from a file.
pub(crate) fn read_json(path: &Path) -> Result<Map<String, Value>> {
    let bytes =
        std::fs::read(path).context(|| format!("cannot read {}", path.display())).map_err(|e| match path.exists() {
            true => e,
            false => e.with_hint("a model directory has config.json, model.safetensors and tokenizer.json"),
        })?;
    serde_json::from_slice(&bytes).context(|| format!("{} is not a JSON object", path.display()))
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context(|| format!("cannot write {}", path.display()))?;
    text.push('\n');
    write_atomic(path, text.as_bytes())
}

fn int8_group(config: &Map<String, Value>) -> Result<Option<usize>> {
    let Some(quantization) = config.get("quantization_config").filter(|q| !q.is_null()) else { return Ok(None) };
    let (method, format) = (&quantization["quant_method"], &quantization["format"]);
    let weights = &quantization["config_groups"]["group_0"]["weights"];
    let group = weights["group_size"].as_u64().filter(|g| *g > 0);
    match (method.as_str(), format.as_str(), weights["num_bits"].as_u64(), group) {
        (Some("compressed-tensors"), Some("int-quantized"), Some(8), Some(group)) => Ok(Some(group as usize)),
        _ => Err(Error::failed(format!("config.json asks for quantization {method} in the format {format}"))
            .with_hint("this build reads compressed-tensors' int-quantized format with 8 bits in groups")),
    }
}

impl Model {
    /// Loads a directory: a model, or a PEFT adapter whose base is beside it or named by an absolute path.
    ///
    /// # Errors
    /// A missing or broken file, a setting that is not supported, a weight that does not fit.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        if dir.join("adapter_config.json").exists() && !dir.join("config.json").exists() {
            return crate::adapter::load(dir, device);
        }
        Self::load_base(dir, device).map_err(|e| e.wrap(format!("cannot load the model in {}", dir.display())))
    }

    fn load_base(dir: &Path, device: &Device) -> Result<Self> {
        let config = read_json(&dir.join("config.json"))?;
        let (family, spec) = Self::describe(&config)?;
        let group = int8_group(&config)?;
        let mut source = Checkpoint {
            family,
            state: unpacked(family, &spec, read_weights(dir)?)?,
            device: device.clone().without_autodiff(),
            group: group.unwrap_or(1),
        };
        let tied = spec.tie_embeddings;
        let decoder = Decoder::build(spec, &mut source)?;
        source.finish(tied)?;
        Ok(Self { decoder, family, int8_group: group })
    }

    fn describe(config: &Map<String, Value>) -> Result<(&'static dyn Family, DecoderSpec)> {
        let model_type = config
            .get("model_type")
            .and_then(Value::as_str)
            .ok_or_else(|| Error::failed("config.json does not say its `model_type`"))?;
        let family = family(model_type)?;
        Ok((family, family.read(&ConfigJson { values: config })?))
    }

    /// What `config.json` in a directory describes, without its weights.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn read_spec(dir: &Path) -> Result<DecoderSpec> {
        Ok(Self::describe(&read_json(&dir.join("config.json"))?)?.1)
    }

    /// A fresh model.
    ///
    /// # Errors
    /// Passes on those of the weights' source; a random one has none.
    pub fn fresh(family: &'static dyn Family, spec: DecoderSpec, seed: u64, device: &Device) -> Result<Self> {
        let device = device.clone().without_autodiff();
        let mut source = Fresh { family, seed, device, n_layers: spec.n_layers };
        Ok(Self { decoder: Decoder::build(spec, &mut source)?, family, int8_group: None })
    }

    /// The family it belongs to.
    pub fn family(&self) -> &'static dyn Family {
        self.family
    }

    /// Replaces the weights of its linear layers by int8 numbers, `group` columns to a scale.
    pub fn quantize_int8(&mut self, group: usize) {
        self.decoder.quantize_int8(group);
        self.int8_group = Some(group);
    }

    /// The same weights without a tape; shares the memory.
    #[must_use]
    pub fn frozen(&self) -> Self {
        Self { decoder: self.decoder.frozen(), ..self.clone() }
    }

    /// Writes `config.json`, `generation_config.json` and `model.safetensors`; adapters must have been merged.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).context(|| format!("cannot create {}", dir.display()))?;
        let spec = self.decoder.spec();
        let mut config = self.family.write(spec);
        if let Some(group) = self.int8_group {
            config.insert("quantization_config".into(), quantization_config(group, spec.tie_embeddings));
        }
        write_json(&dir.join("config.json"), &Value::Object(config))?;
        let generation = json!({"bos_token_id": spec.bos, "eos_token_id": spec.eos, "pad_token_id": spec.pad});
        write_json(&dir.join("generation_config.json"), &generation)?;
        let state = self.packed(self.decoder.state());
        write_safetensors(&dir.join("model.safetensors"), &state, &[("format", "pt")])
    }

    /// Tensors named and shaped as the decoder's parameters, as the family's files have them.
    pub fn packed(&self, mut state: StateDict) -> StateDict {
        self.family.fused(self.decoder.spec()).iter().for_each(|fused| fused.pack(&mut state));
        state
    }
}

/// A file's tensors as the decoder's parameters.
fn unpacked(family: &dyn Family, spec: &DecoderSpec, state: StateDict) -> Result<StateDict> {
    let mut state = state.into_iter().filter_map(|(name, tensor)| Some((family.rename(&name)?, tensor))).collect();
    family.fused(spec).iter().try_for_each(|fused| fused.unpack(&mut state))?;
    Ok(state)
}

fn quantization_config(group: usize, tied: bool) -> Value {
    let ignore: &[&str] = if tied { &["lm_head"] } else { &[] };
    json!({
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ignore,
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": true, "strategy": "group", "group_size": group, "dynamic": false},
            "input_activations": null,
            "output_activations": null,
        }},
    })
}
