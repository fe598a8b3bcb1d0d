//! The engine's handle.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use cupola_arch::Model;
use cupola_artifact::{Context, Error, Result};
use cupola_tokenizer::Tokenizer;

use crate::worker::{Inbox, Submission, Worker};
use crate::writer::{Limits, Writer, Writers};
use crate::{AnswerBeams, Beam, BeamOptions, CachedBeams, beam_search};
use crate::{EngineOptions, Event, FinishReason, Request, SamplingParams, Sink, Stats, Usage};

/// Generates text for many callers at once with continuous batching (Yu et al. 2022, "Orca"): every step takes the next
/// token of all running sequences and a share of the prompts that are new.
///
/// A handle on one thread that owns the model; clones share it, and the thread ends with the last of them. The choice
/// of a token depends on its own sequence alone, up to the last bits of the logits, which may differ with the number of
/// rows in a matrix product.
#[derive(Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

/// A finished text.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The text without stop strings and special tokens.
    pub text: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// What it cost.
    pub usage: Usage,
}

/// A finished text with its tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The text.
    pub generated: Generated,
    /// Its tokens, an end token included.
    pub ids: Vec<u32>,
    /// How likely the model found each, before any setting changed the logits.
    pub logprobs: Vec<f32>,
}

struct Handle {
    inbox: Arc<Inbox>,
    tokenizer: Tokenizer,
    options: EngineOptions,
    writers: Writers,
    vocab_size: usize,
    stop_ids: Vec<u32>,
    worker: Mutex<Option<JoinHandle<()>>>,
    /// Beam searches run one at a time.
    searching: Mutex<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inbox.lock().closed = true;
        self.inbox.wake();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A sink may hold the last handle; then this is the worker itself, which cannot wait for its own end.
        if let Some(worker) = worker.filter(|w| w.thread().id() != std::thread::current().id()) {
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("options", &self.handle.options).finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads a model directory and starts the thread.
    ///
    /// # Errors
    /// As [`crate::load_reader`]; an unknown device.
    pub fn load(model_dir: &Path, device: &str, options: &EngineOptions) -> Result<Self> {
        let (model, tokenizer) = crate::load_reader(model_dir, &cupola_ops::open(device)?)?;
        Self::new(model, tokenizer, options)
    }

    /// Starts the thread for a model that is there already; the weights are shared, not copied.
    ///
    /// # Errors
    /// When no thread can be started, or a limit is zero.
    pub fn new(model: Model, tokenizer: Tokenizer, options: &EngineOptions) -> Result<Self> {
        Self::with_adapters(model, &[], tokenizer, options)
    }

    /// The same with adapters by their names, each the model with one of them; a request chooses one in
    /// [`crate::SamplingParams::adapter`], and all of them write at once.
    ///
    /// # Errors
    /// As [`Self::new`]; two adapters of one name.
    pub fn with_adapters(
        model: Model,
        adapters: &[(String, Model)],
        tokenizer: Tokenizer,
        options: &EngineOptions,
    ) -> Result<Self> {
        for (name, value) in [("max_batch", options.max_batch), ("prefill_chunk", options.prefill_chunk)] {
            if value == 0 {
                return Err(Error::usage(format!("`{name}` must be at least 1")));
            }
        }
        let writers = Writers::new(&model, adapters)?;
        let vocab_size = writers.all()[0].vocab_size();
        let inbox = Arc::new(Inbox::default());
        let worker = Worker::new(writers.clone(), tokenizer.clone(), options.clone(), Arc::clone(&inbox));
        let stop_ids = worker.stop_ids().to_vec();
        let thread = std::thread::Builder::new()
            .name("generate".into())
            .spawn(move || worker.run())
            .context(|| "cannot start the generation thread".into())?;
        let (options, worker) = (options.clone(), Mutex::new(Some(thread)));
        let searching = Mutex::new(());
        let handle = Handle { inbox, tokenizer, options, writers, vocab_size, stop_ids, worker, searching };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Takes a request; its events go to `sink`.
    ///
    /// # Errors
    /// A failure when as many requests wait as may; a usage error when the prompt is empty, leaves no room for an
    /// answer or has tokens that the model does not know, or when the sampling settings make no sense.
    pub fn submit(&self, request: Request, sink: Sink) -> Result<()> {
        self.send(request, sink, None)
    }

    fn send(&self, request: Request, mut sink: Sink, ids: Option<Sender<(u32, f32)>>) -> Result<()> {
        self.check(&request)?;
        if request.params.max_tokens == 0 {
            let usage = Usage { prompt_tokens: request.prompt.len(), ..Usage::default() };
            sink(Event::Done(FinishReason::Length, usage));
            return Ok(());
        }
        let seed = request.params.seed.unwrap_or_else(random_seed);
        let mut state = self.handle.inbox.lock();
        if state.closed {
            return Err(Error::failed("the generation engine has stopped"));
        }
        let EngineOptions { max_batch, max_waiting, .. } = self.handle.options;
        if state.waiting.len() + state.stats.running >= max_batch + max_waiting {
            return Err(Error::failed(format!("the queue is full: {} requests wait already", state.waiting.len()))
                .with_hint("try again in a moment, or allow more with `max_waiting`"));
        }
        state.waiting.push_back(Submission { request, sink, ids, seed, submitted: Instant::now() });
        drop(state);
        self.handle.inbox.wake();
        Ok(())
    }

    fn check(&self, request: &Request) -> Result<()> {
        let Limits { sequence: limit, read } = self.writer(&request.params)?.limits();
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(Error::usage("the prompt is empty"));
        }
        if let Some(read) = read.filter(|read| tokens > *read) {
            let message = format!("the prompt has {tokens} tokens, but the model reads at most {read}");
            return Err(Error::usage(message).with_hint("shorten the prompt"));
        }
        if read.is_none() && tokens >= limit {
            let message = format!("the prompt has {tokens} tokens, but prompt and answer together may have {limit}");
            return Err(Error::usage(message).with_hint("shorten the prompt"));
        }
        let vocab = self.handle.vocab_size;
        if let Some(id) = request.prompt.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::usage(format!("the prompt has the token {id}, but the model knows only {vocab}")));
        }
        request.params.check(vocab).map_err(|unfit| Error::usage(unfit.message))
    }

    /// Generates one text and waits for it.
    ///
    /// # Errors
    /// As [`Self::submit`]; when the model fails.
    pub fn generate(&self, request: Request) -> Result<(String, FinishReason, Usage)> {
        let all = self.generate_many(vec![request], &mut |_| {})?;
        let only = all.into_iter().next().ok_or_else(|| Error::failed("the generation engine gave no answer"))?;
        Ok((only.text, only.reason, only.usage))
    }

    /// Generates texts for many requests, as many at a time as a batch takes, and waits for all; `progress` hears how
    /// many are done. The answers are in the order of the requests.
    ///
    /// # Errors
    /// As [`Self::generate`], for the first that fails.
    pub fn generate_many(&self, requests: Vec<Request>, progress: &mut dyn FnMut(usize)) -> Result<Vec<Generated>> {
        self.run_many(requests, progress, &mut || None)
    }

    /// The same; `ids` gives for each request, in their order, who takes its tokens.
    fn run_many(
        &self,
        requests: Vec<Request>,
        progress: &mut dyn FnMut(usize),
        ids: &mut dyn FnMut() -> Option<Sender<(u32, f32)>>,
    ) -> Result<Vec<Generated>> {
        let count = requests.len();
        let (sender, events) = channel();
        let mut texts = vec![String::new(); count];
        let mut answers: Vec<Option<Generated>> = vec![None; count];
        let mut requests = requests.into_iter().enumerate();
        let mut submit_next = || -> Result<()> {
            let Some((index, request)) = requests.next() else { return Ok(()) };
            let sender = sender.clone();
            self.send(request, Box::new(move |event| sender.send((index, event)).is_ok()), ids())
        };
        (0..count.min(self.handle.options.max_batch)).try_for_each(|_| submit_next())?;
        let mut done = 0;
        while done < count {
            // This thread keeps a sender, so a lost worker shows as `closed` and not here; it answers all before it
            // goes.
            let (index, event) = events.recv().context(|| "the generation engine has stopped".into())?;
            match event {
                Event::Token(_) => {}
                Event::Text(text) => texts[index].push_str(&text),
                Event::Failed(message) => return Err(Error::failed(message)),
                Event::Done(reason, usage) => {
                    answers[index] = Some(Generated { text: std::mem::take(&mut texts[index]), reason, usage });
                    done += 1;
                    progress(done);
                    submit_next()?;
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// As [`Self::generate`], but gives the token ids, an end token included.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_ids(&self, request: Request) -> Result<(Vec<u32>, FinishReason, Usage)> {
        let all = self.sample_many(vec![request], &mut |_| {})?;
        let only = all.into_iter().next().ok_or_else(|| Error::failed("the generation engine gave no answer"))?;
        Ok((only.ids, only.generated.reason, only.generated.usage))
    }

    /// As [`Self::generate_many`] with the tokens of each answer.
    ///
    /// # Errors
    /// As [`Self::generate`], for the first that fails.
    pub fn sample_many(&self, requests: Vec<Request>, progress: &mut dyn FnMut(usize)) -> Result<Vec<Sampled>> {
        let mut tokens = Vec::with_capacity(requests.len());
        let texts = self.run_many(requests, progress, &mut || {
            let (sender, receiver) = channel();
            tokens.push(receiver);
            Some(sender)
        })?;
        let sampled = texts.into_iter().zip(tokens).map(|(generated, tokens)| {
            let (ids, logprobs) = tokens.try_iter().unzip();
            Sampled { generated, ids, logprobs }
        });
        Ok(sampled.collect())
    }

    /// The best texts of a beam search for each prompt, best first. It runs on the caller's thread, beside what is
    /// generated, and one at a time. The model's end tokens are added to `stop_ids` unless they are to be ignored; what
    /// the context leaves after the longest prompt bounds all answers.
    ///
    /// # Errors
    /// As [`beam_search`] and [`Self::submit`].
    pub fn beam_search(&self, prompts: &[Vec<u32>], options: &BeamOptions) -> Result<Vec<Vec<Beam>>> {
        let mut options = options.clone();
        for prompt in prompts {
            self.check(&Request { prompt: prompt.clone(), params: options.params.clone() })?;
            let room = self.writer(&options.params)?.limits().room(prompt.len());
            options.params.max_tokens = options.params.max_tokens.min(room);
        }
        options.params.min_tokens = options.params.min_tokens.min(options.params.max_tokens);
        if !options.params.ignore_eos {
            options.stop_ids.extend(&self.handle.stop_ids);
            options.stop_ids.sort_unstable();
            options.stop_ids.dedup();
        }
        let _one_at_a_time = self.handle.searching.lock().unwrap_or_else(PoisonError::into_inner);
        match self.writer(&options.params)? {
            Writer::Decoder(decoder) => beam_search(&mut CachedBeams::new(decoder), prompts, &options),
            Writer::EncoderDecoder(network) => {
                let (mut beams, starts) = AnswerBeams::new(network, prompts);
                beam_search(&mut beams, &starts, &options)
            }
        }
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        let state = self.handle.inbox.lock();
        Stats { waiting: state.waiting.len(), ..state.stats }
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.handle.tokenizer
    }

    /// Tokens that prompt and answer may have together; where the prompt is read apart, one more than that may have.
    pub fn max_seq_len(&self) -> usize {
        let Limits { sequence, read } = self.handle.writers.all()[0].limits();
        read.map_or(sequence, |read| read + 1)
    }

    /// The names of the adapters that a request may choose.
    pub fn adapters(&self) -> &[String] {
        self.handle.writers.names()
    }

    /// What writes for a request.
    fn writer(&self, params: &SamplingParams) -> Result<&Writer> {
        let writers = &self.handle.writers;
        Ok(&writers.all()[writers.place(params.adapter.as_deref())?])
    }
}

/// A seed for a request that names none.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Every `RandomState` is keyed anew.
    RandomState::new().hash_one(0)
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
