//! Shards as other programs' files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Error, Result, create_dir, write_atomic_with};

use super::format::Width;
use super::reader::Shards;

/// Of llm.c's files: 256 numbers of 32 bits come before the tokens, the first of them this and the version.
const LLM_C_U16: [i32; 2] = [20_240_520, 1];
/// The same for tokens of 32 bits.
const LLM_C_U32: [i32; 2] = [20_240_801, 7];

/// Writes all tokens as one file of 16-bit numbers, as nanoGPT's `np.memmap` reads it.
///
/// # Errors
/// Tokens of 32 bits.
pub fn export_nanogpt(shards: &Shards, path: &Path) -> Result<()> {
    if shards.info().width != Width::U16 {
        let size = shards.info().vocab_size;
        return Err(Error::failed(format!("nanoGPT reads tokens of 16 bits, and the vocabulary has {size}"))
            .with_hint("use the shards' own files, or a tokenizer with fewer than 65,500 tokens"));
    }
    let sources: Vec<File> = shards.info().shards.iter().map(|s| open_bin(shards, &s.name)).collect::<Result<_>>()?;
    write_atomic_with(path, |out| sources.iter().try_for_each(|mut source| std::io::copy(&mut source, out).map(drop)))
}

/// Writes each shard as a file of llm.c, `NAME_000000.bin`, into a folder; their paths.
///
/// # Errors
/// A shard of 2^31 tokens or more.
pub fn export_llm_c(shards: &Shards, dir: &Path, name: &str) -> Result<Vec<PathBuf>> {
    create_dir(dir)?;
    let [magic, version] = if shards.info().width == Width::U16 { LLM_C_U16 } else { LLM_C_U32 };
    let mut written = Vec::new();
    for (number, shard) in shards.info().shards.iter().enumerate() {
        let count = i32::try_from(shard.tokens).map_err(|_| {
            Error::failed(format!("{} has {} tokens, more than a file of llm.c can", shard.name, shard.tokens))
                .with_hint("make shards with a smaller `shard_tokens`")
        })?;
        let mut header = [0; 256];
        header[..3].copy_from_slice(&[magic, version, count]);
        let path = dir.join(format!("{name}_{number:06}.bin"));
        let source = open_bin(shards, &shard.name)?;
        write_atomic_with(&path, |out| {
            header.iter().try_for_each(|n| out.write_all(&n.to_le_bytes()))?;
            std::io::copy(&mut source.take(u64::MAX), out).map(drop)
        })?;
        written.push(path);
    }
    Ok(written)
}

fn open_bin(shards: &Shards, name: &str) -> Result<File> {
    let path = shards.dir().join(name).with_extension("bin");
    File::open(&path).context(|| format!("cannot read {}", path.display()))
}
