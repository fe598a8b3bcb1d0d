//! A model folder's settings and tensors to a file.

use std::collections::BTreeMap;
use std::path::Path;

use cupola_artifact::{Error, HostTensor, Result, nearest};
use serde_json::{Map, Value};

use super::change::{Change, Sizes};
use super::settings::Export;
use super::{Architecture, architecture};
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
const PRECISE: [&str; 8] = [
    "position_embd.weight",
    "token_types.weight",
    "ffn_gate_inp.weight",
    "attn_rel_b.weight",
    "ssm_conv1d.weight",
    "ssm_a",
    "ssm_d",
    "ssm_norm.weight",
];

/// A model on its way to a file: its metadata, to which more may be added, and the tensors that will be asked for.
pub struct ToGguf {
    /// The metadata.
    pub metadata: Metadata,
    /// The tensors of the model that the file has no place for: heads that llama.cpp does not compute.
    pub left_out: Vec<String>,
    sizes: Sizes,
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
        let mut export = Export { config, arch: arch.name, metadata: Metadata::new(), made: Vec::new(), unused: 0 };
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
        arch.all_settings().try_for_each(|setting| setting.write(&mut export))?;
        (arch.write)(&mut export)?;
        if let Some(rows) = config.get("vocab_size").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()) {
            export.set("vocab_size", rows);
        }
        let mut sizes = Sizes::read(&export.metadata, arch.name)?;
        sizes.unused = export.unused;
        let tied = config.get("tie_word_embeddings").and_then(Value::as_bool) == Some(true);
        let scaled = tied && config.get("scale_decoder_outputs") != Some(&Value::Bool(false));
        let (mut tensors, left_out) = Plan { arch, tied, scaled, format, sizes }.pieces(shapes)?;
        for (name, values) in export.made {
            let planned = Planned { name: name.into(), shape: vec![values.len()], format: format_by_name("F32")? };
            tensors.push(Piece { planned, from: From::Settings(values) });
        }
        Ok(Self { metadata: export.metadata, left_out, sizes, tensors })
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
                    let changed = change.write(&read(name)?, &self.sizes).map_err(|e| e.wrap(format!("`{name}`")))?;
                    bytes.extend(tensor.format.encode(&changed.to_f32()?)?);
                }
                Ok(bytes)
            }
            Some(From::Settings(values)) => tensor.format.encode(values),
            None => Ok(Vec::new()),
        })
    }
}

/// The tensors of the model that one of the file is made of: name and shape by the number of the expert.
type Parts<'a> = BTreeMap<usize, (&'a str, &'a [usize])>;

/// What decides which tensors a file has.
struct Plan {
    arch: &'static Architecture,
    /// The output layer is the embedding.
    tied: bool,
    /// Its inputs are divided.
    scaled: bool,
    format: &'static Format,
    sizes: Sizes,
}

impl Plan {
    /// The file's tensors, those of a layer together, and the model's that it has no place for.
    fn pieces(&self, shapes: &[(String, Vec<usize>)]) -> Result<(Vec<Piece>, Vec<String>)> {
        // By layer and name; the experts of a tensor by number.
        let mut found: BTreeMap<(usize, String), (Change, Parts<'_>)> = BTreeMap::new();
        let mut left_out = Vec::new();
        for (name, shape) in shapes {
            let bare = name.strip_prefix(self.arch.prefix).unwrap_or(name);
            let mut placed = false;
            for tensor in self.arch.all_tensors() {
                let Some((target, numbers)) = tensor.written(bare) else { continue };
                placed = true;
                let scaled = tensor.change == Change::Scaled;
                if (scaled && !self.scaled) || (!scaled && self.tied && tensor.gguf == "output") {
                    continue;
                }
                let (layer, expert) = (numbers.first().copied(), numbers.get(1).copied().unwrap_or(0));
                // What comes after the layers in the model comes after them in the file.
                let after = tensor.gguf.starts_with("output");
                let order = layer.map_or(if after { usize::MAX } else { 0 }, |layer| layer + 1);
                let entry = found.entry((order, target)).or_insert_with(|| (tensor.change, BTreeMap::new()));
                entry.1.insert(expert, (name, shape));
            }
            // Left in old files by older versions of transformers.
            let buffer =
                name.ends_with("rotary_emb.inv_freq") || name.ends_with(".attn.bias") || name.ends_with("masked_bias");
            match placed || buffer {
                true => {}
                false if self.arch.left_out.iter().any(|start| bare.starts_with(start)) => left_out.push(name.clone()),
                false => return Err(no_place(self.arch, bare)),
            }
        }
        let untied = found.keys().any(|(_, name)| name == "output.weight");
        let pieces = found.into_iter().map(|((_, name), (change, parts))| self.piece(name, change, &parts, untied));
        Ok((pieces.collect::<Result<_>>()?, left_out))
    }

    fn piece(&self, name: String, change: Change, parts: &Parts<'_>, untied: bool) -> Result<Piece> {
        let shape = parts.values().next().map(|part| part.1.to_vec()).unwrap_or_default();
        if let Some((_, (other, _))) = parts.iter().find(|(at, (_, other))| **at >= parts.len() || *other != shape) {
            return Err(Error::failed(format!("`{other}` does not fit the other experts of `{name}`"))
                .with_hint("an expert is missing, or of another shape"));
        }
        let shape = change.shape(&shape, parts.len(), &self.sizes);
        let precise = shape.len() < 2 || PRECISE.iter().any(|end| name.ends_with(end));
        let head = name == "output.weight" || (name == "token_embd.weight" && !untied);
        let format = match (precise, shape.last()) {
            (false, Some(row)) => fitting(self.format, *row, head)?,
            _ => format_by_name("F32")?,
        };
        let names = parts.values().map(|part| part.0.to_owned()).collect();
        Ok(Piece { planned: Planned { name, shape, format }, from: From::Model(names, change) })
    }
}

fn no_place(arch: &Architecture, name: &str) -> Error {
    let known = arch.all_tensors().map(|tensor| tensor.hf);
    let near = nearest(name, known).map_or_else(
        || "is config.json that of the weights?".to_owned(),
        |near| format!("the nearest name it knows is `{near}`"),
    );
    Error::failed(format!("llama.cpp's `{}` has no place for the tensor `{name}`", arch.name)).with_hint(near)
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
