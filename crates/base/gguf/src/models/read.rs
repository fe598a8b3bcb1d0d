//! A file to a model folder's settings and tensors.

use std::collections::BTreeMap;

use cupola_artifact::{Error, HostTensor, Result, StateDict};
use serde_json::{Map, Value, json};

use super::change::{Change, Sizes, joined};
use super::settings::{Described, heads};
use super::{ARCHITECTURES, Architecture, Tensor, filled, rope};
use crate::read::Gguf;

/// A model out of a file.
#[derive(Clone, Debug)]
pub struct FromGguf {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// The tensors, named as Hugging Face's files name them; block formats as 32-bit floats.
    pub state: StateDict,
}

/// Reads the model that a file holds.
///
/// # Errors
/// An architecture that is not described here, metadata that is missing, a tensor without a place.
pub fn read_model(file: &Gguf) -> Result<FromGguf> {
    convert(file).map_err(|e| e.wrap(format!("cannot read the model in {}", file.path().display())))
}

fn convert(file: &Gguf) -> Result<FromGguf> {
    let metadata = file.metadata();
    let arch = architecture_of(file)?;
    let has = |name: &str| file.tensors().iter().any(|tensor| tensor.name == name);
    let mut described = Described { metadata, arch: arch.name, has: &has, config: Map::new(), rotated: None };
    described.set("architectures", json!([arch.class]));
    described.set("model_type", json!(arch.model_type));
    arch.fixed.iter().for_each(|fixed| fixed.read(&mut described.config));
    arch.all_settings().try_for_each(|setting| setting.read(&mut described))?;
    (arch.read)(&mut described)?;
    rotary(&mut described, file)?;
    general(&mut described, file)?;
    let config = described.config;
    let state = tensors(file, arch, &has, &Sizes::read(metadata, arch.name)?)?;
    Ok(FromGguf { config, state })
}

/// The tensors, named and shaped as Hugging Face's files have them.
fn tensors(file: &Gguf, arch: &Architecture, has: &dyn Fn(&str) -> bool, sizes: &Sizes) -> Result<StateDict> {
    let (mut state, mut parts) = (StateDict::new(), BTreeMap::<String, Vec<(Change, HostTensor)>>::new());
    for info in file.tensors().iter().filter(|info| !rope::TENSORS.contains(&info.name.as_str())) {
        let fit = arch.all_tensors().find_map(|tensor: &Tensor| Some((tensor, tensor.read(&info.name, has)?)));
        let Some((tensor, name)) = fit else {
            return Err(Error::failed(format!("the model has no place for the tensor `{}`", info.name))
                .with_hint(format!("it is described as `{}`; the tensor belongs to a newer form of it", arch.name)));
        };
        let data = file.read(info)?;
        let read = |data| tensor.change.read(data, sizes).map_err(|e| e.wrap(format!("`{}`", info.name)));
        match tensor.change {
            Change::Stacked => {
                for (expert, data) in experts(&info.name, &data)?.into_iter().enumerate() {
                    state.insert(filled(&name, &[expert]), data);
                }
            }
            Change::LatentKeys | Change::LatentValues => {
                parts.entry(name).or_default().push((tensor.change, read(data)?));
            }
            _ => drop(state.insert(name, read(data)?)),
        }
    }
    for (name, found) in parts {
        let part = |change| found.iter().find(|(other, _)| *other == change).map(|(_, data)| data);
        let (Some(keys), Some(values)) = (part(Change::LatentKeys), part(Change::LatentValues)) else {
            return Err(Error::failed(format!("the file has one of the two parts of `{name}` only"))
                .with_hint("get the model again"));
        };
        state.insert(name, joined(keys, values, sizes)?);
    }
    Ok(state)
}

/// The first architecture of the file's name whose required settings and tensors are there; the last of the name names what
/// is missing.
fn architecture_of(file: &Gguf) -> Result<&'static Architecture> {
    let metadata = file.metadata();
    let name = metadata.required("general.architecture", metadata.text("general.architecture")?)?;
    let named: Vec<&Architecture> = ARCHITECTURES.iter().filter(|arch| arch.name == name).collect();
    let complete = |arch: &&&Architecture| {
        let mut keys = arch.all_settings().filter_map(|setting| setting.key_of_required());
        let marked = arch.marks.iter().all(|mark| file.tensor(mark).is_ok());
        marked && keys.all(|key| metadata.get(&format!("{name}.{key}")).is_some())
    };
    named.iter().find(complete).or(named.last()).copied().ok_or_else(|| {
        let mut known: Vec<_> = ARCHITECTURES.iter().map(|arch| arch.name).collect();
        known.dedup();
        Error::failed(format!("the file's architecture is `{name}`, which this build does not know"))
            .with_hint(format!("it knows {}", known.join(", ")))
    })
}

fn rotary(described: &mut Described<'_>, file: &Gguf) -> Result<()> {
    let named = described.size("rope.dimension_count")?.is_some() || described.number("rope.freq_base")?.is_some();
    let Some(d_head) = head_width(described)?.filter(|_| named) else { return Ok(()) };
    let numbers = |name: &str| file.tensor(name).ok().map(|info| file.read(info)?.to_f32()).transpose();
    let factors = rope::Factors {
        of_all: numbers(rope::FACTORS)?,
        of_short: numbers(rope::SHORT)?,
        of_long: numbers(rope::LONG)?,
    };
    rope::read(described, d_head, &factors)?;
    // Layers with a window have a base of their own, and no stretch.
    if let Some(theta) = described.config.remove("rope_local_base_freq") {
        let full = described.config.remove("rope_parameters");
        let local = json!({"rope_type": "default", "rope_theta": theta});
        described.set("rope_parameters", json!({"full_attention": full, "sliding_attention": local}));
    }
    Ok(())
}

fn head_width(described: &Described<'_>) -> Result<Option<usize>> {
    if described.rotated.is_some() {
        return Ok(described.rotated);
    }
    if let Some(width) = described.size("attention.key_length")? {
        return Ok(Some(width));
    }
    let heads = heads(described.metadata, described.arch)?.queries;
    Ok(described.size("embedding_length")?.map(|width| width / heads.max(1)))
}

/// What all models have: the vocabulary, tying, special tokens.
fn general(described: &mut Described<'_>, file: &Gguf) -> Result<()> {
    let embedding = file.tensor("token_embd.weight")?;
    described.set("vocab_size", json!(embedding.shape.first()));
    let tied = !(described.has)("output.weight");
    described.set("tie_word_embeddings", json!(tied));
    for (name, key) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        let id = described.metadata.token(key)?;
        described.set(name, json!(id));
    }
    described.set("torch_dtype", json!("float32"));
    Ok(())
}

fn experts(name: &str, tensor: &HostTensor) -> Result<Vec<HostTensor>> {
    let &[count, rows, columns] = tensor.shape.as_slice() else {
        return Err(Error::failed(format!("`{name}` has the shape {:?}, not one matrix per expert", tensor.shape)));
    };
    let size = tensor.bytes.len() / count.max(1);
    let one = |bytes: &[u8]| HostTensor { shape: vec![rows, columns], dtype: tensor.dtype, bytes: bytes.to_vec() };
    Ok(tensor.bytes.chunks_exact(size.max(1)).map(one).collect())
}
