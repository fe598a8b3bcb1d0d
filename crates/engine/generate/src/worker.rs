//! The thread behind the engine: it owns the model, admits requests, steps, samples and sends.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cupola_tokenizer::{StreamDecoder, Tokenizer};

use crate::batch::{Logits, Slot, share, step};
use crate::logprobs::token_logprob;
use crate::sampler::Sampler;
use crate::stop::StopFilter;
use crate::writer::{Writer, Writers};
use crate::{EngineOptions, Event, FinishReason, Request, SamplingParams, Sink, Stats, Usage};

/// What a sequence is told when the engine goes away under it.
const STOPPED: &str = "the generation engine was shut down";

/// A request on its way to the worker.
pub(crate) struct Submission {
    pub request: Request,
    pub sink: Sink,
    /// Takes the token ids with their log-probabilities as well, if somebody wants them.
    pub ids: Option<Sender<(u32, f32)>>,
    /// The seed, chosen at random when the request gives none.
    pub seed: u64,
    pub submitted: Instant,
}

/// What callers and the worker share.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    pub waiting: VecDeque<Submission>,
    pub closed: bool,
    /// `waiting` is not kept up here.
    pub stats: Stats,
}

impl Inbox {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the worker that something has changed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

/// How a sequence ended.
enum Ending {
    Done(FinishReason),
    Failed(String),
}

/// A sequence under way.
struct Active {
    slot: Slot,
    /// Which of the writers it has.
    writer: usize,
    prompt_len: usize,
    /// Tokens of the sequence before the first that was generated.
    begun: usize,
    params: SamplingParams,
    sampler: Sampler,
    /// `None` once its end was flushed.
    text: Option<StreamDecoder>,
    stops: StopFilter,
    sink: Sink,
    ids: Option<Sender<(u32, f32)>>,
    submitted: Instant,
    first_token: Option<Instant>,
}

impl Active {
    fn emit(&mut self, event: Event) -> bool {
        // A sink that panics ends its own sequence only.
        catch_unwind(AssertUnwindSafe(|| (self.sink)(event))).unwrap_or(false)
    }

    fn generated(&self) -> usize {
        self.slot.len() - self.begun
    }

    fn send_text(&mut self, text: String) -> bool {
        text.is_empty() || self.emit(Event::Text(text))
    }

    /// Takes the logits after its last token; the ending, if this was the last.
    fn advance(&mut self, logits: &[f32], stop_ids: &[u32], max_seq_len: usize) -> Option<Ending> {
        let token = match self.sampler.sample(logits) {
            Ok(token) => token,
            Err(error) => return Some(Ending::Failed(error.chain())),
        };
        self.first_token.get_or_insert_with(Instant::now);
        self.slot.push(token);
        if let Some(ids) = &self.ids {
            match token_logprob(logits, token, 0) {
                Ok(told) if ids.send((token, told.logprob)).is_ok() => {}
                Ok(_) => return Some(Ending::Done(FinishReason::Cancelled)),
                Err(error) => return Some(Ending::Failed(error.chain())),
            }
        }
        if !self.params.ignore_eos && stop_ids.contains(&token) {
            return Some(self.flush(FinishReason::Stop));
        }
        if let Some(count) = self.params.logprobs {
            let told = match token_logprob(logits, token, count) {
                Ok(told) => told,
                Err(error) => return Some(Ending::Failed(error.chain())),
            };
            if !self.emit(Event::Token(told)) {
                return Some(Ending::Done(FinishReason::Cancelled));
            }
        }
        let piece = match self.text.as_mut().map_or(Ok(String::new()), |text| text.push(token)) {
            Ok(piece) => piece,
            Err(error) => return Some(Ending::Failed(error.chain())),
        };
        let (text, stopped) = self.stops.push(&piece);
        if !self.send_text(text) {
            return Some(Ending::Done(FinishReason::Cancelled));
        }
        if stopped {
            return Some(Ending::Done(FinishReason::Stop));
        }
        let used_up = self.generated() >= self.params.max_tokens || self.slot.len() >= max_seq_len;
        used_up.then(|| self.flush(FinishReason::Length))
    }

    /// Sends what was held back.
    fn flush(&mut self, reason: FinishReason) -> Ending {
        let rest = self.text.take().map(StreamDecoder::finish).unwrap_or_default();
        let (mut text, stopped) = self.stops.push(&rest);
        if !stopped {
            text.push_str(&self.stops.finish());
        }
        match self.send_text(text) {
            true if stopped => Ending::Done(FinishReason::Stop),
            true => Ending::Done(reason),
            false => Ending::Done(FinishReason::Cancelled),
        }
    }

    fn close(mut self, ending: Ending) {
        let now = Instant::now();
        let since = |end: Instant| end.duration_since(self.submitted).as_secs_f64();
        let event = match ending {
            Ending::Failed(message) => Event::Failed(message),
            Ending::Done(reason) => Event::Done(
                reason,
                Usage {
                    prompt_tokens: self.prompt_len,
                    completion_tokens: self.generated(),
                    first_token_seconds: since(self.first_token.unwrap_or(now)),
                    total_seconds: since(now),
                },
            ),
        };
        self.emit(event);
    }
}

/// The worker's own state.
pub(crate) struct Worker {
    writers: Writers,
    tokenizer: Tokenizer,
    options: EngineOptions,
    stop_ids: Vec<u32>,
    inbox: Arc<Inbox>,
    active: Vec<Active>,
}

impl Worker {
    pub fn new(writers: Writers, tokenizer: Tokenizer, options: EngineOptions, inbox: Arc<Inbox>) -> Self {
        let mut stop_ids = tokenizer.stop_ids().to_vec();
        stop_ids.extend(writers.all()[0].eos());
        Self { writers, tokenizer, options, stop_ids, inbox, active: Vec::new() }
    }

    /// The tokens that end a text.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Works until the inbox is closed.
    pub fn run(mut self) {
        while self.admit() {
            self.step();
        }
    }

    /// Waits for something to do and takes in what there is room for; `false` when the engine is to end.
    fn admit(&mut self) -> bool {
        let inbox = Arc::clone(&self.inbox);
        let mut state = inbox.lock();
        while state.waiting.is_empty() && self.active.is_empty() && !state.closed {
            state = inbox.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        while self.active.len() < self.options.max_batch {
            let Some(submission) = state.waiting.pop_front() else { break };
            self.active.push(self.start(submission));
        }
        state.stats.running = self.active.len();
        true
    }

    fn start(&self, submission: Submission) -> Active {
        let Submission { request, sink, ids, seed, submitted } = submission;
        let Request { prompt, params } = request;
        let prompt_len = prompt.len();
        // The engine has looked whether there is such an adapter.
        let writer = self.writers.place(params.adapter.as_deref()).unwrap_or_default();
        let slot = self.writers.all()[writer].slot(prompt);
        Active {
            writer,
            prompt_len,
            begun: slot.len(),
            sampler: Sampler::new(&params, seed).with_prompt(slot.tokens(), &self.stop_ids),
            slot,
            text: Some(self.tokenizer.stream()),
            stops: StopFilter::new(&params.stop),
            params,
            sink,
            ids,
            submitted,
            first_token: None,
        }
    }

    /// One forward pass over all sequences, and what follows from it.
    fn step(&mut self) {
        let pending: Vec<usize> = self.active.iter().map(|a| a.slot.pending()).collect();
        let rows = share(&pending, self.options.prefill_chunk);
        // A sequence that has generated nothing yet is still reading its prompt.
        let prompt_tokens =
            self.active.iter().zip(&rows).filter(|(a, _)| a.generated() == 0).map(|(_, rows)| rows).sum();
        let started = Instant::now();
        let (writers, active) = (self.writers.all(), &mut self.active);
        let logits = catch_unwind(AssertUnwindSafe(|| forward(writers, active, &rows)));
        let busy = started.elapsed().as_secs_f64();
        let mut endings: Vec<(usize, Ending)> = Vec::new();
        let mut generated = 0;
        match &logits {
            Ok(logits) => {
                for (i, row) in logits.iter().flat_map(Logits::iter) {
                    generated += 1;
                    let max_seq_len = self.writers.all()[self.active[i].writer].limits().sequence;
                    endings.extend(self.active[i].advance(row, &self.stop_ids, max_seq_len).map(|e| (i, e)));
                }
                endings.sort_by_key(|(i, _)| *i);
            }
            // All of them were in this step, and their caches are half written.
            Err(panic) => {
                let message = format!("the model failed: {}", panic_text(&**panic));
                endings = (0..self.active.len()).map(|i| (i, Ending::Failed(message.clone()))).collect();
            }
        }
        let ended = self.take_out(endings);
        self.publish(busy, prompt_tokens, generated, ended.len());
        ended.into_iter().for_each(|(active, ending)| active.close(ending));
    }

    /// Takes the ended sequences out; `endings` is in ascending order.
    fn take_out(&mut self, endings: Vec<(usize, Ending)>) -> Vec<(Active, Ending)> {
        let mut ended: Vec<_> = endings.into_iter().rev().map(|(i, ending)| (self.active.remove(i), ending)).collect();
        ended.reverse();
        ended
    }

    /// Brings the statistics up to date, before anybody hears of an ending.
    fn publish(&self, busy: f64, prompt_tokens: usize, generated: usize, ended: usize) {
        let mut state = self.inbox.lock();
        let stats = &mut state.stats;
        stats.running = self.active.len();
        stats.finished += ended as u64;
        stats.prompt_tokens += prompt_tokens as u64;
        stats.generated_tokens += generated as u64;
        stats.busy_seconds += busy;
        stats.cache_bytes = self.active.iter().map(|a| a.slot.cache_bytes()).sum();
    }
}

/// A forward pass for each of the writers that sequences have: those of one writer go together.
fn forward(writers: &[Writer], active: &mut [Active], rows: &[usize]) -> Vec<Logits> {
    let of_writer = |(place, writer): (usize, &Writer)| {
        let own: Vec<usize> = (0..active.len()).filter(|i| active[*i].writer == place).collect();
        let rows: Vec<usize> = own.iter().map(|i| rows[*i]).collect();
        let mut slots: Vec<&mut Slot> = active.iter_mut().filter(|a| a.writer == place).map(|a| &mut a.slot).collect();
        (!slots.is_empty()).then(|| step(writer, &mut slots, &rows).placed(&own))
    };
    writers.iter().enumerate().filter_map(of_writer).collect()
}

impl Drop for Worker {
    /// However the thread ends, nobody is left waiting for an answer.
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.inbox.lock();
            state.closed = true;
            state.stats = Stats { running: 0, cache_bytes: 0, ..state.stats };
            std::mem::take(&mut state.waiting)
        };
        let waiting: Vec<Active> = waiting.into_iter().map(|s| self.start(s)).collect();
        for active in self.active.drain(..).chain(waiting) {
            active.close(Ending::Failed(STOPPED.into()));
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("for a reason it does not tell")
}
