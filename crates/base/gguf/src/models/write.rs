//! A model folder's settings and tensors to a file.

use std::collections::BTreeMap;
use std::path::Path;

use cupola_artifact::{DType, Error, HostTensor, Result, nearest};
use serde_json::{Map, Value};

use super::rows::{Heads, transpose};
use super::settings::Export;
use super::{Architecture, Change, architecture, filled, holes, module};
use crate::formats::{Format, format_by_name};
use crate::value::Metadata;
use crate::write::{Planned, write_gguf};

/// What files say of how their tensors are stored mostly (`general.file_type`), by the format's name.
const FILE_TYPES: &[(&str, u32)] = &[
    ("F32", 0),
    ("F16", 1),
    ("Q4_0", 2),
    ("Q4_1", 3),
    ("Q8_0", 7),
    ("Q5_0", 8),
    ("Q5_1", 9),
    ("Q4_K", 15),
    ("Q5_K", 17),
    ("Q6_K", 18),
    ("BF16", 32),
    ("TQ1_0", 36),
    ("TQ2_0", 37),
    ("MXFP4", 38),
];

/// Tensors that are small and sensitive and stay in 32 bits.
const PRECISE: [&str; 2] = ["position_embd.weight", "ffn_gate_inp.weight"];

/// A model on its way to a file: its metadata, to which more may be added, and the tensors that will be asked for.
pub struct ToGguf {
    /// The metadata.
    pub metadata: Metadata,
    heads: Heads,
    tensors: Vec<Piece>,
}

/// A tensor of the file.
struct Piece {
    planned: Planned,
    from: From,
}

/// Where its numbers come from.
enum From {
    /// One tensor of the model, or one of each expert.
    Model(Vec<String>, Change),
    /// The settings.
    Settings(Vec<f32>),
}

impl ToGguf {
    /// Plans a file for the model that `config.json` describes, of whose tensors names and shapes are given, with its
    /// matrices in `format`. Matrices that the format's blocks do not fit get the nearest that does.
    ///
    /// # Errors
    /// A model that llama.cpp cannot compute, a tensor it has no place for, settings that are missing.
    pub fn plan(config: &Map<String, Value>, shapes: &[(String, Vec<usize>)], format: &'static Format) -> Result<Self> {
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let arch = architecture(model_type)?;
        let mut export = Export { config, arch: arch.name, metadata: Metadata::new(), made: Vec::new() };
        let file_type = FILE_TYPES.iter().find(|t| t.0 == format.name).filter(|_| format.writes());
        let file_type = file_type.ok_or_else(|| {
            let known: Vec<_> = FILE_TYPES.iter().map(|t| t.0).collect();
            Error::usage(format!("models cannot be written as {}", format.name))
                .with_hint(format!("they can as {}", known.join(", ")))
        })?;
        export.metadata.set("general.architecture", arch.name);
        export.metadata.set("general.type", "model");
        export.metadata.set("general.file_type", file_type.1);
        export.metadata.set("general.quantization_version", 2u32);
        arch.fixed.iter().try_for_each(|fixed| fixed.check(&export))?;
        arch.settings.iter().try_for_each(|setting| setting.write(&mut export))?;
        (arch.write)(&mut export)?;
        if let Some(rows) = config.get("vocab_size").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()) {
            export.set("vocab_size", rows);
        }
        let heads = export.heads()?;
        let tied = config.get("tie_word_embeddings").and_then(Value::as_bool);
        let mut tensors = pieces(arch, shapes, tied == Some(true), format)?;
        for (name, values) in export.made {
            let planned = Planned { name: name.into(), shape: vec![values.len()], format: format_by_name("F32")? };
            tensors.push(Piece { planned, from: From::Settings(values) });
        }
        Ok(Self { metadata: export.metadata, heads, tensors })
    }

    /// The tensors that will be written.
    pub fn tensors(&self) -> impl Iterator<Item = &Planned> {
        self.tensors.iter().map(|piece| &piece.planned)
    }

    /// Writes the file, atomically; `read` gives a tensor of the model by its name.
    ///
    /// # Errors
    /// Those of `read`, a tensor of another shape than planned, a full disk.
    pub fn write(&self, path: &Path, mut read: impl FnMut(&str) -> Result<HostTensor>) -> Result<()> {
        let planned: Vec<Planned> = self.tensors.iter().map(|piece| piece.planned.clone()).collect();
        let mut next = self.tensors.iter();
        write_gguf(path, &self.metadata, &planned, |tensor| match next.next().map(|piece| &piece.from) {
            Some(From::Model(names, change)) => {
                let mut bytes = Vec::new();
                for name in names {
                    let changed =
                        changed(&read(name)?, *change, self.heads).map_err(|e| e.wrap(format!("`{name}`")))?;
                    bytes.extend(tensor.format.encode(&changed.to_f32()?)?);
                }
                Ok(bytes)
            }
            Some(From::Settings(values)) => tensor.format.encode(values),
            None => Ok(Vec::new()),
        })
    }
}

/// The tensor as the file has it.
fn changed(tensor: &HostTensor, change: Change, heads: Heads) -> Result<HostTensor> {
    match change {
        Change::Same | Change::Stacked => Ok(tensor.clone()),
        Change::Rows(rows) => rows.change(tensor, heads, true),
        Change::Transposed => Ok(transpose(tensor)),
        Change::OneMore => {
            let values: Vec<f32> = tensor.to_f32()?.into_iter().map(|v| v + 1.0).collect();
            Ok(HostTensor::from_f32(tensor.shape.clone(), &values).to_float(DType::F32)?)
        }
    }
}

/// The tensors of the model that one of the file is made of: name and shape by the number of the expert.
type Parts<'a> = BTreeMap<usize, (&'a str, &'a [usize])>;

/// The file's tensors, those of a layer together.
fn pieces(
    arch: &Architecture,
    shapes: &[(String, Vec<usize>)],
    tied: bool,
    format: &'static Format,
) -> Result<Vec<Piece>> {
    // By layer and name; the experts of a tensor by number.
    let mut found: BTreeMap<(usize, String), (Change, Parts<'_>)> = BTreeMap::new();
    for (name, shape) in shapes {
        let (place, last) = module(name);
        // Left in old files by older versions of transformers.
        let buffer =
            name.ends_with("rotary_emb.inv_freq") || name.ends_with(".attn.bias") || name.ends_with("masked_bias");
        let fit = arch.tensors.iter().find_map(|tensor| Some((tensor, holes(tensor.hf, place)?)));
        let Some((tensor, numbers)) = fit else {
            if buffer {
                continue;
            }
            return Err(no_place(arch, name));
        };
        if tied && tensor.gguf == "output" {
            continue;
        }
        let (layer, expert) = (numbers.first().copied(), numbers.get(1).copied().unwrap_or(0));
        let target = format!("{}.{last}", filled(tensor.gguf, &numbers));
        // What comes after the layers in the model comes after them in the file.
        let order = layer.map_or(if tensor.gguf.starts_with("output") { usize::MAX } else { 0 }, |layer| layer + 1);
        let entry = found.entry((order, target)).or_insert_with(|| (tensor.change, BTreeMap::new()));
        entry.1.insert(expert, (name, shape));
    }
    let untied = found.keys().any(|(_, name)| name == "output.weight");
    found.into_iter().map(|((_, name), (change, parts))| piece(name, change, &parts, format, untied)).collect()
}

fn no_place(arch: &Architecture, name: &str) -> Error {
    let known = arch.tensors.iter().map(|tensor| tensor.hf);
    let near = nearest(name, known).map_or_else(
        || "is config.json that of the weights?".to_owned(),
        |near| format!("the nearest name it knows is `{near}`"),
    );
    Error::failed(format!("llama.cpp's `{}` has no place for the tensor `{name}`", arch.name)).with_hint(near)
}

fn piece(name: String, change: Change, parts: &Parts<'_>, format: &'static Format, untied: bool) -> Result<Piece> {
    let mut shape = parts.values().next().map(|part| part.1.to_vec()).unwrap_or_default();
    if let Some((_, (other, _))) = parts.iter().find(|(at, (_, other))| **at >= parts.len() || *other != shape) {
        return Err(Error::failed(format!("`{other}` does not fit the other experts of `{name}`"))
            .with_hint("an expert is missing, or of another shape"));
    }
    match change {
        Change::Transposed => shape.reverse(),
        Change::Stacked => shape.insert(0, parts.len()),
        _ => {}
    }
    let precise = shape.len() < 2 || PRECISE.iter().any(|end| name.ends_with(end));
    let head = name == "output.weight" || (name == "token_embd.weight" && !untied);
    let format = match (precise, shape.last()) {
        (false, Some(row)) => fitting(format, *row, head)?,
        _ => format_by_name("F32")?,
    };
    let names = parts.values().map(|part| part.0.to_owned()).collect();
    Ok(Piece { planned: Planned { name, shape, format }, from: From::Model(names, change) })
}

/// The format for rows of a length: the output layer gets six bits at least, and rows that blocks of 256 do not fill get
/// blocks of 32, or float16.
fn fitting(format: &'static Format, row: usize, head: bool) -> Result<&'static Format> {
    let bits = |f: &Format| f.bytes * 8 / f.block;
    let format = if head && bits(format) < 6 && format.block > 1 { format_by_name("Q6_K")? } else { format };
    let narrow = match format.name {
        "Q6_K" => "Q8_0",
        "Q5_K" => "Q5_1",
        _ => "Q4_0",
    };
    match () {
        () if row.is_multiple_of(format.block) => Ok(format),
        () if row.is_multiple_of(32) => format_by_name(narrow),
        () => format_by_name("F16"),
    }
}
