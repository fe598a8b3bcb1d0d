//! Adapters on models, and as folders in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

mod combined;
mod on_network;
mod peft;
mod sources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use cupola_artifact::{Context, Error, HostTensor, Result, StateDict, read_safetensors, write_safetensors};
use cupola_nn::adapters::{AdapterConfig, Stands};
use cupola_nn::{Count, Module, ParamMut, Piece, Place};
use serde_json::{Map, Value, json};

use crate::Model;
use crate::family::Family;
use crate::model::{read_json, write_json};
use crate::network::{Network, Spec};

pub use combined::combine_adapters;
use on_network::{Site, attach};
use sources::{AdapterFile, FreshAdapter, Shapes};

/// What PEFT puts before each name.
const PREFIX: &str = "base_model.model.";
/// What vectors and keys before the text are called.
const VIRTUAL: &str = "prompt_embeddings";

/// An adapter that a model has.
#[derive(Clone, Debug)]
pub struct Adapted {
    /// Its kind and settings, all names resolved.
    pub config: AdapterConfig,
    /// Parameters of the model itself that belong to it: what each is called in its file, and whether it is trained.
    own: BTreeMap<String, (String, bool)>,
    /// What its folder said, where it came from one.
    file: Option<Map<String, Value>>,
}

/// An adapter as a folder holds it; a model can have many at hand and put on one or another.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Its kind and settings.
    pub config: AdapterConfig,
    /// The folder of its base, relative to its own or absolute.
    pub base: String,
    /// Its weights by name, without PEFT's prefix.
    pub state: StateDict,
    file: Map<String, Value>,
    dir: PathBuf,
}

impl Adapter {
    /// Reads a folder.
    ///
    /// # Errors
    /// A missing or broken file; a kind or a setting that is not supported.
    pub fn read(dir: &Path) -> Result<Self> {
        let file = read_json(&dir.join("adapter_config.json"))?;
        let config = peft::read(&file).map_err(|e| e.wrap(format!("cannot use the adapter in {}", dir.display())))?;
        let base = file.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default().to_string();
        let path = dir.join("adapter_model.safetensors");
        let state = read_safetensors(&path).map_err(|e| match path.exists() {
            true => e,
            false => e.with_hint("an adapter's directory has adapter_config.json and adapter_model.safetensors"),
        })?;
        let bare = |name: String| name.strip_prefix(PREFIX).map(str::to_string).unwrap_or(name);
        let state = state.into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
        Ok(Self { config, base, state, file, dir: dir.to_path_buf() })
    }

    /// Where its base is.
    ///
    /// # Errors
    /// A base that is not there.
    pub fn base_dir(&self) -> Result<PathBuf> {
        base_path(&self.dir, &self.file)
    }

    /// Writes a folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).context(|| format!("cannot create {}", dir.display()))?;
        let mut file = self.file.clone();
        file.insert("base_model_name_or_path".into(), json!(self.base));
        write_json(&dir.join("adapter_config.json"), &Value::Object(file))?;
        let named = |name: &String| if name == VIRTUAL { name.clone() } else { format!("{PREFIX}{name}") };
        let state: StateDict = self.state.iter().map(|(name, tensor)| (named(name), tensor.clone())).collect();
        write_safetensors(&dir.join("adapter_model.safetensors"), &state, &[("format", "pt")])
    }
}

/// Whether a directory holds an adapter and no model.
pub(crate) fn is_adapter(dir: &Path) -> bool {
    dir.join("adapter_config.json").exists() && !dir.join("config.json").exists()
}

/// Loads an adapter onto its base, which `base_model_name_or_path` names relative to the adapter's directory.
pub(crate) fn load(dir: &Path, device: &Device) -> Result<Model> {
    let adapter = Adapter::read(dir)?;
    let mut model = Model::load(&adapter.base_dir()?, device)?;
    model.put_on(&adapter)?;
    Ok(model)
}

/// The directory of an adapter's base.
pub(crate) fn base_of(dir: &Path) -> Result<PathBuf> {
    base_path(dir, &read_json(&dir.join("adapter_config.json"))?)
}

fn base_path(dir: &Path, config: &Map<String, Value>) -> Result<PathBuf> {
    let base = config.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default();
    let path = dir.join(base);
    if base.is_empty() || !path.join("config.json").exists() {
        return Err(Error::failed(format!(
            "the adapter in {} belongs to the base model `{base}`, which is not there",
            dir.display()
        ))
        .with_hint("set base_model_name_or_path in adapter_config.json to the base model's directory"));
    }
    Ok(path)
}

impl Model {
    /// Gives the model a fresh adapter; gives back how many numbers are to be trained. [`Self::is_adapters`] tells which.
    ///
    /// # Errors
    /// Modules that the model does not have, or that this kind cannot stand at; a model that has an adapter already.
    pub fn adapt(&mut self, config: &AdapterConfig, seed: u64) -> Result<u64> {
        let mut source = FreshAdapter { seed, device: self.network.device().without_autodiff() };
        self.attach(config, &mut source, None, seed)?;
        let own = self.adapted.as_ref().map(|adapted| adapted.own.clone()).unwrap_or_default();
        let trained = |name: &str| own.get(name).is_some_and(|(_, trained)| *trained);
        let params = self.network.params_mut();
        let of_model: usize = params.iter().filter(|p| trained(p.name())).map(ParamMut::numel).sum();
        drop(params);
        let added: usize = self.network.adapter_params_mut().iter().map(ParamMut::numel).sum();
        Ok((of_model + added) as u64)
    }

    /// Puts an adapter of a folder on.
    ///
    /// # Errors
    /// An adapter of another base; a model that has an adapter already.
    pub fn put_on(&mut self, adapter: &Adapter) -> Result<()> {
        let device = self.network.device().without_autodiff();
        let mut source = AdapterFile { state: adapter.state.clone(), device, dir: adapter.dir.clone() };
        self.attach(&adapter.config, &mut source, Some(adapter.file.clone()), 0)?;
        source.finish()
    }

    /// The same model with an adapter; both share the memory of everything else.
    ///
    /// # Errors
    /// As [`Self::put_on`].
    pub fn with_adapter(&self, adapter: &Adapter) -> Result<Self> {
        let mut model = self.clone();
        model.put_on(adapter)?;
        Ok(model)
    }

    fn attach(
        &mut self,
        config: &AdapterConfig,
        source: &mut dyn cupola_nn::WeightSource,
        file: Option<Map<String, Value>>,
        seed: u64,
    ) -> Result<()> {
        if self.adapted.is_some() {
            return Err(Error::failed("the model has an adapter already")
                .with_hint("merge it first, or put the other on the model without it"));
        }
        let (family, spec) = (self.family(), self.spec().clone());
        let site = Site::new(family, &spec, None);
        let config = site.resolved(&mut self.network, config)?;
        let own = attach(&mut self.network, &site, &config, source, seed)?;
        self.take_room(&config)?;
        self.adapted = Some(Adapted { config, own, file });
        Ok(())
    }

    /// What stands before a text takes room in the context.
    fn take_room(&mut self, config: &AdapterConfig) -> Result<()> {
        let tokens = virtual_tokens(config);
        let limit = self.spec().stack().max_seq_len;
        if tokens > 0 && tokens + 2 > limit {
            return Err(Error::usage(format!("{tokens} virtual tokens leave no room in a context of {limit}"))
                .with_hint("choose fewer `tokens`"));
        }
        match &mut self.network {
            Network::Decoder(decoder) => decoder.take_room(tokens),
            Network::Encoder(encoder) => encoder.take_room(tokens),
            Network::EncoderDecoder(_) => {}
        }
        self.shorten(tokens);
        Ok(())
    }

    /// The adapter that it has.
    pub fn adapted(&self) -> Option<&Adapted> {
        self.adapted.as_ref()
    }

    /// Changes settings of its adapter that say how it was trained and not what it is.
    ///
    /// # Errors
    /// A setting that the kind does not have.
    pub fn retell_adapter(&mut self, settings: Map<String, Value>) -> Result<()> {
        if let Some(adapted) = &mut self.adapted {
            adapted.config = adapted.config.with(settings)?;
        }
        Ok(())
    }

    /// The names of the parameters that belong to its adapter and are trained with it.
    pub fn adapter_names(&mut self) -> Vec<String> {
        let own = self.adapted.iter().flat_map(|adapted| &adapted.own).filter(|(_, (_, trained))| *trained);
        let mut names: Vec<String> = own.map(|(name, _)| name.clone()).collect();
        names.extend(self.network.adapter_params_mut().iter().map(|p| p.name().to_string()));
        names
    }

    /// Whether its adapter can be merged into its weights.
    pub fn is_mergeable(&self) -> bool {
        self.adapted.as_ref().is_none_or(|adapted| mergeable(&adapted.config))
    }

    /// Merges its adapter into its weights; without one nothing happens.
    ///
    /// # Errors
    /// A kind that is more than other weights, and weights that are quantized.
    pub fn merge_adapter(&mut self) -> Result<()> {
        let Some(adapted) = &self.adapted else { return Ok(()) };
        if !mergeable(&adapted.config) {
            let kind = adapted.config.kind.name();
            return Err(Error::failed(format!(
                "an adapter of the kind `{kind}` cannot be merged: it is more than other weights"
            ))
            .with_hint("use the adapter's own directory as the model, with its base beside it"));
        }
        self.network.merge_adapters()?;
        self.adapted = None;
        Ok(())
    }

    /// Its adapter as a folder holds it; `base` is its base model's directory, absolute or relative to the folder.
    ///
    /// # Errors
    /// A model without an adapter.
    pub fn adapter(&self, base: &str) -> Result<Adapter> {
        let Some(adapted) = &self.adapted else { return Err(Error::failed("the model has no adapter to save")) };
        let mut copy = self.network.clone();
        let mut state: StateDict =
            copy.adapter_params_mut().iter().map(|p| (p.name().to_string(), p.to_host())).collect();
        if let Some(made) = made_before_text(&mut copy) {
            state = [(VIRTUAL.to_string(), made)].into();
        }
        for param in copy.params_mut() {
            if let Some((file, _)) = adapted.own.get(param.name()) {
                state.insert(file.clone(), param.to_host());
            }
        }
        let mut config = adapted.config.clone();
        if let Some(pattern) = kept_ranks(&mut copy, &mut state)? {
            config = config.with([("rank_pattern".to_string(), json!(pattern))].into_iter().collect())?;
        }
        let mut file = peft::write(&config, self.family(), self.spec());
        // What else a folder said stays.
        for (key, value) in adapted.file.iter().flatten() {
            if !file.contains_key(key) {
                file.insert(key.clone(), value.clone());
            }
        }
        Ok(Adapter { config, base: base.to_string(), state, file, dir: PathBuf::new() })
    }
}

/// Writes a model's adapter; `base` is its base model's directory, absolute or relative to `dir`.
///
/// # Errors
/// A model without an adapter; a file that cannot be written.
pub fn save_adapter(model: &Model, base: &str, dir: &Path) -> Result<()> {
    model.adapter(base)?.write(dir)
}

/// How many numbers an adapter trains on a model that is not built, exactly.
///
/// # Errors
/// As [`Model::adapt`].
pub fn adapter_parameters(family: &'static dyn Family, spec: &Spec, config: &AdapterConfig) -> Result<u64> {
    let mut shapes = Shapes { names: crate::names::Names(family.names()), shapes: BTreeMap::new() };
    let mut network = spec.build(&mut shapes)?;
    let (site, mut count) = (Site::new(family, spec, Some(shapes.shapes)), Count::default());
    let config = site.resolved(&mut network, config)?;
    attach(&mut network, &site, &config, &mut count, 0)?;
    Ok(count.parameters)
}

/// How many tokens of the context an adapter stands for.
pub fn virtual_tokens(config: &AdapterConfig) -> usize {
    match config.adapter.stands() {
        Stands::Prompt(prompt) => prompt.tokens,
        Stands::Prefix(prefix) => prefix.tokens,
        _ => 0,
    }
}

/// Whether an adapter is other weights and nothing more.
pub fn mergeable(config: &AdapterConfig) -> bool {
    matches!(config.adapter.stands(), Stands::Linears(_) | Stands::Norms(_))
}

/// What a network has made of vectors or keys before the text.
fn made_before_text(network: &mut Network) -> Option<HostTensor> {
    let mut pieces = vec![];
    network.pieces(&mut pieces);
    pieces.into_iter().find_map(|piece| match piece {
        Piece::Place(Place::Text(Some(before))) => {
            let saved = before.saved();
            Some(HostTensor::from_f32(saved.dims().to_vec(), &cupola_ops::to_vec(&saved)))
        }
        _ => None,
    })
}

/// Leaves out what the ranks of training have left of no use; gives which of each layer's triplets stayed, where some did not.
fn kept_ranks(network: &mut Network, state: &mut StateDict) -> Result<Option<BTreeMap<String, Vec<bool>>>> {
    let mut pattern = BTreeMap::new();
    let mut ranked = network.ranked();
    if ranked.iter().all(|adapter| adapter.kept.iter().all(|kept| *kept)) {
        return Ok(None);
    }
    for adapter in &mut ranked {
        let [rows, cols] = [&adapter.a, &adapter.b].map(|p| p.name().to_string());
        for name in [&rows, &adapter.e.name().to_string(), &cols] {
            let Some(tensor) = state.get_mut(name) else { continue };
            let (numbers, [height, width]) = (tensor.to_f32()?, [tensor.shape[0], tensor.shape[1]]);
            let by_column = *name == cols;
            let kept = |row: usize, col: usize| adapter.kept[if by_column { col } else { row }];
            let cells = (0..height).flat_map(|r| (0..width).map(move |c| (r, c)));
            let left: Vec<f32> = cells.filter(|(r, c)| kept(*r, *c)).map(|(r, c)| numbers[r * width + c]).collect();
            let rank = adapter.kept.iter().filter(|kept| **kept).count();
            let shape = if by_column { [height, rank] } else { [rank, width] };
            *tensor = HostTensor::from_f32(shape, &left);
        }
        pattern.insert(adapter.e.name().to_string(), adapter.kept.clone());
    }
    Ok(Some(pattern))
}
