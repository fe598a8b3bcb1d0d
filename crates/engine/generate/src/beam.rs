//! Beam search, as transformers does it: several unfinished texts side by side, of which the likeliest survive.

use cupola_artifact::{Error, Result};

use crate::SamplingParams;
use crate::logprobs::log_softmax;
use crate::processors::{History, best};

/// What beam search asks of a model, be it a decoder or the decoder of an encoder's text.
pub trait BeamModel {
    /// The logits of the next token after each sequence, `[N, V]`. `sequences` are those of the last call in the order
    /// of the last [`Self::reorder`], each one token longer; at the first call, whatever the prompts are.
    ///
    /// # Errors
    /// When the model fails.
    fn next(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>>;

    /// From now on sequence `i` continues what was sequence `from[i]`; of those that `from` names twice the state is
    /// copied, of those that it does not name it is dropped.
    fn reorder(&mut self, from: &[usize]);
}

/// When a prompt is done whose finished texts are as many as there are beams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When no unfinished text is better than the worst finished one at its present length.
    #[default]
    Likely,
    /// At once.
    AtOnce,
    /// When no unfinished text can become better, whatever its length.
    Never,
}

/// How to search.
#[derive(Clone, Debug, PartialEq)]
pub struct BeamOptions {
    /// Texts side by side.
    pub beams: usize,
    /// Texts given back for each prompt.
    pub returned: usize,
    /// The score is the sum of the log-probabilities, divided by the length to this power: above 0 favours long texts.
    pub length_penalty: f64,
    /// When to stop.
    pub early_stopping: EarlyStopping,
    /// The tokens that end a text.
    pub stop_ids: Vec<u32>,
    /// `max_tokens`, and what changes the log-probabilities with a look at the text; what narrows a random choice down
    /// is not used.
    pub params: SamplingParams,
}

impl Default for BeamOptions {
    fn default() -> Self {
        Self {
            beams: 4,
            returned: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Likely,
            stop_ids: vec![],
            params: SamplingParams::default(),
        }
    }
}

/// A text that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Beam {
    /// The tokens after the prompt, an end token included.
    pub ids: Vec<u32>,
    /// The sum of their log-probabilities, divided by their number to the power of the length penalty.
    pub score: f64,
}

/// The texts found for each prompt, best first. What one prompt gives does not depend on the others.
///
/// # Errors
/// Settings that make no sense; logits that are not numbers; a model that fails.
pub fn beam_search(model: &mut dyn BeamModel, prompts: &[Vec<u32>], options: &BeamOptions) -> Result<Vec<Vec<Beam>>> {
    check(prompts, options)?;
    let mut searches: Vec<Search<'_>> = prompts.iter().map(|prompt| Search::new(prompt, options)).collect();
    while searches.iter().any(|s| !s.running.is_empty()) {
        let sequences: Vec<&[u32]> =
            searches.iter().flat_map(|s| s.running.iter().map(|running| &running.ids[..])).collect();
        let logits = model.next(&sequences)?;
        let vocab = logits.len() / sequences.len();
        if vocab == 0 {
            return Err(Error::failed("the model gave no logits"));
        }
        let (mut from, mut start) = (Vec::new(), 0);
        for search in searches.iter_mut().filter(|s| !s.running.is_empty()) {
            let rows = search.running.len();
            let parents = search.step(&logits[start * vocab..(start + rows) * vocab], vocab)?;
            from.extend(parents.into_iter().map(|parent| start + parent));
            start += rows;
        }
        model.reorder(&from);
    }
    Ok(searches.into_iter().map(|s| s.finished.into_iter().take(options.returned).collect()).collect())
}

fn check(prompts: &[Vec<u32>], options: &BeamOptions) -> Result<()> {
    let BeamOptions { beams, returned, length_penalty, params, .. } = options;
    if !(1..=*beams).contains(returned) {
        return Err(Error::usage(format!("{returned} texts cannot be returned of {beams} beams")));
    }
    if !length_penalty.is_finite() {
        return Err(Error::usage(format!("`length_penalty` must be a finite number, but is {length_penalty}")));
    }
    if prompts.iter().any(Vec::is_empty) {
        return Err(Error::usage("a prompt is empty"));
    }
    params.check(usize::MAX).map_err(|unfit| Error::usage(unfit.message))
}

/// An unfinished text, prompt included.
struct Running {
    ids: Vec<u32>,
    /// The sum of its tokens' log-probabilities.
    sum: f64,
}

/// The search for one prompt.
struct Search<'o> {
    options: &'o BeamOptions,
    prompt: usize,
    /// Best first; empty when the search is over.
    running: Vec<Running>,
    /// Best first, at most as many as there are beams.
    finished: Vec<Beam>,
}

/// A text that is one token longer: the log-probability, the text it continues, the token.
type Continuation = (f64, usize, u32);

impl<'o> Search<'o> {
    fn new(prompt: &[u32], options: &'o BeamOptions) -> Self {
        let start = Running { ids: prompt.to_vec(), sum: 0.0 };
        let running = if options.params.max_tokens > 0 { vec![start] } else { vec![] };
        Self { options, prompt: prompt.len(), running, finished: vec![] }
    }

    /// Takes the logits after each unfinished text, `[R, V]`; gives which of them each new one continues.
    fn step(&mut self, logits: &[f32], vocab: usize) -> Result<Vec<usize>> {
        let (beams, length) = (self.options.beams, self.running[0].ids.len() + 1 - self.prompt);
        let at_end = length >= self.options.params.max_tokens;
        let mut next = Vec::new();
        for (rank, continuation) in self.continuations(logits, vocab)?.into_iter().enumerate() {
            let ends = at_end || self.options.stop_ids.contains(&continuation.2);
            // An end that is not among the best is no text: too many others are better.
            if ends && rank < beams {
                self.finish(continuation, length);
            } else if !ends && next.len() < beams {
                next.push(continuation);
            }
        }
        if self.is_over(next.first(), length) {
            next.clear();
        }
        let extended = next.iter().map(|&(sum, parent, token)| {
            let ids = [&self.running[parent].ids[..], &[token]].concat();
            Running { ids, sum }
        });
        self.running = extended.collect();
        Ok(next.into_iter().map(|(_, parent, _)| parent).collect())
    }

    /// The best continuations of all unfinished texts together, best first: so many that as many as there are beams are
    /// left when every other one ends.
    fn continuations(&self, logits: &[f32], vocab: usize) -> Result<Vec<Continuation>> {
        let options = self.options;
        let mut scores = Vec::with_capacity(logits.len());
        for (running, logits) in self.running.iter().zip(logits.chunks(vocab)) {
            let mut row = log_softmax(logits)?;
            let history = History { ids: &running.ids, prompt: self.prompt, stop_ids: &options.stop_ids };
            options.params.process(&mut row, &history);
            scores.extend(row.into_iter().map(|log| running.sum + f64::from(log)));
        }
        let all = scores.iter().enumerate().map(|(i, &sum)| (sum, i / vocab, (i % vocab) as u32));
        let possible = all.filter(|(sum, ..)| *sum > f64::NEG_INFINITY);
        let count = options.beams.saturating_mul((1 + options.stop_ids.len()).max(2));
        Ok(best(count, possible, |a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)))))
    }

    fn finish(&mut self, (sum, parent, token): Continuation, length: usize) {
        let score = sum / (length as f64).powf(self.options.length_penalty);
        let ids = [&self.running[parent].ids[self.prompt..], &[token]].concat();
        let at = self.finished.partition_point(|other| other.score >= score);
        self.finished.insert(at, Beam { ids, score });
        self.finished.truncate(self.options.beams);
    }

    /// Whether nothing better can come, given the best of the unfinished texts.
    fn is_over(&self, best: Option<&Continuation>, length: usize) -> bool {
        let options = self.options;
        let Some((sum, ..)) = best else { return true };
        let Some(worst) = self.finished.get(options.beams - 1) else { return false };
        let hoped = match options.early_stopping {
            EarlyStopping::AtOnce => return true,
            EarlyStopping::Never if options.length_penalty > 0.0 => options.params.max_tokens,
            _ => length,
        };
        sum / (hoped as f64).powf(options.length_penalty) <= worst.score
    }
}

#[cfg(test)]
#[path = "beam_tests.rs"]
mod tests;
