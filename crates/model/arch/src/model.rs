//! Model directories in Hugging Face's layout.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use cupola_artifact::{Context, Error, Result, StateDict, read_weights, write_atomic, write_safetensors};
use cupola_nn::{Decoder, Encoder, EncoderDecoder, Module, Param, ParamMut, Piece};
use cupola_ops::Precision;
use serde_json::{Map, Value, json};

use crate::ALL;
use crate::adapters::{Adapted, base_of, is_adapter};
use crate::config::{ConfigJson, token_list};
use crate::family::{Family, Sizes};
use crate::names::Names;
use crate::network::{DECODER, Network, Spec, wrong_kind};
use crate::parts::{is_gguf, read_gguf};
use crate::source::{Checkpoint, Fresh, Headed};
use crate::tasks::{self, NewHead};

/// A network with the family it belongs to.
#[derive(Clone)]
pub struct Model {
    /// The network.
    pub network: Network,
    spec: Spec,
    family: &'static dyn Family,
    config: Map<String, Value>,
    stored: Stored,
    /// What stands beside its weights.
    pub(crate) adapted: Option<Adapted>,
    /// A small network that is trained beside it; its tables are this one's.
    generator: Option<Box<Model>>,
    /// What the rest of a text is worth, read off hidden states; in training by rewards only.
    value: Option<ValueHead>,
}

/// A number for each hidden state.
#[derive(Clone, Debug)]
struct ValueHead {
    /// `[1, D]`.
    weight: Param<2>,
    /// `[1]`.
    bias: Param<1>,
}

/// How the weights of linear layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    /// As floats.
    Whole,
    /// As int8 numbers, so many columns to a scale.
    Int8(usize),
    /// In four bits, those inside blocks.
    Nf4,
}

/// What stands before the names of a generator's weights.
const GENERATOR: &str = "generator.";

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

fn stored(config: &Map<String, Value>) -> Result<Stored> {
    let Some(quantization) = config.get("quantization_config").filter(|q| !q.is_null()) else {
        return Ok(Stored::Whole);
    };
    if quantization["quant_method"] == "bitsandbytes" && quantization["load_in_4bit"] == true {
        let (kind, double) = (&quantization["bnb_4bit_quant_type"], &quantization["bnb_4bit_use_double_quant"]);
        if kind == "nf4" && double == true {
            return Ok(Stored::Nf4);
        }
        return Err(Error::failed(format!(
            "config.json asks for bitsandbytes' {kind} with double quantization {double}"
        ))
        .with_hint("this build reads nf4 with double quantization"));
    }
    let (method, format) = (&quantization["quant_method"], &quantization["format"]);
    let weights = &quantization["config_groups"]["group_0"]["weights"];
    let group = weights["group_size"].as_u64().filter(|g| *g > 0);
    match (method.as_str(), format.as_str(), weights["num_bits"].as_u64(), group) {
        (Some("compressed-tensors"), Some("int-quantized"), Some(8), Some(group)) => Ok(Stored::Int8(group as usize)),
        _ => Err(Error::failed(format!("config.json asks for quantization {method} in the format {format}"))
            .with_hint(
                "this build reads compressed-tensors' int-quantized format with 8 bits in groups, and bitsandbytes' nf4",
            )),
    }
}

impl Model {
    /// Loads a directory: a model, or a PEFT adapter whose base is beside it or named by an absolute path. Loads a GGUF file
    /// as well, whose block formats become floats.
    ///
    /// # Errors
    /// A missing or broken file, a setting that is not supported, a weight that does not fit.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        if is_adapter(dir) {
            return crate::adapters::load(dir, device);
        }
        Self::load_base(dir, device).map_err(|e| e.wrap(format!("cannot load the model in {}", dir.display())))
    }

    fn load_base(dir: &Path, device: &Device) -> Result<Self> {
        let (config, state) = match is_gguf(dir) {
            true => read_gguf(dir)?,
            false => (read_json(&dir.join("config.json"))?, read_weights(dir)?),
        };
        let (family, spec) = describe(&config)?;
        let stored = stored(&config)?;
        let names = Names(family.names());
        let spec = family.settled(spec, &|name| state.contains_key(name));
        let mut source = Checkpoint {
            names,
            state: unpacked(family, &spec, state)?,
            device: device.clone().without_autodiff(),
            group: if let Stored::Int8(group) = stored { group } else { 1 },
        };
        let network = spec.build(&mut source)?;
        // Files of tied models may have the output layer nevertheless.
        let head = if spec.tie_embeddings() { names.in_file("head.weight").ok() } else { None };
        source.finish(|name| head.as_deref() == Some(name) || tasks::is_other_head(&spec, names, name))?;
        Ok(Self { network, spec, family, config, stored, adapted: None, generator: None, value: None })
    }

    /// Loads a directory's network with a head of another kind: the weights of the head that are not there are drawn at
    /// random, and those of the head that it had are left out.
    ///
    /// # Errors
    /// As [`Self::load`]; a family that has no such head; an adapter's directory.
    pub fn load_with_head(dir: &Path, head: &NewHead, seed: u64, device: &Device) -> Result<Self> {
        if is_adapter(dir) {
            return Err(Error::usage(format!("{} holds an adapter, on which no head can stand", dir.display()))
                .with_hint("name a model directory: the adapter's base, or what the adapter was merged into"));
        }
        let load = || -> Result<Self> {
            let (mut config, state) = match is_gguf(dir) {
                true => read_gguf(dir)?,
                false => (read_json(&dir.join("config.json"))?, read_weights(dir)?),
            };
            let stored = stored(&config)?;
            head.write(describe(&config)?.0.architecture(), &mut config)?;
            let (family, spec) = describe(&config)?;
            if !matches!(spec, Spec::Encoder(_)) {
                return Err(head.refused(family.architecture()));
            }
            let names = Names(family.names());
            let device = device.clone().without_autodiff();
            let fresh = Fresh { names, seed, device: device.clone(), writers: spec.writers(), before: "" };
            let state = unpacked(family, &spec, state)?;
            let group = if let Stored::Int8(group) = stored { group } else { 1 };
            let checkpoint = Checkpoint { names, state, device, group };
            let mut source = Headed { checkpoint, fresh, scopes: &tasks::HEAD_SCOPES };
            let network = spec.build(&mut source)?;
            let word_head = names.in_file("head.weight").ok();
            source
                .checkpoint
                .finish(|name| word_head.as_deref() == Some(name) || tasks::is_other_head(&spec, names, name))?;
            Ok(Self { network, spec, family, config, stored, adapted: None, generator: None, value: None })
        };
        load().map_err(|e| e.wrap(format!("cannot put a head on the model in {}", dir.display())))
    }

    /// What `config.json` in a directory describes, without its weights.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn read_spec(dir: &Path) -> Result<Spec> {
        Ok(Self::read_family(dir)?.1)
    }

    /// The same with the family that it belongs to.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn read_family(dir: &Path) -> Result<(&'static dyn Family, Spec)> {
        let config = match is_adapter(dir) {
            true => read_json(&base_of(dir)?.join("config.json"))?,
            false if is_gguf(dir) => read_gguf(dir)?.0,
            false => read_json(&dir.join("config.json"))?,
        };
        describe(&config)
    }

    /// A fresh model.
    ///
    /// # Errors
    /// Sizes that the family cannot have.
    pub fn fresh(family: &'static dyn Family, sizes: &Sizes, seed: u64, device: &Device) -> Result<Self> {
        let (config, spec) = plan(family, sizes)?;
        let device = device.clone().without_autodiff();
        let generator = family.generator(&config).map(|config| -> Result<_> {
            let spec = describe(&config)?.1;
            let mut model = Self::drawn((family, config, spec), seed, &device, GENERATOR)?;
            if let Network::Encoder(encoder) = &mut model.network {
                encoder.share_tables(None);
            }
            Ok(Box::new(model))
        });
        let generator = generator.transpose()?;
        Ok(Self { generator, ..Self::drawn((family, config, spec), seed, &device, "")? })
    }

    fn drawn(
        (family, config, spec): (&'static dyn Family, Map<String, Value>, Spec),
        seed: u64,
        device: &Device,
        before: &'static str,
    ) -> Result<Self> {
        let (names, device) = (Names(family.names()), device.clone());
        let network = spec.build(&mut Fresh { names, seed, device, writers: spec.writers(), before })?;
        Ok(Self { network, spec, family, config, stored: Stored::Whole, adapted: None, generator: None, value: None })
    }

    /// What the small network beside a fresh model would be made of, where there is one.
    ///
    /// # Errors
    /// As [`Self::fresh`].
    pub fn generator_spec(family: &'static dyn Family, sizes: &Sizes) -> Result<Option<Spec>> {
        let config = family.generator(&plan(family, sizes)?.0);
        config.map(|config| Ok(describe(&config)?.1)).transpose()
    }

    /// The small network that is trained beside it, with the tables that it shares.
    ///
    /// # Errors
    /// Networks that are no encoders.
    pub fn generator(&self) -> Result<Option<Encoder>> {
        let Some(model) = &self.generator else { return Ok(None) };
        let mut encoder = model.encoder()?.clone();
        encoder.share_tables(Some(self.encoder()?));
        encoder.set_precision(self.network.precision());
        Ok(Some(encoder))
    }

    /// What a fresh model would be made of.
    ///
    /// # Errors
    /// As [`Self::fresh`].
    pub fn fresh_spec(family: &'static dyn Family, sizes: &Sizes) -> Result<Spec> {
        Ok(plan(family, sizes)?.1)
    }

    /// Trains an encoder's head from now on, whatever else is trained: one that was drawn at random has to be.
    pub fn train_head(&mut self) {
        let Network::Encoder(encoder) = &mut self.network else { return };
        let names: Vec<String> = encoder.head_params().iter().map(|p| p.name().to_owned()).collect();
        self.set_trainable(|p| p.trainable() || names.iter().any(|name| name == p.name()));
    }

    /// Gives it a head that tells what the rest of a text is worth, 0 at first. It is trained with the model and not saved.
    ///
    /// # Errors
    /// A model that is no decoder.
    pub fn add_value_head(&mut self) -> Result<()> {
        let (width, device) = (self.decoder()?.spec().stack.embedding.width, self.network.device().without_autodiff());
        self.value = Some(ValueHead {
            weight: Param::new("value_head.weight", Tensor::zeros([1, width], &device)),
            bias: Param::new("value_head.bias", Tensor::zeros([1], &device)),
        });
        Ok(())
    }

    /// What the rest of a text is worth after each of its tokens, `[N]`, from their hidden states `[N, D]`.
    ///
    /// # Errors
    /// A model without such a head.
    pub fn values(&self, hidden: Tensor<2>) -> Result<Tensor<1>> {
        let head = self.value.as_ref().ok_or_else(|| Error::failed("the model has no value head"))?;
        let [n, _] = hidden.dims();
        Ok(cupola_ops::linear(hidden, head.weight.value(), Some(head.bias.value()), Precision::F32).reshape([n]))
    }

    /// The family it belongs to.
    pub fn family(&self) -> &'static dyn Family {
        self.family
    }

    /// What `config.json` says of it.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
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
            _ => Err(wrong_kind(DECODER, self.spec.kind())),
        }
    }

    /// The encoder that it is.
    ///
    /// # Errors
    /// A model of another kind.
    pub fn encoder(&self) -> Result<&Encoder> {
        match &self.network {
            Network::Encoder(encoder) => Ok(encoder),
            _ => Err(wrong_kind("an encoder", self.spec.kind())),
        }
    }

    /// The encoder-decoder that it is.
    ///
    /// # Errors
    /// A model of another kind.
    pub fn encoder_decoder(&self) -> Result<&EncoderDecoder> {
        match &self.network {
            Network::EncoderDecoder(network) => Ok(network),
            _ => Err(wrong_kind("an encoder-decoder", self.spec.kind())),
        }
    }

    /// The decoder that it is, to change it.
    ///
    /// # Errors
    /// A model of another kind.
    pub fn decoder_mut(&mut self) -> Result<&mut Decoder> {
        match &mut self.network {
            Network::Decoder(decoder) => Ok(decoder),
            _ => Err(wrong_kind(DECODER, self.spec.kind())),
        }
    }

    /// Replaces the weights of its linear layers by int8 numbers, `group` columns to a scale.
    pub fn quantize_int8(&mut self, group: usize) {
        self.network.quantize_int8(group);
        self.stored = Stored::Int8(group);
    }

    /// Replaces the weights of the linear layers inside its blocks by four-bit numbers.
    pub fn quantize_nf4(&mut self) {
        self.network.quantize_nf4();
        self.stored = Stored::Nf4;
    }

    /// Puts floats in the place of quantized weights.
    pub fn dequantize(&mut self) {
        self.network.dequantize();
        self.stored = Stored::Whole;
    }

    /// Whether weights of its are quantized, and cannot be trained themselves.
    pub fn is_quantized(&self) -> bool {
        self.stored != Stored::Whole
    }

    /// Whether they are in four bits, beside which adapters can be trained.
    pub fn is_nf4(&self) -> bool {
        self.stored == Stored::Nf4
    }

    /// Lowers the longest sequence that its spec tells.
    pub(crate) fn shorten(&mut self, tokens: usize) {
        match &mut self.spec {
            Spec::Decoder(spec) => spec.stack.max_seq_len -= tokens,
            Spec::Encoder(spec) => spec.stack.max_seq_len -= tokens,
            Spec::EncoderDecoder(_) => {}
        }
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
        let mut layers = self.spec.stack().blocks.iter().flat_map(|block| &block.layers);
        if on && layers.any(|(_, layer)| !layer.kind().stands_alone()) {
            let family = self.family.model_type();
            return Err(Error::usage(format!(
                "`activation_checkpointing` is not for `{family}`, whose blocks share weights"
            ))
            .with_hint("leave it out, or choose a smaller `micro_batch`"));
        }
        self.network.set_recompute(on);
        Ok(())
    }

    /// The same weights without a tape and without checkpointing, for evaluation and generation; shares the memory.
    #[must_use]
    pub fn frozen(&self) -> Self {
        let mut copy = self.clone();
        copy.set_trainable(|_| false);
        copy.network.set_recompute(false);
        copy
    }

    /// Writes `config.json`, `generation_config.json` and `model.safetensors`, and the same of a generator into a folder of
    /// that name; adapters must have been merged.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.write(dir, self.network.state())?;
        let (Some(model), Some(encoder)) = (&self.generator, self.generator()?) else { return Ok(()) };
        let own = |name: String| name.strip_prefix(GENERATOR).map(str::to_string).unwrap_or(name);
        model.write(&dir.join("generator"), encoder.state().into_iter().map(|(name, t)| (own(name), t)).collect())
    }

    fn write(&self, dir: &Path, state: StateDict) -> Result<()> {
        std::fs::create_dir_all(dir).context(|| format!("cannot create {}", dir.display()))?;
        let mut config = self.config.clone();
        let quantization = match self.stored {
            Stored::Whole => None,
            Stored::Int8(group) => Some(quantization_config(group, self.spec.tie_embeddings())),
            Stored::Nf4 => Some(nf4_config()),
        };
        config.extend(quantization.map(|quantization| ("quantization_config".to_string(), quantization)));
        write_json(&dir.join("config.json"), &Value::Object(config))?;
        let (bos, eos, pad) = self.spec.special();
        let mut generation = json!({"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad});
        if let Some(start) = self.spec.start() {
            generation["decoder_start_token_id"] = json!(start);
        }
        write_json(&dir.join("generation_config.json"), &generation)?;
        let state = self.packed(state);
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
        if let Some(value) = &mut self.value {
            out.push(Piece::Param(ParamMut::Matrix(&mut value.weight)));
            out.push(Piece::Param(ParamMut::Vector(&mut value.bias)));
        }
        if let Some(generator) = &mut self.generator {
            let mut beside = vec![];
            generator.network.pieces(&mut beside);
            // The tables are this network's.
            out.extend(beside.into_iter().filter(|piece| !matches!(piece, Piece::Param(ParamMut::Table(_)))));
        }
    }
}

/// What a configuration describes.
fn describe(config: &Map<String, Value>) -> Result<(&'static dyn Family, Spec)> {
    let model_type = config
        .get("model_type")
        .and_then(Value::as_str)
        .ok_or_else(|| Error::failed("config.json does not say its `model_type`"))?;
    let family = family(model_type)?;
    let config = ConfigJson { values: config };
    Ok((family, tasks::on_decoder(&config, family.read(&config)?)?))
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
    // Families whose output layer always is the embedding say so themselves.
    config.entry("tie_word_embeddings").or_insert(json!(sizes.tie_embeddings));
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

/// What transformers wants to know of weights that bitsandbytes holds in four bits.
fn nf4_config() -> Value {
    json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": true,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
    })
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
