//! The index of a step that compares documents: its keys and sketches, kept in the artifact, so that a later run compares its
//! own documents with those of this one without reading them.
//!
//! `NAME.keys` are the keys in the order of their hashes, as in a part, their places counted from 0 in the order of the
//! documents; `NAME.sketch` the documents' sketches; `NAME.json` says what they are. All documents that came to the step are
//! in it, those that it dropped too: so a later run decides just what one run over both would have decided.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use cupola_artifact::stage::StageContext;
use cupola_artifact::{Context, Error, Result, create_dir, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bloom::Bloom;
use super::groups::RANGE_BYTES;
use super::part::{self, KeyFile, PartId};
use crate::step::{ANY_SIZE, Across, Key, Place, Step};

/// The folder of an artifact that holds its indexes.
const INDEX_DIR: &str = "index";

/// Bits that number an index's documents; the number of the index stands above them.
const DOCUMENT_BITS: u32 = 40;

/// What an index's `.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Description {
    /// The step.
    step: String,
    /// Its settings, which a later run must share.
    settings: Value,
    /// Documents.
    documents: u64,
    /// Keys.
    keys: u64,
    /// Whether the keys are bits of a Bloom filter.
    bloom: bool,
}

/// Where in a pass's folder an index is made.
fn made_in(dir: &Path, ending: &str) -> PathBuf {
    dir.join(format!("index.{ending}"))
}

/// Makes a step's index of the parts in `dir`, once.
pub fn make(step: &Step, across: &dyn Across, dir: &Path, parts: &[PartId]) -> Result<()> {
    if made_in(dir, "json").exists() {
        return Ok(());
    }
    let mut bases = Vec::with_capacity(parts.len());
    let mut documents = 0;
    for id in parts {
        bases.push((*id, documents));
        documents += part::Description::read(dir, *id)?.map_or(0, |description| description.documents);
    }
    let bloom = across.bloom().is_some();
    // The filter was written when the keys were judged.
    let keys = if bloom { 0 } else { write_keys(dir, &bases)? };
    if !bloom && across.sketch_bytes() > 0 {
        let any_size = across.sketch_bytes() == ANY_SIZE;
        write_sketches(dir, &bases, any_size.then_some(documents))?;
    }
    let description =
        Description { step: step.kind.name.to_owned(), settings: step.settings.clone(), documents, keys, bloom };
    let json = serde_json::to_vec_pretty(&description).context(|| "cannot write an index".to_owned())?;
    write_atomic(&made_in(dir, "json"), &json)
}

/// Brings the parts' keys together, some hashes at a time.
fn write_keys(dir: &Path, bases: &[(PartId, u64)]) -> Result<u64> {
    let path = made_in(dir, "keys");
    let cannot = || format!("cannot write {}", path.display());
    let mut out = BufWriter::new(File::create(&path).context(cannot)?);
    let files = bases.iter().map(|(id, _)| KeyFile::open(id.file(dir, "keys"))).collect::<Result<Vec<_>>>()?;
    let all: u64 = files.iter().map(KeyFile::len).sum();
    let ranges = (all * part::KEY_BYTES as u64).div_ceil(RANGE_BYTES).max(1).next_power_of_two();
    let mut keys: Vec<Key> = Vec::new();
    for range in 0..ranges {
        keys.clear();
        let (from, to) = super::groups::hashes(range, ranges);
        for (file, (id, base)) in files.iter().zip(bases) {
            let first = keys.len();
            file.read_range(from, to, &mut keys)?;
            keys[first..].iter_mut().for_each(|key| key.place = base + (key.place - id.place(0)));
        }
        keys.sort_unstable();
        for key in &keys {
            out.write_all(&part::key_bytes(key)).context(cannot)?;
        }
    }
    out.flush().context(cannot)?;
    Ok(all)
}

/// One part's sketches after the other's; before those of any size, of so many documents, the places where they begin and
/// end.
fn write_sketches(dir: &Path, bases: &[(PartId, u64)], any_size: Option<u64>) -> Result<()> {
    let path = made_in(dir, "sketch");
    let cannot = || format!("cannot write {}", path.display());
    let mut out = BufWriter::new(File::create(&path).context(cannot)?);
    let read = |id: PartId| {
        let file = id.file(dir, "sketch");
        std::fs::read(&file).context(|| format!("cannot read {}", file.display()))
    };
    if let Some(documents) = any_size {
        // The parts' own tables tell how long each is.
        let mut at = 8 * (documents + 1);
        out.write_all(&at.to_le_bytes()).context(cannot)?;
        for (id, _) in bases {
            for two in table(&read(*id)?).windows(2) {
                at += two[1] - two[0];
                out.write_all(&at.to_le_bytes()).context(cannot)?;
            }
        }
    }
    for (id, _) in bases {
        let bytes = read(*id)?;
        let skip = if any_size.is_some() { table(&bytes).first().map_or(0, |first| *first as usize) } else { 0 };
        out.write_all(bytes.get(skip..).unwrap_or_default()).context(cannot)?;
    }
    out.flush().context(cannot)
}

/// Where sketches of any size begin, and where the last ends.
fn table(bytes: &[u8]) -> Vec<u64> {
    let word = |word: &[u8; 8]| u64::from_le_bytes(*word);
    let words = bytes.as_chunks::<8>().0;
    let count = words.first().map_or(0, word) / 8;
    words.iter().take(count as usize).map(word).collect()
}

/// Moves a step's index from its pass's folder into the artifact.
pub fn publish(dir: &Path, number: usize, step: &Step, artifact: &Path) -> Result<()> {
    let to = artifact.join(INDEX_DIR);
    create_dir(&to)?;
    for ending in ["keys", "sketch", "bloom", "json"] {
        let from = made_in(dir, ending);
        if from.exists() {
            let to = to.join(format!("{number}-{}.{ending}", step.kind.name));
            std::fs::copy(&from, &to).context(|| format!("cannot write {}", to.display()))?;
        }
    }
    Ok(())
}

/// Where the Bloom filter of a pass is written.
pub fn bloom_file(dir: &Path) -> PathBuf {
    made_in(dir, "bloom")
}

/// The indexes of earlier runs that a step compares with.
#[derive(Default)]
pub struct Earlier {
    indexes: Vec<Index>,
    sketch_bytes: usize,
}

struct Index {
    path: PathBuf,
    keys: Option<KeyFile>,
    sketches: Option<File>,
    bloom: Option<PathBuf>,
}

impl Earlier {
    /// Opens what `against` names.
    ///
    /// # Errors
    /// An artifact without an index of this step with these settings.
    pub fn open(step: &Step, across: &dyn Across, context: &StageContext<'_>) -> Result<Self> {
        let open = |name: &String| find(&artifact(name, context), name, step).and_then(|path| Index::open(&path));
        let indexes = step.against.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { indexes, sketch_bytes: across.sketch_bytes() })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    /// Bytes of their keys.
    pub fn bytes(&self) -> u64 {
        self.indexes
            .iter()
            .filter_map(|index| index.keys.as_ref())
            .map(|keys| keys.len() * part::KEY_BYTES as u64)
            .sum()
    }

    /// Adds the keys whose hashes are in `from..=to`; their places are below `1 << 63`, in the order of the indexes.
    pub fn read_range(&self, from: u64, to: u64, into: &mut Vec<Key>) -> Result<()> {
        for (number, index) in (0..).zip(&self.indexes) {
            let first = into.len();
            if let Some(keys) = &index.keys {
                keys.read_range(from, to, into)?;
            }
            into[first..].iter_mut().for_each(|key| key.place |= number << DOCUMENT_BITS);
        }
        Ok(())
    }

    /// A part of the sketch of a document of theirs.
    pub fn sketch(&self, place: Place, range: Range<usize>) -> Result<Vec<u8>> {
        let number = (place >> DOCUMENT_BITS) as usize;
        let document = place & ((1 << DOCUMENT_BITS) - 1);
        let index = self.indexes.get(number);
        let Some((index, file)) = index.and_then(|index| Some((index, index.sketches.as_ref()?))) else {
            return Err(Error::failed("an index has no sketches"));
        };
        part::read_sketch(file, self.sketch_bytes, document as usize, range)
            .context(|| format!("cannot read {}", index.path.display()))
    }

    /// Their Bloom filters.
    pub fn blooms(&self) -> Result<Vec<Bloom>> {
        self.indexes.iter().filter_map(|index| index.bloom.as_ref()).map(|path| Bloom::read(path)).collect()
    }
}

impl Index {
    fn open(path: &Path) -> Result<Self> {
        let file = |ending: &str| Some(path.with_extension(ending)).filter(|path| path.exists());
        let sketches =
            file("sketch").map(|path| File::open(&path).context(|| format!("cannot read {}", path.display())));
        Ok(Self {
            path: path.to_path_buf(),
            keys: file("keys").map(KeyFile::open).transpose()?,
            sketches: sketches.transpose()?,
            bloom: file("bloom"),
        })
    }
}

/// The folder of the artifact that a recipe calls so.
fn artifact(name: &str, context: &StageContext<'_>) -> PathBuf {
    let is_it = |input: &&cupola_artifact::stage::Input| {
        let full = input.kind.as_ref().map(|kind| format!("{kind}.{}", input.reference));
        input.reference == name || full.as_deref() == Some(name)
    };
    let named = context.inputs_for("steps").find(is_it).map(|input| input.path.clone());
    named.unwrap_or_else(|| context.recipe_dir.join(name))
}

/// The index of a step with these settings in an artifact.
fn find(artifact: &Path, name: &str, step: &Step) -> Result<PathBuf> {
    let dir = artifact.join(INDEX_DIR);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let mut others = Vec::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "json")) {
        let bytes = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
        let found: Description =
            serde_json::from_slice(&bytes).context(|| format!("{} describes no index", path.display()))?;
        match found.step == step.kind.name {
            true if found.settings == step.settings => return Ok(path.clone()),
            true => others.push(found.settings.to_string()),
            false => {}
        }
    }
    let error = Error::failed(format!("`{name}` has no index of `{}` with these settings", step.kind.name));
    Err(match others.is_empty() {
        true => error.with_hint(format!(
            "run it again with `{{ step = \"{}\", keep_index = true }}` among its `steps`",
            step.kind.name
        )),
        false => error.with_hint(format!("it has one with {}, not {}", others.join(" and "), step.settings)),
    })
}
