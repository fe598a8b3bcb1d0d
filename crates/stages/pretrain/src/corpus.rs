//! What is trained on: documents that are encoded here, or packs of shards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cupola_arch::Model;
use cupola_artifact::stage::{Input, Plan};
use cupola_artifact::{Error, Result, human_bytes, human_count};
use cupola_generate::{ScoreTexts, document_start};
use cupola_nn::Rng;
use cupola_records::{Document, Split, read_documents, total_bytes};
use cupola_tokenizer::Tokenizer;
use cupola_tokenizer::pack::{ROWS_FILE, Sequences, Shards};

use crate::config::PretrainConfig;
use crate::mixture::{Mixed, Schedule};
use crate::rows::Rows;
use crate::shards::{Arranged, Cut, HELD_OUT_TOKENS, Shuffled, check_length, is_pack, some_documents};
use crate::stream::{Stream, StreamRows};

/// The artifact of a pack stage.
pub struct Pack {
    name: String,
    path: PathBuf,
    train: Arc<Shards>,
    validation: Option<Shards>,
}

/// What is trained on.
pub enum Corpus {
    /// Documents as one stream of tokens.
    Documents {
        /// Where they are.
        data: PathBuf,
        /// Their text, bytes.
        bytes: u64,
        /// Their tokens.
        stream: Arc<Stream>,
        /// The token before each.
        start: u32,
    },
    /// Shards.
    Packs(Vec<Pack>),
}

/// How rows are drawn.
pub struct Drawing<'a> {
    /// The settings.
    pub config: &'a PretrainConfig,
    /// Tokens of a row.
    pub seq_len: usize,
    /// Rows of a step.
    pub sequences: usize,
    /// Steps.
    pub steps: u64,
    /// Where chance starts.
    pub seed: u64,
    /// Whether the rows that packs arranged are taken: they have padding, which only the next token can be learned beside.
    pub arranged: bool,
}

/// The packs among the inputs; none where documents are given.
///
/// # Errors
/// Several inputs that are not all packs, shards that cannot be read.
pub fn packs(data: &[&Input]) -> Result<Option<Vec<Pack>>> {
    match data.iter().filter(|input| is_pack(&input.path)).count() {
        0 if data.len() == 1 => Ok(None),
        n if n == data.len() => data.iter().map(|input| Pack::open(input)).collect::<Result<_>>().map(Some),
        _ => Err(several(data)),
    }
}

fn several(data: &[&Input]) -> Error {
    let named: Vec<&str> = data.iter().map(|input| input.reference.as_str()).collect();
    Error::usage(format!("`data` in [pretrain] names {}, which are not all packs", named.join(", ")))
        .with_hint("pack each by a stage [pack.NAME], or name one data stage")
}

impl Pack {
    fn open(input: &Input) -> Result<Self> {
        let validation = input.path.join("validation");
        Ok(Self {
            name: input.reference.clone(),
            path: input.path.clone(),
            train: Arc::new(Shards::open(&input.path.join("train"))?),
            validation: validation.is_dir().then(|| Shards::open(&validation)).transpose()?,
        })
    }

    /// The rows to train on.
    fn rows(&self, drawing: &Drawing<'_>, tokenizer: &Tokenizer, seed: u64) -> Result<Box<dyn Rows>> {
        let info = self.train.info();
        if drawing.arranged {
            let pad = tokenizer.pad().or(info.begin).or(info.end).unwrap_or(0);
            if let Some(rows) = Arranged::open(&self.train, drawing.seq_len, pad)? {
                return Ok(Box::new(Shuffled::new(rows, seed)));
            }
        }
        Ok(Box::new(Shuffled::new(Cut::new(&self.train, drawing.seq_len, seed)?, seed)))
    }

    /// The tokens of some held-out documents.
    fn held_out(&self, most: u64) -> Result<Vec<Vec<u32>>> {
        self.validation.as_ref().map_or(Ok(Vec::new()), |shards| some_documents(shards, most))
    }

    /// Held-out documents with the token before each first and without what stands behind them, and their bytes.
    fn held_out_texts(&self, start: u32, tokenizer: &Tokenizer, most: u64) -> Result<(Vec<Vec<u32>>, u64)> {
        let Some(info) = self.validation.as_ref().map(Shards::info) else { return Ok((Vec::new(), 0)) };
        let mut documents = self.held_out(most)?;
        let mut bytes = 0;
        for ids in &mut documents {
            ids.pop_if(|id| Some(*id) == info.end);
            if info.begin.is_none() {
                ids.insert(0, start);
            }
            if info.tokens > most {
                bytes += tokenizer.decode(ids.get(1..).unwrap_or_default())?.len() as u64;
            }
        }
        Ok((documents, if info.tokens > most { bytes } else { info.text_bytes }))
    }
}

/// The tokenizer that packs were made with.
///
/// # Errors
/// Packs of different tokenizers, or another one in the recipe.
pub fn tokenizer_of(packs: &[Pack], named: Option<&Input>) -> Result<Tokenizer> {
    let [first, others @ ..] = packs else { return Err(Error::usage("`data` in [pretrain] names nothing")) };
    let wanted = &first.train.info().tokenizer;
    if let Some(other) = others.iter().find(|pack| pack.train.info().tokenizer != *wanted) {
        return Err(Error::usage(format!(
            "`{}` and `{}` were packed with different tokenizers",
            first.name, other.name
        ))
        .with_hint("pack both with the same one"));
    }
    if let Some(named) = named
        && Tokenizer::load(&named.path)?.sha256() != *wanted
    {
        let message = format!(
            "`tokenizer = \"{}\"` in [pretrain] is not the one that `{}` was packed with",
            named.reference, first.name
        );
        return Err(Error::usage(message).with_hint("leave `tokenizer` out: a pack brings its own"));
    }
    Tokenizer::load(&first.path)
}

impl Corpus {
    /// Encodes documents.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(data: &Path, documents: Vec<Document>, tokenizer: &Tokenizer, start: u32) -> Result<Self> {
        let stream = Arc::new(Stream::encode(&documents, tokenizer, start)?);
        Ok(Self::Documents { data: data.to_path_buf(), bytes: total_bytes(&documents), stream, start })
    }

    /// Tokens to train on.
    pub fn tokens(&self) -> u64 {
        match self {
            Self::Documents { stream, .. } => stream.len() as u64,
            Self::Packs(packs) => packs.iter().map(|pack| pack.train.info().tokens).sum(),
        }
    }

    /// Their text, bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Documents { bytes, .. } => *bytes,
            Self::Packs(packs) => packs.iter().map(|pack| pack.train.info().text_bytes).sum(),
        }
    }

    /// The rows to train on.
    ///
    /// # Errors
    /// Too little text, rows of another length, a curriculum that does not fit.
    pub fn rows(&self, drawing: &Drawing<'_>, tokenizer: &Tokenizer) -> Result<Box<dyn Rows>> {
        let packs = match self {
            Self::Documents { stream, .. } => {
                return Ok(Box::new(StreamRows::new(Arc::clone(stream), drawing.seq_len, drawing.seed)?));
            }
            Self::Packs(packs) => packs,
        };
        if let [pack] = &packs[..] {
            return pack.rows(drawing, tokenizer, drawing.seed);
        }
        let tokens: Vec<f64> = packs.iter().map(|pack| pack.train.info().tokens as f64).collect();
        let names: Vec<&str> = packs.iter().map(|pack| pack.name.as_str()).collect();
        let schedule = schedule(drawing.config, &names, &tokens, drawing.steps)?;
        let seed = |pack: &Pack| Rng::new(drawing.seed, &format!("rows of {}", pack.name)).next_u64();
        let sources = packs.iter().map(|pack| pack.rows(drawing, tokenizer, seed(pack))).collect::<Result<_>>()?;
        Ok(Box::new(Mixed::new(sources, schedule, drawing.sequences)))
    }

    /// The held-out documents to be scored; none where there are none.
    ///
    /// # Errors
    /// Documents that cannot be read or encoded.
    pub fn held_out_texts(&self, model: &Model, tokenizer: &Tokenizer) -> Result<Option<ScoreTexts>> {
        let decoder = model.decoder()?;
        match self {
            Self::Documents { data, .. } => {
                let documents = read_documents(data, Split::Validation)?;
                let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
                let encode = || ScoreTexts::encode(decoder, tokenizer, &texts);
                (!texts.is_empty()).then(encode).transpose()
            }
            Self::Packs(packs) => {
                let start = document_start(decoder, tokenizer)?;
                let (mut all, mut bytes) = (Vec::new(), 0);
                for pack in packs {
                    let (documents, more) =
                        pack.held_out_texts(start, tokenizer, HELD_OUT_TOKENS / packs.len() as u64)?;
                    all.extend(documents);
                    bytes += more;
                }
                let some = all.iter().any(|ids| ids.len() > 1);
                Ok(some.then(|| ScoreTexts::of_tokens(decoder, &all, bytes)))
            }
        }
    }

    /// The held-out documents as one stream; none where there are none.
    ///
    /// # Errors
    /// Documents that cannot be read or encoded.
    pub fn held_out_stream(&self, tokenizer: &Tokenizer) -> Result<Option<Stream>> {
        match self {
            Self::Documents { data, start, .. } => {
                let documents = read_documents(data, Split::Validation)?;
                (!documents.is_empty()).then(|| Stream::encode(&documents, tokenizer, *start)).transpose()
            }
            Self::Packs(packs) => {
                let most = HELD_OUT_TOKENS / packs.len() as u64;
                let documents = packs.iter().map(|pack| pack.held_out(most)).collect::<Result<Vec<_>>>()?.concat();
                Ok((!documents.is_empty()).then(|| Stream::of_documents(&documents)))
            }
        }
    }
}

fn schedule(config: &PretrainConfig, names: &[&str], tokens: &[f64], steps: u64) -> Result<Schedule> {
    match config.curriculum.is_empty() {
        true => Ok(Schedule::constant(steps, tokens)),
        false => Schedule::new(&config.curriculum, steps, names),
    }
}

/// What is known of a source before the training.
pub struct Known {
    name: String,
    documents: f64,
    /// Bytes of text.
    pub bytes: f64,
    /// Tokens to train on.
    pub tokens: f64,
    /// Rows to train on.
    rows: f64,
    /// Whether this was counted, not estimated.
    counted: bool,
    /// The rows of its tokenizer's vocabulary.
    pub vocab_size: Option<usize>,
}

/// What is known of packs that may not be there yet; none where documents are given.
///
/// # Errors
/// Several inputs that are not all packs, rows of another length than the model's.
pub fn known(data: &[(&Input, Option<&Plan>)], seq_len: usize, arranged: bool) -> Result<Option<Vec<Known>>> {
    let is_pack = |(input, _): &&(&Input, Option<&Plan>)| input.kind.as_deref() == Some("pack") || is_pack(&input.path);
    match data.iter().filter(is_pack).count() {
        0 if data.len() == 1 => Ok(None),
        n if n == data.len() => {
            data.iter().map(|(i, plan)| known_of(i, *plan, seq_len, arranged)).collect::<Result<_>>().map(Some)
        }
        _ => Err(several(&data.iter().map(|(input, _)| *input).collect::<Vec<_>>())),
    }
}

/// Counted where the pack is there, else from its plan.
fn known_of(input: &Input, plan: Option<&Plan>, seq_len: usize, arranged: bool) -> Result<Known> {
    let fact = |name: &str| plan.and_then(|plan| plan.facts.get(name).copied());
    if let (Some(longest), true) = (fact("row_length"), arranged) {
        check_length(longest, seq_len)?;
    }
    if !is_pack(&input.path) {
        let tokens = fact("train_tokens").unwrap_or(0.0);
        return Ok(Known {
            name: input.reference.clone(),
            documents: fact("documents").unwrap_or(0.0),
            bytes: fact("train_bytes").unwrap_or(0.0),
            tokens,
            rows: (tokens / seq_len as f64).max(1.0),
            counted: false,
            vocab_size: fact("vocab_size").map(|size| size as usize),
        });
    }
    Pack::open(input)?.known(seq_len, arranged)
}

impl Pack {
    fn known(&self, seq_len: usize, arranged: bool) -> Result<Known> {
        let info = self.train.info();
        let rows = self.train.dir().join(ROWS_FILE);
        let rows = match arranged && rows.is_file() {
            true => Sequences::open(&rows, Arc::clone(&self.train))?.len(),
            false => crate::shards::cut_rows(info.tokens, seq_len),
        };
        Ok(Known {
            name: self.name.clone(),
            documents: info.documents as f64,
            bytes: info.text_bytes as f64,
            tokens: info.tokens as f64,
            rows: rows as f64,
            counted: true,
            vocab_size: Some(info.vocab_size),
        })
    }
}

impl Corpus {
    /// What is known of its packs.
    ///
    /// # Errors
    /// Rows that cannot be read.
    pub fn known(&self, seq_len: usize, arranged: bool) -> Result<Vec<Known>> {
        match self {
            Self::Documents { .. } => Ok(Vec::new()),
            Self::Packs(packs) => packs.iter().map(|pack| pack.known(seq_len, arranged)).collect(),
        }
    }
}

/// A line about each source: what it has and how much of the training it is.
///
/// # Errors
/// A curriculum that does not fit.
pub fn mixture(known: &[Known], config: &PretrainConfig, steps: u64, sequences: usize) -> Result<Vec<String>> {
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let tokens: Vec<f64> = known.iter().map(|source| source.tokens.max(1.0)).collect();
    let names: Vec<&str> = known.iter().map(|source| source.name.as_str()).collect();
    let rows = schedule(config, &names, &tokens, steps)?.rows(steps, sequences);
    let all = (rows.iter().sum::<u64>() as f64).max(1.0);
    let line = |(source, rows): (&Known, u64)| {
        format!(
            "{}: {}{} documents, {}, {} tokens; {:.1}% of the training, {:.2} epochs",
            source.name,
            if source.counted { "" } else { "about " },
            human_count(source.documents),
            human_bytes(source.bytes),
            human_count(source.tokens),
            100.0 * rows as f64 / all,
            rows as f64 / source.rows.max(1.0),
        )
    };
    Ok(known.iter().zip(rows).map(line).collect())
}
