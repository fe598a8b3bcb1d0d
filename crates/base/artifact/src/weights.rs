//! safetensors files and the model folders made of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo as FileTensor};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::atomic::write_atomic_with;
use crate::tensors::{DType, HostTensor, StateDict};
use crate::{Context, Error, Result};

/// The format's own limit on headers.
const MAX_HEADER: u64 = 100_000_000;
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What a file's header says about a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name.
    pub name: String,
    /// The element type as the file names it, supported or not.
    pub dtype: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// The length of its data.
    pub bytes: u64,
}

/// The tensors a safetensors file holds, in the order of their data, without reading the data.
pub fn read_header(path: &Path) -> Result<Vec<TensorInfo>> {
    let header = Header::read(path)?;
    Ok(header
        .tensors()
        .map(|(name, info)| TensorInfo {
            name,
            dtype: info.dtype.to_string(),
            shape: info.shape.clone(),
            bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
        })
        .collect())
}

/// Reads a safetensors file. A broken one is an error; it never takes more memory than the file is long.
pub fn read_safetensors(path: &Path) -> Result<StateDict> {
    let mut header = Header::read(path)?;
    let mut tensors = StateDict::new();
    let entries: Vec<_> = header.tensors().map(|(name, info)| (name, info.clone())).collect();
    for (name, info) in entries {
        let dtype = dtype_of(info.dtype).ok_or_else(|| {
            Error::failed(format!("{}: `{name}` has the element type {}", path.display(), info.dtype))
                .with_hint("supported are F32, F16, BF16, F64, I8, U8, I32, I64 and BOOL")
        })?;
        let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
        header.file.read_exact(&mut bytes).context(|| format!("cannot read `{name}` from {}", path.display()))?;
        tensors.insert(name, HostTensor { shape: info.shape, dtype, bytes });
    }
    Ok(tensors)
}

/// Writes a safetensors file, atomically, with `format = pt` in its metadata unless another format is given.
pub fn write_safetensors(path: &Path, tensors: &StateDict, metadata: &[(&str, &str)]) -> Result<()> {
    let slots = tensors.iter().map(|(name, t)| (name.clone(), t.dtype, t.shape.clone())).collect();
    write_safetensors_with(path, slots, metadata, |name, out| out.write_all(&tensors[name].bytes))
}

/// As [`write_safetensors`], of tensors that need not be in memory together: `write` writes the bytes of the one it is asked
/// for.
pub fn write_safetensors_with(
    path: &Path,
    tensors: Vec<(String, DType, Vec<usize>)>,
    metadata: &[(&str, &str)],
    mut write: impl FnMut(&str, &mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let mut notes = HashMap::from([("format".to_string(), "pt".to_string())]);
    notes.extend(metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())));
    // Wide types first keep every tensor aligned; the names make the order the same each time.
    let mut ordered = tensors;
    ordered.sort_by(|(a, x, _), (b, y, _)| y.size().cmp(&x.size()).then_with(|| a.cmp(b)));
    let mut offset = 0;
    let infos = ordered.iter().map(|(name, dtype, shape)| {
        let start = offset;
        offset += shape.iter().product::<usize>() * dtype.size();
        let info = FileTensor { dtype: file_dtype(*dtype), shape: shape.clone(), data_offsets: (start, offset) };
        (name.clone(), info)
    });
    let cannot = || format!("cannot write {}", path.display());
    let header = Metadata::new(None, infos.collect()).context(cannot)?;
    let mut text = header_text(&notes, &header).context(cannot)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    write_atomic_with(path, |out| {
        out.write_all(&(text.len() as u64).to_le_bytes())?;
        out.write_all(&text)?;
        ordered.iter().try_for_each(|(name, ..)| write(name, out))
    })
}

/// The header as JSON with its metadata sorted, so that equal tensors give equal files.
fn header_text(notes: &HashMap<String, String>, header: &Metadata) -> serde_json::Result<Vec<u8>> {
    let mut fields = serde_json::Map::new();
    fields.insert("__metadata__".into(), serde_json::to_value(notes.iter().collect::<BTreeMap<_, _>>())?);
    if let serde_json::Value::Object(tensors) = serde_json::to_value(header)? {
        fields.extend(tensors);
    }
    serde_json::to_vec(&fields)
}

/// The safetensors files of a model folder: one file, or the shards that its index names.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let index_path = dir.join(INDEX);
    if !index_path.is_file() {
        let single = dir.join(SINGLE);
        return if single.is_file() {
            Ok(vec![single])
        } else if let Some(pickle) = pickled(dir) {
            Err(Error::failed(format!("{pickle} holds pickled weights, which can run any program when they are read"))
                .with_hint(format!(
                    "where you trust the file, convert it: python -c \"from transformers import AutoModel; \
                     AutoModel.from_pretrained('{0}').save_pretrained('{0}')\"",
                    dir.display()
                )))
        } else {
            Err(Error::failed(format!("{} holds neither {SINGLE} nor {INDEX}", dir.display())).with_hint(
                "a model is a folder in Hugging Face's layout: config.json, model.safetensors, tokenizer.json",
            ))
        };
    }
    Ok(read_index(&index_path)?.into_values().collect::<BTreeSet<_>>().into_iter().map(|name| dir.join(name)).collect())
}

/// A file of pickled weights in a folder, as PyTorch writes them.
fn pickled(dir: &Path) -> Option<String> {
    let names = std::fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let pickle = |name: &String| [".bin", ".pt", ".pth", ".pkl", ".ckpt"].iter().any(|end| name.ends_with(end));
    names.filter(pickle).min()
}

/// Reads all weights of a model folder: `model.safetensors`, or the shards of `model.safetensors.index.json`.
pub fn read_weights(dir: &Path) -> Result<StateDict> {
    let mut tensors = StateDict::new();
    for path in weight_files(dir)? {
        if !path.is_file() {
            return Err(Error::failed(format!("the shard {} is missing", path.display()))
                .with_hint(format!("{INDEX} names it: copy or download the whole folder")));
        }
        tensors.extend(read_safetensors(&path)?);
    }
    let index_path = dir.join(INDEX);
    if index_path.is_file() {
        for (name, shard) in read_index(&index_path)? {
            if !tensors.contains_key(&name) {
                let message = format!("{} says that {shard} holds `{name}`, but it does not", index_path.display());
                return Err(Error::failed(message).with_hint("the shards and the index are not of the same model"));
            }
        }
    }
    Ok(tensors)
}

/// Which shard holds which tensor.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
    let index: Index =
        serde_json::from_slice(&bytes).context(|| format!("{} is not an index of shards", path.display()))?;
    if let Some(shard) = index.weight_map.values().find(|name| Path::new(name).components().count() != 1) {
        return Err(Error::failed(format!("{} names a shard outside its folder: {shard}", path.display())));
    }
    Ok(index.weight_map)
}

/// An open file, placed at the beginning of its data, with its checked header.
struct Header {
    file: File,
    metadata: Metadata,
}

impl Header {
    fn read(path: &Path) -> Result<Self> {
        Self::open(path).map_err(|e| {
            let message = format!("{} is not a complete safetensors file", path.display());
            match e {
                Broken::Io(e) => Error::failed(format!("cannot read {}", path.display())).with_source(e),
                Broken::Format(reason) => Error::failed(message)
                    .with_source(reason)
                    .with_hint("it is cut off or damaged: copy, download or make it again"),
            }
        })
    }

    fn open(path: &Path) -> std::result::Result<Self, Broken> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut size = [0; 8];
        if length < 8 {
            return Err(Broken::Format(format!("it has {length} bytes, the header's length alone takes 8")));
        }
        file.read_exact(&mut size)?;
        let size = u64::from_le_bytes(size);
        if size > length - 8 {
            return Err(Broken::Format(format!("the header would have {size} bytes, the file has {length}")));
        }
        if size > MAX_HEADER {
            return Err(Broken::Format(format!("the header has {size} bytes; the format allows {MAX_HEADER}")));
        }
        let mut text = Vec::new();
        (&mut file).take(size).read_to_end(&mut text)?;
        let metadata = parse_header(&text).map_err(Broken::Format)?;
        let (data, expected) = (length - 8 - size, metadata.data_len() as u64);
        if data != expected {
            return Err(Broken::Format(format!("the tensors take {expected} bytes, the file holds {data}")));
        }
        file.seek(SeekFrom::Start(8 + size))?;
        Ok(Self { file, metadata })
    }

    /// The tensors in the order of their data.
    fn tensors(&self) -> impl Iterator<Item = (String, &FileTensor)> {
        let names = self.metadata.offset_keys();
        names.into_iter().filter_map(|name| self.metadata.info(&name).map(|info| (name.clone(), info)))
    }
}

enum Broken {
    Io(std::io::Error),
    Format(String),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Parses and checks a header; the library checks types, shapes, offsets and gaps, but not that names are unique.
fn parse_header(text: &[u8]) -> std::result::Result<Metadata, String> {
    let text = std::str::from_utf8(text).map_err(|e| format!("the header is not UTF-8: {e}"))?;
    let UniqueNames = serde_json::from_str(text).map_err(|e| format!("the header is not valid JSON: {e}"))?;
    serde_json::from_str(text).map_err(|e| format!("the header is wrong: {e}"))
}

/// Accepts a JSON object in which no name stands twice.
struct UniqueNames;

impl<'de> Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = UniqueNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<UniqueNames, A::Error> {
                let mut seen = BTreeSet::new();
                while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                    if seen.contains(&name) {
                        return Err(serde::de::Error::custom(format!("the name `{name}` stands twice")));
                    }
                    seen.insert(name);
                }
                Ok(UniqueNames)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

fn dtype_of(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::F64 => DType::F64,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}

fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::F64 => Dtype::F64,
        DType::Bool => Dtype::BOOL,
    }
}
