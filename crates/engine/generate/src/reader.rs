//! Encoders at work: vectors of texts, their labels, words behind masks.

use std::path::Path;

use cupola_arch::Model;
use cupola_artifact::{Error, Result, read_text};
use cupola_nn::{Batch, Encoder, Module, Pool, Task, pooled};
use cupola_tokenizer::Tokenizer;
use serde_json::Value;

/// Tokens of one forward pass, padding included.
const TOKENS_PER_PASS: usize = 8192;

/// What tokenizers call the mask.
const MASKS: &[&str] = &["[MASK]", "<mask>", "<|mask|>"];

/// What an encoder can be asked besides vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Vectors alone.
    Vectors,
    /// Words behind masks.
    Masks,
    /// Labels of texts.
    Labels,
}

/// A word for a mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Filling {
    /// Its token.
    pub token: u32,
    /// Its text.
    pub text: String,
    /// The whole text with it.
    pub sequence: String,
    /// Its probability.
    pub score: f32,
}

/// An encoder with its tokenizer.
#[derive(Clone)]
pub struct Reader {
    encoder: Encoder,
    tokenizer: Tokenizer,
    pool: Pool,
}

/// How a folder of sentence-transformers says that vectors stand for texts; the mean where nothing says it.
fn pool_of(dir: &Path) -> Result<Pool> {
    let file = dir.join("1_Pooling").join("config.json");
    if !file.exists() {
        return Ok(Pool::Mean);
    }
    let settings: Value = serde_json::from_str(&read_text(&file)?)
        .map_err(|e| Error::failed(format!("{} is not JSON", file.display())).with_source(e))?;
    let is = |key: &str| settings[key].as_bool().unwrap_or(false);
    match [is("pooling_mode_mean_tokens"), is("pooling_mode_cls_token"), is("pooling_mode_lasttoken")] {
        [true, false, false] => Ok(Pool::Mean),
        [false, true, false] => Ok(Pool::First),
        [false, false, true] => Ok(Pool::Last),
        _ => Err(Error::failed(format!("{} asks for a pooling that is not built", file.display()))
            .with_hint("this build knows the mean of all tokens, the first and the last")),
    }
}

/// Probabilities of scores: of each for itself, or of all together.
fn probabilities(scores: &[f32], each: bool) -> Vec<f32> {
    if each {
        return scores.iter().map(|s| 1.0 / (1.0 + (-s).exp())).collect();
    }
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

impl Reader {
    /// Loads a model directory.
    ///
    /// # Errors
    /// As [`crate::load_model`]; a model that is no encoder.
    pub fn load(dir: &Path, device: &str) -> Result<Self> {
        let (model, tokenizer) = crate::load_model(dir, &cupola_ops::open(device)?)?;
        Self::new(&model, tokenizer, pool_of(dir)?)
    }

    /// The same of a model that is there already.
    ///
    /// # Errors
    /// A model that is no encoder.
    pub fn new(model: &Model, tokenizer: Tokenizer, pool: Pool) -> Result<Self> {
        let mut encoder = model.encoder()?.clone();
        encoder.set_trainable(|_| false);
        Ok(Self { encoder, tokenizer, pool })
    }

    /// What it can be asked besides vectors.
    pub fn reads(&self) -> Reads {
        match self.encoder.spec().head.map(|head| head.task) {
            Some(Task::Masked) => Reads::Masks,
            Some(Task::Label | Task::Labels | Task::Numbers) => Reads::Labels,
            _ => Reads::Vectors,
        }
    }

    /// What the tokenizer calls the mask.
    pub fn mask(&self) -> Option<&'static str> {
        MASKS.iter().copied().find(|name| self.tokenizer.token_to_id(name).is_some())
    }

    /// The longest text, tokens around it included.
    pub fn max_seq_len(&self) -> usize {
        self.encoder.spec().stack.max_seq_len
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokens of a text with those around it.
    ///
    /// # Errors
    /// An empty text, and one that is too long and may not be cut.
    pub fn tokens(&self, text: &str, cut: bool) -> Result<Vec<u32>> {
        let most = self.max_seq_len();
        let ids = self.tokenizer.encode_framed(text, cut.then_some(most))?;
        self.check(&ids)?;
        Ok(ids)
    }

    /// Whether the model can read these tokens.
    ///
    /// # Errors
    /// None, too many, or one that it does not know.
    pub fn check(&self, ids: &[u32]) -> Result<()> {
        let (most, known) = (self.max_seq_len(), self.encoder.spec().stack.vocab_size);
        if ids.is_empty() {
            return Err(Error::usage("a text has no tokens"));
        }
        if ids.len() > most {
            return Err(Error::usage(format!("a text has {} tokens, but the model reads at most {most}", ids.len())));
        }
        match ids.iter().find(|id| **id as usize >= known) {
            Some(id) => Err(Error::usage(format!("a text has the token {id}, but the model knows only {known}"))),
            None => Ok(()),
        }
    }

    /// Runs `f` over batches of texts, in order.
    fn passes(&self, texts: &[Vec<u32>], mut f: impl FnMut(&Batch)) {
        let pad = self.encoder.spec().pad.unwrap_or(0);
        let mut rest = texts;
        while !rest.is_empty() {
            let (mut rows, mut width) = (0, 0);
            while let Some(text) = rest.get(rows) {
                let wider = text.len().max(width);
                if rows > 0 && (rows + 1) * wider > TOKENS_PER_PASS {
                    break;
                }
                (rows, width) = (rows + 1, wider);
            }
            let (now, later) = rest.split_at(rows);
            let mut ids = Vec::with_capacity(rows * width);
            for (row, text) in now.iter().enumerate() {
                ids.extend_from_slice(text);
                ids.resize((row + 1) * width, pad);
            }
            let places: Vec<_> = now.iter().map(|text| 0..text.len()).collect();
            f(&self.encoder.spec().batch(ids, &places));
            rest = later;
        }
    }

    /// A vector of length 1 for each text; texts as [`Self::check`] wants them, here and below.
    pub fn vectors(&self, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let mut all = vec![];
        self.passes(texts, |batch| {
            let vectors = pooled(self.pool, self.encoder.hidden(batch), batch);
            let width = vectors.dims()[1];
            all.extend(cupola_ops::into_vec(vectors).chunks(width).map(|vector| {
                let norm = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
                vector.iter().map(|v| (f64::from(*v) / norm) as f32).collect::<Vec<f32>>()
            }));
        });
        all
    }

    /// The labels of each text with their probabilities, the likeliest first; numbers stay as they are.
    ///
    /// # Errors
    /// A model that gives no labels.
    pub fn labels(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<(String, f32)>>> {
        let spec = self.encoder.spec();
        let task = match spec.head {
            Some(head) if self.reads() == Reads::Labels => head.task,
            _ => return Err(Error::usage("this model gives no labels to texts")),
        };
        let mut all = vec![];
        self.passes(texts, |batch| {
            let scores = cupola_ops::into_vec(self.encoder.scores(self.encoder.hidden(batch), batch));
            all.extend(scores.chunks(spec.labels.len().max(1)).map(|scores| {
                let scores = match task {
                    Task::Numbers => scores.to_vec(),
                    _ => probabilities(scores, task == Task::Labels),
                };
                let mut named: Vec<(String, f32)> = spec.labels.iter().cloned().zip(scores).collect();
                named.sort_by(|a, b| b.1.total_cmp(&a.1));
                named
            }));
        });
        Ok(all)
    }

    /// The likeliest words for each mask of a text, the likeliest first.
    ///
    /// # Errors
    /// A model that fills none; a text without masks.
    pub fn fillings(&self, text: &[u32], most: usize) -> Result<Vec<Vec<Filling>>> {
        if self.reads() != Reads::Masks {
            return Err(Error::usage("this model fills no masks"));
        }
        let mask = self.mask().and_then(|name| Some((name, self.tokenizer.token_to_id(name)?)));
        let (name, mask) = mask.ok_or_else(|| Error::usage("this model's tokenizer has no mask"))?;
        let places: Vec<u32> = (0..text.len() as u32).filter(|at| text[*at as usize] == mask).collect();
        if places.is_empty() {
            return Err(Error::usage(format!("the text has no {name}")));
        }
        let batch = self.encoder.spec().batch(text.to_vec(), std::slice::from_ref(&(0..text.len())));
        let scores = self.encoder.scores_at(self.encoder.hidden(&batch), &places.clone().into());
        let known = scores.dims()[1];
        let scores = cupola_ops::into_vec(scores);
        let of_place = |(at, scores): (&u32, &[f32])| {
            let shares = probabilities(scores, false);
            let mut order: Vec<usize> = (0..known).collect();
            order.sort_by(|a, b| shares[*b].total_cmp(&shares[*a]));
            let filled = |token: usize| {
                let mut whole = text.to_vec();
                whole[*at as usize] = token as u32;
                // Other masks stay to be seen.
                let sequence = match places.len() {
                    1 => self.tokenizer.decode(&whole)?,
                    _ => self.tokenizer.decode_special(&whole)?,
                };
                let (token, score) = (token as u32, shares[token]);
                Ok(Filling { token, text: self.tokenizer.decode(&[token])?, sequence, score })
            };
            order.into_iter().take(most).map(filled).collect::<Result<Vec<_>>>()
        };
        places.iter().zip(scores.chunks(known)).map(of_place).collect()
    }
}
