//! The shapes of answers: a chat or a text completion, whole or as the chunks of a stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::response::sse;
use cupola_generate::{Event, FinishReason};
use futures_core::Stream;
use serde_json::{Value, json};

use crate::api_error::ApiError;
use crate::job::Job;
use crate::logprobs::Logprobs;

/// Which route is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

/// An answer's head: what all its chunks repeat.
pub struct Answer {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
    /// What each choice begins with: the echoed prompt, or nothing.
    prefixes: Vec<String>,
    logprobs: Logprobs,
}

impl Answer {
    /// A new answer; `prefixes` holds one string per choice.
    pub fn new(kind: Kind, model: &str, prefixes: Vec<String>, logprobs: Logprobs) -> Self {
        let name = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            kind,
            id: format!("{name}-{}", unique()),
            created: unix_seconds(),
            model: model.into(),
            prefixes,
            logprobs,
        }
    }

    /// Waits for all texts and gives the whole answer: of each `best_of` texts of a prompt the `n` likeliest.
    pub async fn whole(mut self, mut job: Job, n: usize, best_of: usize) -> Result<Value, ApiError> {
        let mut texts = std::mem::take(&mut self.prefixes);
        let mut reasons = vec![Value::Null; texts.len()];
        while let Some((index, event)) = job.next().await {
            match event {
                Event::Token(token) => self.logprobs.hear(index, token),
                Event::Text(text) => {
                    self.logprobs.wrote(index, &text);
                    texts[index] += &text;
                }
                Event::Done(reason, _) => reasons[index] = finish_reason(reason)?,
                Event::Failed(message) => return Err(ApiError::server(message)),
            }
        }
        let mut kept: Vec<usize> = (0..texts.len()).collect();
        if best_of > n {
            kept = kept.chunks_mut(best_of).flat_map(|of_prompt| self.likeliest(of_prompt, n)).collect();
        }
        let choices = kept
            .into_iter()
            .map(|i| (std::mem::take(&mut texts[i]), reasons[i].take(), self.logprobs.take(i)))
            .collect::<Vec<_>>();
        Ok(self.choices(choices, job.tokens()))
    }

    /// The whole answer, of texts that are there already; `tokens` are those of the prompts and of the texts.
    pub fn found(self, texts: Vec<(String, FinishReason)>, tokens: (usize, usize)) -> Result<Value, ApiError> {
        let choices: Vec<_> = texts
            .into_iter()
            .zip(&self.prefixes)
            .map(|((text, reason), prefix)| Ok((format!("{prefix}{text}"), finish_reason(reason)?, Value::Null)))
            .collect::<Result<_, _>>()?;
        Ok(self.choices(choices, tokens))
    }

    /// The whole answer, given each choice's text, its end and its log-probabilities.
    fn choices(&self, choices: Vec<(String, Value, Value)>, tokens: (usize, usize)) -> Value {
        let choice = |(index, (text, reason, logprobs)): (usize, (String, Value, Value))| match self.kind {
            Kind::Chat => json!({
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": null},
                "logprobs": logprobs,
                "finish_reason": reason,
            }),
            Kind::Text => json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}),
        };
        let choices: Vec<Value> = choices.into_iter().enumerate().map(choice).collect();
        let object = if self.kind == Kind::Chat { "chat.completion" } else { "text_completion" };
        let mut answer = self.head(object, Value::Array(choices));
        answer["usage"] = usage(tokens);
        answer
    }

    /// The `n` texts with the highest mean log-probability, best first.
    fn likeliest(&self, texts: &mut [usize], n: usize) -> Vec<usize> {
        texts.sort_by(|a, b| self.logprobs.mean(*b).total_cmp(&self.logprobs.mean(*a)));
        texts[..n.min(texts.len())].to_vec()
    }

    /// Streams the choices as they come.
    pub fn stream(self, job: Job, include_usage: bool) -> AnswerStream {
        let mut stream = AnswerStream { answer: self, job, include_usage, queue: VecDeque::new(), ended: false };
        for index in 0..stream.job.choices() {
            if stream.answer.kind == Kind::Chat {
                let role = json!({"role": "assistant", "content": "", "refusal": null});
                stream.push_chunk(json!([{"index": index, "delta": role, "logprobs": null, "finish_reason": null}]));
            } else if !stream.answer.prefixes[index].is_empty() {
                let prefix = std::mem::take(&mut stream.answer.prefixes[index]);
                let piece = json!({"index": index, "text": prefix, "logprobs": null, "finish_reason": null});
                stream.push_chunk(json!([piece]));
            }
        }
        stream
    }

    fn head(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": concat!("cupola-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
        })
    }

    fn piece(&mut self, index: usize, text: String) -> Value {
        self.logprobs.wrote(index, &text);
        let logprobs = self.logprobs.take(index);
        match self.kind {
            Kind::Chat => {
                json!({"index": index, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": null})
            }
            Kind::Text => json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": null}),
        }
    }

    fn last_piece(&mut self, index: usize, reason: Value) -> Value {
        let logprobs = self.logprobs.take(index);
        match self.kind {
            Kind::Chat => json!({"index": index, "delta": {}, "logprobs": logprobs, "finish_reason": reason}),
            Kind::Text => json!({"index": index, "text": "", "logprobs": logprobs, "finish_reason": reason}),
        }
    }
}

/// An answer as server-sent events; dropping it, as happens when the client goes away, cancels the generation.
pub struct AnswerStream {
    answer: Answer,
    job: Job,
    include_usage: bool,
    queue: VecDeque<sse::Event>,
    ended: bool,
}

impl AnswerStream {
    fn push(&mut self, data: &Value) {
        self.queue.push_back(sse::Event::default().data(data.to_string()));
    }

    fn push_chunk(&mut self, choices: Value) {
        let object = if self.answer.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = self.answer.head(object, choices);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        self.push(&chunk);
    }

    fn take_event(&mut self, index: usize, event: Event) {
        match event {
            Event::Token(token) => self.answer.logprobs.hear(index, token),
            Event::Text(text) => {
                let piece = self.answer.piece(index, text);
                self.push_chunk(json!([piece]));
            }
            Event::Done(reason, _) => match finish_reason(reason) {
                Ok(reason) => {
                    let piece = self.answer.last_piece(index, reason);
                    self.push_chunk(json!([piece]));
                }
                Err(error) => self.fail(&error),
            },
            Event::Failed(message) => self.fail(&ApiError::server(message)),
        }
    }

    /// A failure half-way: the status line is long gone, so the error is an event of its own.
    fn fail(&mut self, error: &ApiError) {
        self.push(&error.body());
        self.end();
    }

    fn finish(&mut self) {
        if self.include_usage {
            let object = if self.answer.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" };
            let mut chunk = self.answer.head(object, json!([]));
            chunk["usage"] = usage(self.job.tokens());
            self.push(&chunk);
        }
        self.end();
    }

    fn end(&mut self) {
        self.queue.push_back(sse::Event::default().data("[DONE]"));
        self.ended = true;
    }
}

impl Stream for AnswerStream {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match self.job.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some((index, event))) => self.take_event(index, event),
                Poll::Ready(None) => self.finish(),
            }
        }
    }
}

fn usage((prompt, completion): (usize, usize)) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

fn finish_reason(reason: FinishReason) -> Result<Value, ApiError> {
    match reason {
        FinishReason::Stop => Ok("stop".into()),
        FinishReason::Length => Ok("length".into()),
        FinishReason::Cancelled => Err(ApiError::server("the server cancelled the generation")),
    }
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An identifier that no other answer has.
fn unique() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // The standard library's hash keys are its one source of randomness.
    format!("{:016x}{count:08x}", RandomState::new().hash_one((count, unix_seconds())))
}
