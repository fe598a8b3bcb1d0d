//! The pairs of a memory, their settings, and the files that hold them.

use std::path::Path;

use cupola_artifact::{
    Context, DType, Error, HostTensor, Result, StateDict, read_safetensors, write_atomic, write_safetensors,
};
use serde::{Deserialize, Serialize};

use crate::cells::Cells;
use crate::search::{Found, Keys};

/// The file with a memory's settings; a model folder that has it has a memory.
pub const MEMORY: &str = "memory.json";
const PAIRS: &str = "memory.safetensors";

/// Pairs whose distances to their nearest others make the scale.
const SCALE_SAMPLE: usize = 256;

/// How a memory is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How many neighbours of a hidden state are asked.
    pub k: usize,
    /// The share of the neighbours' tokens in the prediction, at least 0 and below 1.
    pub lambda: f32,
    /// A neighbour counts `exp(-d² / (temperature · scale))`.
    pub temperature: f32,
    /// Cells that a query visits; a memory without cells is looked through as a whole.
    pub probes: usize,
}

impl Settings {
    /// Refuses what makes no distribution.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::usage(format!("{what} of a memory")));
        if !(0.0..1.0).contains(&self.lambda) {
            return wrong(&format!("`lambda` = {} is no share from 0 to below 1", self.lambda));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return wrong(&format!("`temperature` = {} is not positive", self.temperature));
        }
        if self.k == 0 || self.probes == 0 {
            return wrong("`k` and `probes` must be at least 1: one is 0");
        }
        Ok(())
    }
}

/// What `memory.json` says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    settings: Settings,
    scale: f32,
    width: usize,
    pairs: usize,
    cells: usize,
}

/// Hidden states, and the token that followed each.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// How it is read.
    pub settings: Settings,
    /// The mean squared distance of a key to its nearest other one, when the memory was first filled.
    pub scale: f32,
    keys: Keys,
    tokens: Vec<u32>,
    cells: Option<Cells>,
}

impl Memory {
    /// A memory of hidden states of this width, with nothing in it.
    pub fn empty(width: usize, settings: Settings) -> Self {
        Self { settings, scale: 1.0, keys: Keys::new(width, vec![]), tokens: vec![], cells: None }
    }

    /// Pairs.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Numbers of a key.
    pub fn width(&self) -> usize {
        self.keys.width
    }

    /// How many cells it has; 0 is none.
    pub fn cells(&self) -> usize {
        self.cells.as_ref().map_or(0, |cells| cells.centroids.len())
    }

    /// The hidden states, `[n, width]`.
    pub fn states(&self) -> &[f32] {
        &self.keys.numbers
    }

    /// The token of a pair.
    pub fn token(&self, at: usize) -> u32 {
        self.tokens[at]
    }

    /// Adds pairs: hidden states `[n, width]` and the token after each. Keys are kept in 16 bits on disk and are rounded to
    /// them here, so that a memory answers the same before and after it is written. They stand in cells once
    /// [`Self::settle`] has been called.
    ///
    /// # Panics
    /// When there are not as many states as tokens.
    pub fn add(&mut self, states: &[f32], tokens: &[u32]) -> Result<()> {
        assert_eq!(states.len(), tokens.len() * self.keys.width, "as many states as tokens");
        let rounded = HostTensor::from_f32([states.len()], states).to_float(DType::F16)?.to_f32()?;
        self.keys.extend(&rounded);
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Puts what was added into cells: those that are there, or `cells` new ones; 0 makes none. A memory that is filled
    /// for the first time measures its scale.
    pub fn settle(&mut self, cells: usize, seed: u64, first: bool) {
        if first {
            self.scale = self.measure_scale();
        }
        if cells == 0 {
            self.cells = None;
            return;
        }
        let (cells, order) = match self.cells.take() {
            Some(old) if old.centroids.len() == cells => Cells::around(old.centroids, &self.keys),
            _ => Cells::build(&self.keys, cells, seed),
        };
        self.keys = self.keys.reordered(&order);
        self.tokens = order.iter().map(|at| self.tokens[*at as usize]).collect();
        self.cells = Some(cells);
    }

    fn measure_scale(&self) -> f32 {
        let step = (self.len() / SCALE_SAMPLE).max(1);
        let sample: Vec<f32> = (0..self.len()).step_by(step).flat_map(|at| self.keys.row(at)).copied().collect();
        let nearest = self.keys.nearest(&sample, 2);
        // The nearest of all is the key itself.
        let others: Vec<f32> = nearest.iter().filter_map(|found| found.get(1)).map(|f| f.distance).collect();
        let mean = others.iter().sum::<f32>() / others.len().max(1) as f32;
        if mean > 0.0 && mean.is_finite() { mean } else { 1.0 }
    }

    /// The nearest pairs of each query, `[Q, width]`: by its cells where it has some.
    pub fn nearest(&self, queries: &[f32]) -> Vec<Vec<Found>> {
        match &self.cells {
            Some(cells) => cells.nearest(&self.keys, queries, self.settings.k, self.settings.probes),
            None => self.nearest_of_all(queries),
        }
    }

    /// The same among all pairs.
    pub fn nearest_of_all(&self, queries: &[f32]) -> Vec<Vec<Found>> {
        self.keys.nearest(queries, self.settings.k)
    }

    /// What the neighbours of each query predict: tokens in order, each with its share.
    pub fn predict(&self, queries: &[f32]) -> Vec<Vec<(u32, f64)>> {
        self.nearest(queries).iter().map(|found| self.shares(found)).collect()
    }

    /// The tokens of neighbours, each once and with its share.
    fn shares(&self, found: &[Found]) -> Vec<(u32, f64)> {
        let Some(nearest) = found.first() else { return vec![] };
        let unit = f64::from(self.settings.temperature) * f64::from(self.scale);
        let weigh = |f: &Found| (f64::from(nearest.distance - f.distance) / unit).exp();
        let total: f64 = found.iter().map(weigh).sum();
        let mut shares: Vec<(u32, f64)> = found.iter().map(|f| (self.tokens[f.at], weigh(f) / total)).collect();
        shares.sort_by_key(|(token, _)| *token);
        shares.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0.0 };
            same
        });
        shares
    }

    /// Writes it into a folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let keys = HostTensor::from_f32([self.len(), self.keys.width], &self.keys.numbers).to_float(DType::F16)?;
        let numbers = |values: Vec<i64>| HostTensor::from_i64([values.len()], &values);
        let tokens = numbers(self.tokens.iter().map(|t| i64::from(*t)).collect());
        let mut state = StateDict::from([("keys".to_owned(), keys), ("tokens".to_owned(), tokens)]);
        if let Some(cells) = &self.cells {
            let shape = [cells.centroids.len(), self.keys.width];
            state.insert("centroids".into(), HostTensor::from_f32(shape, &cells.centroids.numbers));
            state.insert("starts".into(), numbers(cells.starts.iter().map(|s| *s as i64).collect()));
        }
        write_safetensors(&dir.join(PAIRS), &state, &[])?;
        let path = dir.join(MEMORY);
        let description = Description {
            settings: self.settings.clone(),
            scale: self.scale,
            width: self.keys.width,
            pairs: self.len(),
            cells: self.cells(),
        };
        let text = serde_json::to_string_pretty(&description).context(|| format!("cannot write {}", path.display()))?;
        write_atomic(&path, format!("{text}\n").as_bytes())
    }

    /// The memory of a folder, if it has one, whose tokens must be below `vocab_size`.
    ///
    /// # Errors
    /// A broken file, or files that disagree.
    pub fn load(dir: &Path, vocab_size: usize) -> Result<Option<Self>> {
        let path = dir.join(MEMORY);
        if !path.is_file() {
            return Ok(None);
        }
        let read = || -> Result<Self> {
            let text = std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
            let said: Description =
                serde_json::from_slice(&text).context(|| format!("{} is no memory's description", path.display()))?;
            said.settings.check()?;
            let mut state = read_safetensors(&dir.join(PAIRS))?;
            Self::of(&said, &mut state, vocab_size)
        };
        read().map(Some).map_err(|e| e.wrap(format!("cannot load the memory in {}", dir.display())))
    }

    fn of(said: &Description, state: &mut StateDict, vocab_size: usize) -> Result<Self> {
        let mut take = |name: &str, shape: &[usize]| {
            let tensor = state.remove(name).ok_or_else(|| Error::failed(format!("{PAIRS} has no `{name}`")))?;
            match tensor.shape == shape {
                true => Ok(tensor),
                false => Err(Error::failed(format!(
                    "`{name}` is {:?} in {PAIRS}, but {MEMORY} implies {shape:?}",
                    tensor.shape
                ))),
            }
        };
        if !(said.scale > 0.0 && said.scale.is_finite()) || said.width == 0 {
            return Err(Error::failed(format!("{MEMORY} has the scale {} and the width {}", said.scale, said.width)));
        }
        let keys = Keys::new(said.width, take("keys", &[said.pairs, said.width])?.to_f32()?);
        let known = |token: &i64| u32::try_from(*token).ok().filter(|token| (*token as usize) < vocab_size);
        let tokens = take("tokens", &[said.pairs])?.to_i64()?.iter().map(known).collect::<Option<Vec<_>>>();
        let tokens = tokens.ok_or_else(|| {
            Error::failed(format!("{PAIRS} has tokens that the model, with its {vocab_size}, does not know"))
        })?;
        let cells = match said.cells {
            0 => None,
            count => {
                let centroids = Keys::new(said.width, take("centroids", &[count, said.width])?.to_f32()?);
                let starts = take("starts", &[count + 1])?.to_i64()?;
                let rises = starts.windows(2).all(|w| w[0] <= w[1]);
                if !rises || starts[0] != 0 || starts[count] != said.pairs as i64 {
                    return Err(Error::failed(format!("the cells in {PAIRS} do not hold its {} pairs", said.pairs)));
                }
                Some(Cells { centroids, starts: starts.iter().map(|s| *s as usize).collect() })
            }
        };
        Ok(Self { settings: said.settings.clone(), scale: said.scale, keys, tokens, cells })
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
