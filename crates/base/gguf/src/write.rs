//! Writing: a header that knows every tensor's place, then the tensors one by one.

use std::collections::HashSet;
use std::path::Path;

use cupola_artifact::{Error, Result, write_atomic_with};

use crate::formats::Format;
use crate::value::{Metadata, Value, write_text};
use crate::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, MAX_DIMS, VERSION};

/// A tensor that is going to be written.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The name.
    pub name: String,
    /// The shape, rows before columns.
    pub shape: Vec<usize>,
    /// The format of its elements.
    pub format: &'static Format,
}

impl Planned {
    /// The length of its data.
    ///
    /// # Errors
    /// When rows are not filled by whole blocks, and when no file can have such a tensor.
    pub fn bytes(&self) -> Result<u64> {
        let wrong = |why: String| Err(Error::failed(format!("`{}` of shape {:?} {why}", self.name, self.shape)));
        if self.shape.len() > MAX_DIMS || self.shape.contains(&0) {
            return wrong(format!("cannot be stored: files have 1 to {MAX_DIMS} dimensions, none of them 0"));
        }
        let row = self.shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.format.block) {
            return wrong(format!("cannot be {}, whose blocks have {} elements", self.format.name, self.format.block));
        }
        let elements = self.shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n as u64));
        match elements.and_then(|n| (n / self.format.block as u64).checked_mul(self.format.bytes as u64)) {
            Some(bytes) if bytes < 1 << 60 => Ok(bytes),
            _ => wrong("is larger than any file".into()),
        }
    }
}

/// Writes a file, atomically. `data` is asked for each tensor's bytes in turn, so only one tensor is in memory at a time.
///
/// # Errors
/// A tensor that cannot be stored or whose data does not fit its description, an error of `data`, a full disk.
pub fn write_gguf(
    path: &Path,
    metadata: &Metadata,
    tensors: &[Planned],
    mut data: impl FnMut(&Planned) -> Result<Vec<u8>>,
) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let alignment = alignment(metadata).map_err(|e| e.wrap(cannot()))?;
    let header = header(metadata, tensors, alignment).map_err(|e| e.wrap(cannot()))?;
    // What `data` said is worth more than that writing ended with it.
    let mut failure = None;
    let written = write_atomic_with(path, |out| {
        out.write_all(&header)?;
        for tensor in tensors {
            let bytes = data(tensor).and_then(|bytes| fits(tensor, bytes)).map_err(|e| {
                failure = Some(e);
                std::io::Error::other(format!("`{}` was not made", tensor.name))
            })?;
            out.write_all(&bytes)?;
            out.write_all(&vec![0; padding(bytes.len() as u64, alignment)])?;
        }
        Ok(())
    });
    match failure {
        Some(e) => Err(e.wrap(cannot())),
        None => written,
    }
}

fn fits(tensor: &Planned, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let want = tensor.bytes()?;
    if bytes.len() as u64 != want {
        let message = format!("`{}` takes {want} bytes, but {} were given", tensor.name, bytes.len());
        return Err(Error::failed(message));
    }
    Ok(bytes)
}

fn alignment(metadata: &Metadata) -> Result<u64> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(ALIGNMENT),
        Some(Value::U32(n)) if n.is_power_of_two() && *n <= 1 << 24 => Ok(u64::from(*n)),
        Some(other) => Err(Error::failed(format!("`{ALIGNMENT_KEY}` is {other:?}, no 32-bit power of two up to 2^24"))),
    }
}

fn padding(length: u64, alignment: u64) -> usize {
    (length.next_multiple_of(alignment) - length) as usize
}

fn header(metadata: &Metadata, tensors: &[Planned], alignment: u64) -> Result<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.iter().len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        write_text(key, &mut out);
        out.extend(value.type_id().to_le_bytes());
        value.write(&mut out);
    }
    let (mut offset, mut seen) = (0u64, HashSet::new());
    for tensor in tensors {
        if !seen.insert(&tensor.name) {
            return Err(Error::failed(format!("the tensor `{}` is given twice", tensor.name)));
        }
        let bytes = tensor.bytes()?;
        write_text(&tensor.name, &mut out);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
        out.extend(tensor.format.id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += bytes.next_multiple_of(alignment);
    }
    out.resize(out.len() + padding(out.len() as u64, alignment), 0);
    Ok(out)
}
