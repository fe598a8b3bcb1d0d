//! Reading: the header at once and checked, tensors one by one where they are asked for.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cupola_artifact::{Context, DType, Error, HostTensor, Result, StateDict, nearest};

use crate::formats::{Format, format_by_id};
use crate::value::{ARRAY, Array, BOOL, Metadata, STRING, Value, number, number_size, numbers};
use crate::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, MAX_DIMS, VERSION};

/// A header takes up to this; the largest vocabularies take some 20 MB.
const MAX_HEADER: u64 = 1 << 28;
/// The most bytes of a key, as the format has it, and of a tensor's name.
const MAX_NAME: u64 = 65_535;
/// Arrays of arrays go no deeper.
const MAX_DEPTH: usize = 4;
/// The fewest bytes that a metadata entry and a tensor's description take.
const LEAST_ENTRY: u64 = 8 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 4 + 4 + 8;

const DAMAGED: &str = "it is cut off or damaged: copy, download or make it again";

/// A file with its header read and checked; its tensors are read when they are asked for.
#[derive(Debug)]
pub struct Gguf {
    /// The file, or the files that it is split into.
    paths: Vec<PathBuf>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

/// What a header says about a tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The name.
    pub name: String,
    /// The shape, rows before columns: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// The format of its elements.
    pub format: &'static Format,
    /// The length of its data.
    pub bytes: u64,
    /// Where its data begins in the file.
    pub offset: u64,
    /// In which of several files, from 0 on.
    pub part: usize,
}

impl Gguf {
    /// Reads and checks the header; of a file that is split into several, those of all.
    ///
    /// # Errors
    /// A file that cannot be read, is of another kind or version, is cut off, or contradicts itself; a part that is missing.
    pub fn open(path: &Path) -> Result<Self> {
        crate::split::whole(Self::open_one(path)?)
    }

    /// Reads and checks the header of one file.
    pub(crate) fn open_one(path: &Path) -> Result<Self> {
        let (version, metadata, tensors) = read_header(path).map_err(|broken| match broken {
            Broken::Io(e) => Error::failed(format!("cannot read {}", path.display())).with_source(e),
            Broken::Format(reason, hint) => Error::failed(format!("{} is not a sound GGUF file", path.display()))
                .with_source(reason)
                .with_hint(hint),
        })?;
        Ok(Self { paths: vec![path.to_path_buf()], version, metadata, tensors })
    }

    /// The file, or the first of several.
    pub fn path(&self) -> &Path {
        self.file(0)
    }

    fn file(&self, part: usize) -> &Path {
        self.paths.get(part).map_or(Path::new(""), PathBuf::as_path)
    }

    /// Takes another part's tensors.
    pub(crate) fn append(&mut self, other: Self) {
        let part = self.paths.len();
        self.paths.extend(other.paths);
        self.tensors.extend(other.tensors.into_iter().map(|tensor| TensorInfo { part, ..tensor }));
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors in the order of the header.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What is known about a tensor.
    ///
    /// # Errors
    /// When there is none of that name; names the nearest.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name).ok_or_else(|| {
            let near = nearest(name, self.tensors.iter().map(|t| t.name.as_str()));
            let hint = near.map_or_else(
                || format!("it holds {} tensors", self.tensors.len()),
                |near| format!("the nearest name there is `{near}`"),
            );
            Error::failed(format!("{} has no tensor `{name}`", self.path().display())).with_hint(hint)
        })
    }

    /// A tensor's data as the file has it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_bytes(&self, tensor: &TensorInfo) -> Result<Vec<u8>> {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(self.file(tensor.part))?;
            file.seek(SeekFrom::Start(tensor.offset))?;
            let mut bytes = Vec::new();
            file.take(tensor.bytes).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let what = || format!("cannot read `{}` from {}", tensor.name, self.file(tensor.part).display());
        let bytes = read().context(what)?;
        if bytes.len() as u64 != tensor.bytes {
            let reason = format!("{} of {} bytes are there", bytes.len(), tensor.bytes);
            return Err(Error::failed(what()).with_source(reason).with_hint("the file changed while it was read"));
        }
        Ok(bytes)
    }

    /// A tensor's numbers: plain element types as they are, block formats as 32-bit floats.
    ///
    /// # Errors
    /// As [`Self::read_bytes`], and for a format that is not decoded.
    pub fn read(&self, tensor: &TensorInfo) -> Result<HostTensor> {
        let bytes = self.read_bytes(tensor)?;
        let plain = match tensor.format.name {
            "F32" => Some(DType::F32),
            "F16" => Some(DType::F16),
            "BF16" => Some(DType::BF16),
            "F64" => Some(DType::F64),
            "I8" => Some(DType::I8),
            "I32" => Some(DType::I32),
            "I64" => Some(DType::I64),
            _ => None,
        };
        let shape = tensor.shape.clone();
        if let Some(dtype) = plain {
            return Ok(HostTensor { shape, dtype, bytes });
        }
        let values = tensor
            .format
            .decode(&bytes)
            .map_err(|e| e.reword(|m| format!("{}: `{}`: {m}", self.file(tensor.part).display(), tensor.name)))?;
        Ok(HostTensor::from_f32(shape, &values))
    }

    /// All tensors by name.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_all(&self) -> Result<StateDict> {
        self.tensors.iter().map(|tensor| Ok((tensor.name.clone(), self.read(tensor)?))).collect()
    }
}

/// Why a header was not accepted.
enum Broken {
    Io(std::io::Error),
    /// The reason and the way out.
    Format(String, &'static str),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn damaged<T>(reason: String) -> Result<T, Broken> {
    Err(Broken::Format(reason, DAMAGED))
}

type Header = (u32, Metadata, Vec<TensorInfo>);

fn read_header(path: &Path) -> Result<Header, Broken> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut input = Input { file: BufReader::new(file), length, used: 0 };
    let version = input.version()?;
    let (tensors, entries) = (input.count("tensors", LEAST_TENSOR)?, input.count("metadata entries", LEAST_ENTRY)?);
    let metadata = input.metadata(entries)?;
    let alignment = alignment(&metadata)?;
    let mut tensors = input.tensors(tensors, alignment)?;
    let start = input.used.next_multiple_of(alignment);
    place(&mut tensors, start, length)?;
    Ok((version, metadata, tensors))
}

/// The alignment of tensors.
fn alignment(metadata: &Metadata) -> Result<u64, Broken> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(ALIGNMENT),
        Some(Value::U32(n)) if n.is_power_of_two() && *n <= 1 << 24 => Ok(u64::from(*n)),
        Some(other) => damaged(format!("`{ALIGNMENT_KEY}` is {other:?}, no power of two up to 2^24")),
    }
}

/// Turns offsets within the data into offsets within the file; no tensor may leave the file or lie on another.
fn place(tensors: &mut [TensorInfo], start: u64, length: u64) -> Result<(), Broken> {
    for tensor in tensors.iter_mut() {
        let end = start.checked_add(tensor.offset).and_then(|at| at.checked_add(tensor.bytes));
        if end.is_none_or(|end| end > length) {
            return damaged(format!(
                "`{}` would take {} bytes from {} of the data, which has {} bytes",
                tensor.name,
                tensor.bytes,
                tensor.offset,
                length.saturating_sub(start)
            ));
        }
        tensor.offset += start;
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            return damaged(format!("`{}` and `{}` lie on each other", pair[0].name, pair[1].name));
        }
    }
    Ok(())
}

/// A header that is read piece by piece and never beyond its file.
struct Input {
    file: BufReader<File>,
    /// The length of the file.
    length: u64,
    /// What has been read of it.
    used: u64,
}

impl Input {
    /// The next bytes, whose number was read from the file and is checked here.
    fn bytes(&mut self, count: u64, what: &str) -> Result<Vec<u8>, Broken> {
        if count > self.length - self.used {
            let left = self.length - self.used;
            return damaged(format!("{what} would take {count} bytes, {left} are left in the file"));
        }
        if self.used + count > MAX_HEADER {
            return damaged(format!("the header takes more than {MAX_HEADER} bytes"));
        }
        let mut bytes = vec![0; count as usize];
        self.file.read_exact(&mut bytes)?;
        self.used += count;
        Ok(bytes)
    }

    fn word<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Broken> {
        if N as u64 > self.length - self.used {
            return damaged(format!("the file ends before {what}"));
        }
        let mut word = [0; N];
        self.file.read_exact(&mut word)?;
        self.used += N as u64;
        Ok(word)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Broken> {
        self.word(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Broken> {
        self.word(what).map(u64::from_le_bytes)
    }

    /// A number of things that each take at least some bytes of what is left.
    fn count(&mut self, what: &str, least: u64) -> Result<u64, Broken> {
        let count = self.u64(&format!("the number of {what}"))?;
        let left = (self.length - self.used).min(MAX_HEADER);
        match count.checked_mul(least) {
            Some(bytes) if bytes <= left => Ok(count),
            _ => damaged(format!("it would have {count} {what}, more than its {} bytes hold", self.length)),
        }
    }

    fn text(&mut self, what: &str, most: u64) -> Result<String, Broken> {
        let length = self.u64(what)?;
        if length > most {
            return damaged(format!("{what} would have {length} bytes, at most {most} are allowed"));
        }
        String::from_utf8(self.bytes(length, what)?).or_else(|e| damaged(format!("{what} is not UTF-8: {e}")))
    }

    fn version(&mut self) -> Result<u32, Broken> {
        let magic: [u8; 4] = self.word("its first four bytes")?;
        if magic != MAGIC {
            let reason = format!("it begins with {magic:?} instead of `GGUF`");
            return Err(Broken::Format(reason, "is it a file of another format, or a web page saved by mistake?"));
        }
        match self.u32("its version")? {
            version @ (2 | VERSION) => Ok(version),
            version if version.swap_bytes() <= VERSION => {
                let hint = "convert it with gguf_convert_endian.py of llama.cpp";
                Err(Broken::Format("it is big-endian; only little-endian files are read".into(), hint))
            }
            version => {
                let hint = "get the model again from a newer source, or convert it with llama.cpp";
                Err(Broken::Format(format!("it has version {version} of the format; 2 and 3 are read"), hint))
            }
        }
    }

    fn metadata(&mut self, count: u64) -> Result<Metadata, Broken> {
        let (mut metadata, mut seen) = (Metadata::new(), HashSet::new());
        for number in 0..count {
            let key = self.text(&format!("key {number} of the metadata"), MAX_NAME)?;
            if !seen.insert(key.clone()) {
                return damaged(format!("the metadata `{key}` stands twice"));
            }
            let what = format!("the metadata `{key}`");
            let kind = self.u32(&what)?;
            let value = self.value(kind, &what)?;
            metadata.push(key, value);
        }
        Ok(metadata)
    }

    fn value(&mut self, kind: u32, what: &str) -> Result<Value, Broken> {
        match kind {
            BOOL => self.bytes(1, what).and_then(|byte| truth(byte[0], what)).map(Value::Bool),
            STRING => self.text(what, MAX_HEADER).map(Value::String),
            ARRAY => self.array(what, 0).map(Value::Array),
            _ => {
                let bytes = self.bytes(number_size(kind).unwrap_or(0), what)?;
                number(kind, &bytes).ok_or(()).or_else(|()| unknown_type(kind, what))
            }
        }
    }

    fn array(&mut self, what: &str, depth: usize) -> Result<Array, Broken> {
        let (kind, count) = (self.u32(what)?, self.u64(what)?);
        let least = match kind {
            BOOL => 1,
            STRING => 8,
            ARRAY if depth + 1 >= MAX_DEPTH => {
                return damaged(format!("{what} has arrays more than {MAX_DEPTH} deep"));
            }
            ARRAY => 12,
            _ => number_size(kind).ok_or(()).or_else(|()| unknown_type(kind, what))?,
        };
        let left = (self.length - self.used).min(MAX_HEADER);
        let Some(size) = count.checked_mul(least).filter(|size| *size <= left) else {
            return damaged(format!("{what} would have {count} values, more than the file holds"));
        };
        Ok(match kind {
            BOOL => Array::Bool(
                self.bytes(size, what)?.into_iter().map(|byte| truth(byte, what)).collect::<Result<_, Broken>>()?,
            ),
            STRING => Array::String((0..count).map(|_| self.text(what, MAX_HEADER)).collect::<Result<_, _>>()?),
            ARRAY => Array::Array((0..count).map(|_| self.array(what, depth + 1)).collect::<Result<_, _>>()?),
            _ => {
                let bytes = self.bytes(size, what)?;
                numbers(kind, &bytes).ok_or(()).or_else(|()| unknown_type(kind, what))?
            }
        })
    }

    fn tensors(&mut self, count: u64, alignment: u64) -> Result<Vec<TensorInfo>, Broken> {
        let (mut tensors, mut seen) = (Vec::new(), HashSet::new());
        for number in 0..count {
            let tensor = self.tensor(number, alignment)?;
            if !seen.insert(tensor.name.clone()) {
                return damaged(format!("the tensor `{}` stands twice", tensor.name));
            }
            tensors.push(tensor);
        }
        Ok(tensors)
    }

    fn tensor(&mut self, number: u64, alignment: u64) -> Result<TensorInfo, Broken> {
        let name = self.text(&format!("the name of tensor {number}"), MAX_NAME)?;
        let what = format!("the description of `{name}`");
        let dims = self.u32(&what)?;
        if dims as usize > MAX_DIMS {
            return damaged(format!("`{name}` would have {dims} dimensions, at most {MAX_DIMS} are allowed"));
        }
        let mut sizes = (0..dims).map(|_| self.u64(&what)).collect::<Result<Vec<u64>, Broken>>()?;
        let id = self.u32(&what)?;
        let offset = self.u64(&what)?;
        if sizes.contains(&0) {
            return damaged(format!("`{name}` has the shape {sizes:?}: a dimension is 0"));
        }
        let Some(format) = format_by_id(id) else {
            let hint = "the file is damaged, or made by a newer llama.cpp than this build knows";
            return Err(Broken::Format(format!("`{name}` has the element type {id}, which is unknown"), hint));
        };
        let elements = sizes.iter().try_fold(1u64, |product, n| product.checked_mul(*n)).filter(|n| *n < 1 << 60);
        let row = sizes.first().copied().unwrap_or(1);
        if !row.is_multiple_of(format.block as u64) {
            let (block, kind) = (format.block, format.name);
            return damaged(format!(
                "`{name}` has rows of {row} elements, which blocks of {block} ({kind}) do not fill"
            ));
        }
        let bytes = elements.and_then(|n| (n / format.block as u64).checked_mul(format.bytes as u64));
        let Some(bytes) = bytes else {
            return damaged(format!("`{name}` has the shape {sizes:?}: its size overflows"));
        };
        if !offset.is_multiple_of(alignment) {
            return damaged(format!("`{name}` begins at {offset}, no multiple of the alignment {alignment}"));
        }
        sizes.reverse();
        let shape = sizes.into_iter().map(|n| n as usize).collect();
        Ok(TensorInfo { name, shape, format, bytes, offset, part: 0 })
    }
}

fn truth(byte: u8, what: &str) -> Result<bool, Broken> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => damaged(format!("{what} is {byte}, neither true (1) nor false (0)")),
    }
}

fn unknown_type<T>(kind: u32, what: &str) -> Result<T, Broken> {
    damaged(format!("{what} has the type {kind}, which is unknown"))
}
