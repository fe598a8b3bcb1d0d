//! Model directories in Hugging Face's layout.

use std::path::Path;

use burn::tensor::Device;
use cupola_artifact::{Context, Error, Result, StateDict, read_weights, write_atomic, write_safetensors};
use cupola_nn::{Decoder, Module, Piece};
use serde_json::{Map, Value, json};

use crate::ALL;
use crate::config::{ConfigJson, token_list};
use crate::family::{Family, Sizes};
use crate::names::Names;
use crate::network::{Network, Spec};
use crate::source::{Checkpoint, Fresh};

/// A network with the family it belongs to.
#[derive(Clone)]
pub struct Model {
    /// The network.
    pub network: Network,
    spec: Spec,
    family: &'static dyn Family,
    config: Map<String, Value>,
    int8_group: Option<usize>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("family", &self.family.model_type()).field("spec", &self.spec).finish()
    }
}

/// The family by its `model_type`.
///
/// # Errors
/// An unknown one; names those that are known.
pub fn family(model_type: &str) -> Result<&'static dyn Family> {
    ALL.iter().copied().find(|f| f.model_type() == model_type).ok_or_else(|| {
        let known: Vec<_> = ALL.iter().map(|f| f.model_type()).collect();
        let nearest = cupola_artifact::nearest(model_type, known.iter().copied());
        let nearest = nearest.map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
        Error::failed(format!("this build does not know the model type `{model_type}`"))
            .with_hint(format!("{nearest}it knows: {}", known.join(", ")))
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
        let (family, spec) = describe(&config)?;
        let group = int8_group(&config)?;
        let names = Names(family.names());
        let mut source = Checkpoint {
            names,
            state: unpacked(family, &spec, read_weights(dir)?)?,
            device: device.clone().without_autodiff(),
            group: group.unwrap_or(1),
        };
        let network = spec.build(&mut source)?;
        // Files of tied models may have the output layer nevertheless.
        let head = if spec.tie_embeddings() { names.in_file("head.weight").ok() } else { None };
        source.finish(|name| head.as_deref() == Some(name))?;
        Ok(Self { network, spec, family, config, int8_group: group })
    }

    /// What `config.json` in a directory describes, without its weights.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn read_spec(dir: &Path) -> Result<Spec> {
        Ok(describe(&read_json(&dir.join("config.json"))?)?.1)
    }

    /// A fresh model.
    ///
    /// # Errors
    /// Sizes that the family cannot have.
    pub fn fresh(family: &'static dyn Family, sizes: &Sizes, seed: u64, device: &Device) -> Result<Self> {
        let (config, spec) = plan(family, sizes)?;
        let device = device.clone().without_autodiff();
        let names = Names(family.names());
        let network = spec.build(&mut Fresh { names, seed, device, writers: spec.writers() })?;
        Ok(Self { network, spec, family, config, int8_group: None })
    }

    /// What a fresh model would be made of.
    ///
    /// # Errors
    /// As [`Self::fresh`].
    pub fn fresh_spec(family: &'static dyn Family, sizes: &Sizes) -> Result<Spec> {
        Ok(plan(family, sizes)?.1)
    }

    /// The family it belongs to.
    pub fn family(&self) -> &'static dyn Family {
        self.family
    }

    /// The numbers that make it.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The decoder that it is.
    ///
    /// # Errors
    /// A model of another kind.
    pub fn decoder(&self) -> Result<&Decoder> {
        match &self.network {
            Network::Decoder(decoder) => Ok(decoder),
        }
    }

    /// The decoder that it is, to change it.
    ///
    /// # Errors
    /// A model of another kind.
    pub fn decoder_mut(&mut self) -> Result<&mut Decoder> {
        match &mut self.network {
            Network::Decoder(decoder) => Ok(decoder),
        }
    }

    /// Replaces the weights of its linear layers by int8 numbers, `group` columns to a scale.
    pub fn quantize_int8(&mut self, group: usize) {
        self.network.quantize_int8(group);
        self.int8_group = Some(group);
    }

    /// Turns activation checkpointing on or off.
    ///
    /// # Errors
    /// On other devices than the CPU, which lack it.
    pub fn set_recompute(&mut self, on: bool) -> Result<()> {
        if on && !cupola_ops::is_host(&self.network.device()) {
            return Err(Error::usage("`activation_checkpointing` works on the CPU only")
                .with_hint("leave it out, or use `--device cpu`"));
        }
        self.network.set_recompute(on);
        Ok(())
    }

    /// The same weights without a tape and without checkpointing, for evaluation and generation; shares the memory.
    #[must_use]
    pub fn frozen(&self) -> Self {
        let mut copy = self.clone();
        copy.network.set_trainable(|_| false);
        copy.network.set_recompute(false);
        copy
    }

    /// Writes `config.json`, `generation_config.json` and `model.safetensors`; adapters must have been merged.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).context(|| format!("cannot create {}", dir.display()))?;
        let mut config = self.config.clone();
        if let Some(group) = self.int8_group {
            config.insert("quantization_config".into(), quantization_config(group, self.spec.tie_embeddings()));
        }
        write_json(&dir.join("config.json"), &Value::Object(config))?;
        let (bos, eos, pad) = self.spec.special();
        let generation = json!({"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad});
        write_json(&dir.join("generation_config.json"), &generation)?;
        let state = self.packed(self.network.state());
        write_safetensors(&dir.join("model.safetensors"), &state, &[("format", "pt")])
    }

    /// Tensors named and shaped as the model's parameters, as the family's files have them.
    pub fn packed(&self, mut state: StateDict) -> StateDict {
        // What was taken apart last is put together first.
        self.family.rearrangements(&self.spec).iter().rev().for_each(|r| r.pack(&mut state));
        state
    }
}

impl Module for Model {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        self.network.pieces(out);
    }
}

/// What a configuration describes.
fn describe(config: &Map<String, Value>) -> Result<(&'static dyn Family, Spec)> {
    let model_type = config
        .get("model_type")
        .and_then(Value::as_str)
        .ok_or_else(|| Error::failed("config.json does not say its `model_type`"))?;
    let family = family(model_type)?;
    Ok((family, family.read(&ConfigJson { values: config })?))
}

/// The configuration of a fresh model, and what it describes.
fn plan(family: &'static dyn Family, sizes: &Sizes) -> Result<(Map<String, Value>, Spec)> {
    let mut config = Map::new();
    config.insert("architectures".into(), json!([family.architecture()]));
    config.insert("model_type".into(), json!(family.model_type()));
    config.insert("vocab_size".into(), json!(sizes.vocab_size));
    config.extend(family.fresh(sizes));
    let known = family.settings();
    if let Some(key) = sizes.settings.keys().find(|key| !known.contains(&key.as_str())) {
        let what = format!("the family `{}` has no setting `{key}`", family.model_type());
        return Err(cupola_artifact::unknown_name(&what, key, "setting", known));
    }
    config.extend(sizes.settings.clone());
    config.insert("tie_word_embeddings".into(), json!(sizes.tie_embeddings));
    config.insert("bos_token_id".into(), json!(sizes.bos));
    config.insert("eos_token_id".into(), token_list(&sizes.eos));
    config.insert("pad_token_id".into(), json!(sizes.pad));
    for (key, value) in
        [("initializer_range", json!(0.02)), ("torch_dtype", json!("float32")), ("use_cache", json!(true))]
    {
        config.insert(key.into(), value);
    }
    let spec = family.read(&ConfigJson { values: &config })?;
    Ok((config, spec))
}

/// A file's tensors as the model's parameters.
fn unpacked(family: &dyn Family, spec: &Spec, state: StateDict) -> Result<StateDict> {
    let mut state = state.into_iter().filter_map(|(name, tensor)| Some((family.rename(&name)?, tensor))).collect();
    family.rearrangements(spec).iter().try_for_each(|r| r.unpack(&mut state))?;
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
