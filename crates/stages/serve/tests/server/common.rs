//! A model that echoes, a tokenizer of single bytes, and a client: what the tests of the server stand on.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cupola_artifact::{Error, Result};
use cupola_generate::{Event, FinishReason, Request, SamplingParams, Sink, Stats, TokenLogprob, Usage};
use cupola_serve::{Backend, Handle, Secret, ServeConfig, Server, router};
use cupola_testkit::tiny_tokenizer_files;
use cupola_tokenizer::Tokenizer;
use serde_json::{Value, json};

pub const MODEL: &str = "echo";
pub const MAX_SEQ_LEN: usize = 500;

const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}\
    {{ raise_exception('the system message must come first') }}{% endif %}\
    <|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A tokenizer whose tokens are the bytes, with a chat template or none.
fn tokenizer(template: bool) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    tiny_tokenizer_files(dir.path());
    if template {
        std::fs::write(dir.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    } else {
        std::fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
    }
    Tokenizer::load(dir.path()).unwrap_or_else(|e| panic!("{}", e.chain()))
}

/// Answers with the last line of the prompt. A prompt with `SLOW` in it is answered without end, a token every 10 ms;
/// one with `FAIL` fails after its first word; one with `REFUSE` finds the queue full.
pub struct Echo {
    tokenizer: Tokenizer,
    pub state: Arc<State>,
    pub delay: Duration,
}

#[derive(Default)]
pub struct State {
    pub running: AtomicUsize,
    pub cancelled: AtomicUsize,
    pub finished: AtomicUsize,
    pub generated: AtomicUsize,
}

impl Echo {
    pub fn new(template: bool) -> Self {
        Self { tokenizer: tokenizer(template), state: Arc::default(), delay: Duration::ZERO }
    }
}

impl Backend for Echo {
    fn submit(&self, request: Request, mut sink: Sink) -> Result<()> {
        let prompt = self.tokenizer.decode(&request.prompt)?;
        let prompt = prompt.strip_suffix("\nassistant\n").unwrap_or(&prompt).to_owned();
        if prompt.contains("REFUSE") {
            return Err(Error::failed("too many requests wait already"));
        }
        let (state, delay) = (self.state.clone(), self.delay);
        state.running.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            let started = Instant::now();
            let usage = |tokens| Usage {
                prompt_tokens: request.prompt.len(),
                completion_tokens: tokens,
                first_token_seconds: 0.001,
                total_seconds: started.elapsed().as_secs_f64(),
            };
            let outcome = speak(&prompt, &request.params, delay, &mut sink);
            state.running.fetch_sub(1, Ordering::SeqCst);
            state.finished.fetch_add(1, Ordering::SeqCst);
            match outcome {
                Some((FinishReason::Cancelled, _)) => {
                    state.cancelled.fetch_add(1, Ordering::SeqCst);
                }
                Some((reason, tokens)) => {
                    state.generated.fetch_add(tokens, Ordering::SeqCst);
                    sink(Event::Done(reason, usage(tokens)));
                }
                None => {
                    sink(Event::Failed("the model broke".into()));
                }
            }
        });
        Ok(())
    }

    fn stats(&self) -> Stats {
        let count = |n: &AtomicUsize| n.load(Ordering::SeqCst);
        Stats {
            running: count(&self.state.running),
            finished: count(&self.state.finished) as u64,
            generated_tokens: count(&self.state.generated) as u64,
            cache_bytes: 4096,
            ..Stats::default()
        }
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_seq_len(&self) -> usize {
        MAX_SEQ_LEN
    }
}

/// Sends the answer word by word; `None` is a failure.
fn speak(prompt: &str, params: &SamplingParams, delay: Duration, sink: &mut Sink) -> Option<(FinishReason, usize)> {
    let line = prompt.lines().last().unwrap_or_default();
    let seed = params.seed.map(|seed| format!(" seed={seed}")).unwrap_or_default();
    let mut text = if line.contains("SLOW") { "and on ".repeat(100_000) } else { format!("echo: {line}{seed}") };
    let stopped = params.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
    text.truncate(stopped.unwrap_or(text.len()));
    let delay = if line.contains("SLOW") { Duration::from_millis(10) } else { delay };
    let mut tokens = 0;
    for word in text.split_inclusive(' ') {
        if tokens == params.max_tokens {
            return Some((FinishReason::Length, tokens));
        }
        std::thread::sleep(delay);
        tokens += 1;
        if let Some(count) = params.logprobs {
            // The larger the seed, the less likely its text.
            let token = u32::from(word.as_bytes()[0]);
            let logprob = -0.5 - params.seed.unwrap_or(0) as f32;
            sink(Event::Token(TokenLogprob { token, logprob, top: vec![(token, logprob); count.min(1)] }));
        }
        if !sink(Event::Text(word.into())) {
            return Some((FinishReason::Cancelled, tokens));
        }
        if line.contains("FAIL") {
            return None;
        }
    }
    Some((FinishReason::Stop, tokens + 1))
}

/// A running server over an [`Echo`].
pub struct Running {
    pub handle: Handle,
    pub state: Arc<State>,
}

pub fn start() -> Running {
    start_with(ServeConfig::default(), true)
}

pub fn start_with_key(key: &str) -> Running {
    start_with(ServeConfig { api_key: Some(Secret::new(key)), ..ServeConfig::default() }, true)
}

pub fn start_with(config: ServeConfig, template: bool) -> Running {
    let config = ServeConfig { port: 0, ..config };
    let echo = Echo::new(template);
    let state = echo.state.clone();
    let server = Server::bind(&config).unwrap_or_else(|e| panic!("{}", e.chain()));
    let handle = server.spawn(router(Arc::new(echo), &config, MODEL)).unwrap();
    Running { handle, state }
}

/// An answer: its status, its headers' content type, its body.
pub struct Reply {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// Asserts an error in the API's shape and returns it.
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        let body = self.json();
        let error = &body["error"];
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
        assert!(error["type"].is_string(), "{body}");
        assert!(error.get("param").is_some() && error.get("code").is_some(), "{body}");
        error.clone()
    }

    /// The chunks of a stream, which must end with `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        assert_eq!((self.status, self.content_type.as_str()), (200, "text/event-stream"), "{}", self.body);
        let mut data: Vec<&str> = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.iter().map(|d| serde_json::from_str(d).unwrap()).collect()
    }
}

impl Running {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.handle.address())
    }

    pub fn get(&self, path: &str) -> Reply {
        reply(agent().get(self.url(path)).call())
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_bytes(path, "application/json", body.to_string().as_bytes())
    }

    pub fn post_bytes(&self, path: &str, content_type: &str, body: &[u8]) -> Reply {
        reply(agent().post(self.url(path)).header("Content-Type", content_type).send(body))
    }

    /// Posts a chat of one message with further fields.
    pub fn chat(&self, content: &str, fields: Value) -> Reply {
        self.post("/v1/chat/completions", &chat_body(content, fields))
    }

    /// Posts a completion with further fields.
    pub fn complete(&self, prompt: Value, fields: Value) -> Reply {
        let mut body = json!({"model": MODEL, "prompt": prompt});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.post("/v1/completions", &body)
    }

    /// Waits until the condition holds.
    pub fn wait(&self, what: &str, mut condition: impl FnMut(&State) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !condition(&self.state) {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn chat_body(content: &str, fields: Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": content}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

pub fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .proxy(None)
        .build();
    config.into()
}

pub fn reply(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
    let mut response = result.unwrap();
    let header = response.headers().get("content-type");
    let content_type = header.map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    Reply { status: response.status().as_u16(), content_type, body: response.body_mut().read_to_string().unwrap() }
}
