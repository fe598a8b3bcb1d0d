//! From documents to shards.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Error, Result, create_dir, hash_file, write_atomic};
use cupola_records::Document;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::fim::{Fim, Rearranging};
use super::format::{Width, write_index};
use super::reader::{INFO_FILE, ShardInfo, ShardsInfo, VERSION};
use crate::tokenizer::Tokenizer;

/// Text that is encoded at once, bytes, and documents.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_DOCUMENTS: usize = 1 << 14;

/// How documents become shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PackConfig {
    /// Which tokens stand around a document.
    pub boundary: Boundary,
    /// Tokens in a shard, about: a document is never divided between two.
    pub shard_tokens: u64,
    /// Filling in the middle.
    pub fim: Fim,
}

impl Default for PackConfig {
    fn default() -> Self {
        // A shard of 512 MiB where tokens have 16 bits.
        Self { boundary: Boundary::Begin, shard_tokens: 1 << 28, fim: Fim::default() }
    }
}

/// Which tokens stand around a document: the tokenizer's that begins documents, else the one that ends them; and the
/// other way around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// One before it, as cupola pretrains.
    Begin,
    /// One behind it, as Megatron-LM and nanoGPT do.
    End,
    /// Both.
    Both,
    /// None.
    None,
}

impl Boundary {
    fn ids(self, tokenizer: &Tokenizer) -> Result<[Option<u32>; 2]> {
        let needed = |id: Option<u32>| {
            let none = || Error::failed("the tokenizer does not say which token begins or ends a document");
            id.map(Some).ok_or_else(|| {
                none().with_hint("set `bos_token` or `eos_token` in tokenizer_config.json, or `boundary = \"none\"`")
            })
        };
        let (begin, end) = (tokenizer.bos().or(tokenizer.eos()), tokenizer.eos().or(tokenizer.bos()));
        Ok(match self {
            Self::Begin => [needed(begin)?, None],
            Self::End => [None, needed(end)?],
            Self::Both => [needed(begin)?, needed(end)?],
            Self::None => [None, None],
        })
    }
}

/// Writes the documents' tokens into a folder, which must hold no shards yet, and what they are into its `shards.json`.
/// What comes out depends on documents, tokenizer, settings and seed alone; memory does not grow with the documents, but
/// for four bytes for each in the present shard.
///
/// # Errors
/// The first document that cannot be read or encoded, a folder that cannot be written to.
pub fn write_shards(
    documents: impl Iterator<Item = Result<Document>> + Send,
    tokenizer: &Tokenizer,
    config: &PackConfig,
    seed: u64,
    dir: &Path,
) -> Result<ShardsInfo> {
    if config.shard_tokens == 0 {
        return Err(Error::usage("shard_tokens = 0: a shard holds at least one token"));
    }
    create_dir(dir)?;
    if dir.join(INFO_FILE).exists() {
        return Err(Error::failed(format!("{} holds shards already", dir.display())).with_hint("name another folder"));
    }
    let encoder = Encoder {
        tokenizer,
        around: config.boundary.ids(tokenizer)?,
        fim: config.fim.ready(tokenizer, seed)?,
        width: Width::of(tokenizer.vocab_size()),
    };
    let mut writer = Writer { dir, config, width: encoder.width, shard: None, done: Vec::new() };
    let mut info = ShardsInfo {
        version: VERSION,
        width: encoder.width,
        vocab_size: tokenizer.vocab_size(),
        tokenizer: tokenizer.sha256(),
        begin: encoder.around[0],
        end: encoder.around[1],
        seed,
        fim: encoder.fim.is_some().then(|| config.fim.clone()),
        ..ShardsInfo::default()
    };
    let mut documents = documents;
    let mut batch = read_batch(&mut documents)?;
    while !batch.is_empty() {
        // While all cores encode a batch, one of them reads the next.
        let first = info.documents;
        let (next, encoded) = rayon::join(|| read_batch(&mut documents), || encoder.encode_all(&batch, first));
        for (document, encoded) in batch.iter().zip(encoded?) {
            info.documents += 1;
            info.text_bytes += document.text.len() as u64;
            info.tokens += u64::from(encoded.tokens);
            info.rearranged += u64::from(encoded.rearranged);
            writer.write(&encoded)?;
        }
        batch = next?;
    }
    info.shards = writer.finish()?;
    let mut text = serde_json::to_vec_pretty(&info).context(|| format!("cannot write {INFO_FILE}"))?;
    text.push(b'\n');
    write_atomic(&dir.join(INFO_FILE), &text)?;
    Ok(info)
}

fn read_batch(documents: &mut impl Iterator<Item = Result<Document>>) -> Result<Vec<Document>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES && batch.len() < BATCH_DOCUMENTS {
        let Some(document) = documents.next().transpose()? else { break };
        bytes += document.text.len();
        batch.push(document);
    }
    Ok(batch)
}

/// A document as it stands in a shard.
struct Encoded {
    bytes: Vec<u8>,
    tokens: u32,
    rearranged: bool,
}

struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    around: [Option<u32>; 2],
    fim: Option<Rearranging<'a>>,
    width: Width,
}

impl Encoder<'_> {
    fn encode_all(&self, batch: &[Document], first: u64) -> Result<Vec<Encoded>> {
        let encode = |ids: &mut Vec<u32>, (i, document)| self.encode(document, first + i as u64, ids);
        batch.par_iter().enumerate().map_init(Vec::new, encode).collect()
    }

    fn encode(&self, document: &Document, number: u64, ids: &mut Vec<u32>) -> Result<Encoded> {
        ids.clear();
        ids.extend(self.around[0]);
        let names = [document.source.as_str(), document.id.as_str()];
        let rearranged = match &self.fim {
            Some(fim) => fim.encode(self.tokenizer, &document.text, names, number, ids)?,
            None => false,
        };
        if !rearranged {
            self.tokenizer.encode_into(&document.text, ids)?;
        }
        ids.extend(self.around[1]);
        let tokens = u32::try_from(ids.len()).ok().filter(|n| i32::try_from(*n).is_ok()).ok_or_else(|| {
            Error::failed(format!("the document {} has {} tokens, more than a shard can say", document.id, ids.len()))
                .with_hint("divide it")
        })?;
        let mut bytes = Vec::with_capacity(ids.len() * self.width.bytes());
        self.width.put(ids, &mut bytes);
        Ok(Encoded { bytes, tokens, rearranged })
    }
}

/// Writes shards one after another.
struct Writer<'a> {
    dir: &'a Path,
    config: &'a PackConfig,
    width: Width,
    shard: Option<Open>,
    done: Vec<ShardInfo>,
}

/// The shard that is being written.
struct Open {
    name: String,
    partial: PathBuf,
    file: BufWriter<File>,
    lengths: Vec<u32>,
    tokens: u64,
}

impl Writer<'_> {
    fn write(&mut self, encoded: &Encoded) -> Result<()> {
        let full =
            |shard: &Open| shard.tokens > 0 && shard.tokens + u64::from(encoded.tokens) > self.config.shard_tokens;
        if self.shard.as_ref().is_some_and(full) {
            self.close()?;
        }
        let shard = match &mut self.shard {
            Some(shard) => shard,
            none => none.insert(Open::create(self.dir, self.done.len())?),
        };
        shard.file.write_all(&encoded.bytes).context(|| format!("cannot write {}", shard.partial.display()))?;
        shard.lengths.push(encoded.tokens);
        shard.tokens += u64::from(encoded.tokens);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(mut shard) = self.shard.take() else { return Ok(()) };
        let (bin, idx) = (self.dir.join(format!("{}.bin", shard.name)), self.dir.join(format!("{}.idx", shard.name)));
        let cannot = || format!("cannot write {}", bin.display());
        shard.file.flush().context(cannot)?;
        shard.file.get_ref().sync_all().context(cannot)?;
        std::fs::rename(&shard.partial, &bin).context(cannot)?;
        write_index(&idx, self.width, &shard.lengths)?;
        self.done.push(ShardInfo {
            documents: shard.lengths.len() as u64,
            tokens: shard.tokens,
            bin_sha256: hash_file(&bin)?.0,
            idx_sha256: hash_file(&idx)?.0,
            name: shard.name,
        });
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<ShardInfo>> {
        self.close()?;
        Ok(self.done)
    }
}

impl Open {
    fn create(dir: &Path, number: usize) -> Result<Self> {
        let name = format!("tokens-{number:05}");
        let partial = dir.join(format!(".{name}.bin.partial"));
        let file = File::create(&partial).context(|| format!("cannot write {}", partial.display()))?;
        Ok(Self { name, partial, file: BufWriter::with_capacity(1 << 20, file), lengths: Vec::new(), tokens: 0 })
    }
}
