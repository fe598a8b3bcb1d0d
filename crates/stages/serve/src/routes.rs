//! The routes and what stands before them: key, counting, errors in the API's shape.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cupola_generate::BeamOptions;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::answer::{Answer, Kind, unix_seconds};
use crate::api_error::ApiError;
use crate::backend::Backend;
use crate::beams;
use crate::body::{drain, read_json};
use crate::config::{Secret, ServeConfig};
use crate::job::Job;
use crate::logprobs::Logprobs;
use crate::metrics::{CONTENT_TYPE as METRICS_TYPE, Metrics};
use crate::page::Page;
use crate::request::{ChatRequest, Common, CompletionRequest, Prompt};
use crate::sampling;

/// What all requests share.
struct Shared {
    backend: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
    config: ServeConfig,
    model: String,
    created: u64,
    page: Page,
    /// Places for beam searches, the running one and those that wait.
    searches: Arc<Semaphore>,
}

type Server = State<Arc<Shared>>;

/// The server's routes over a backend; `model` is the name that the API shows unless the settings give one.
pub fn router(backend: Arc<dyn Backend>, config: &ServeConfig, model: &str) -> Router {
    let shared = Arc::new(Shared {
        backend,
        metrics: Arc::default(),
        config: config.clone(),
        model: config.model_name.clone().unwrap_or_else(|| model.to_owned()),
        created: unix_seconds(),
        page: Page::new(),
        searches: Arc::new(Semaphore::new(config.engine.max_waiting.min(Semaphore::MAX_PERMITS - 1) + 1)),
    });
    Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model_by_id))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Stands before every route: checks the key, counts the request.
async fn guard(State(shared): Server, request: Request, next: Next) -> Response {
    let route = route_label(request.uri().path());
    let mut response = match check_key(&shared.config, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            drain(request).await;
            error.into_response()
        }
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    shared.metrics.observe_request(route, response.status().as_u16());
    response
}

/// A closed set of labels, so that a client cannot fill the memory with invented paths.
fn route_label(path: &str) -> &'static str {
    match path {
        "/" => "/",
        "/health" => "/health",
        "/metrics" => "/metrics",
        "/v1/models" => "/v1/models",
        "/v1/chat/completions" => "/v1/chat/completions",
        "/v1/completions" => "/v1/completions",
        path if path.starts_with("/v1/models/") => "/v1/models/{id}",
        _ => "other",
    }
}

/// The API needs the key; the page, `/health` and `/metrics` do not.
fn check_key(config: &ServeConfig, request: &Request) -> Result<(), ApiError> {
    let Some(key) = config.api_key.as_ref().filter(|_| request.uri().path().starts_with("/v1")) else {
        return Ok(());
    };
    bearer(key, request)
}

/// Whether the request has the key.
pub fn bearer(key: &Secret, request: &Request) -> Result<(), ApiError> {
    let Some(header) = request.headers().get(AUTHORIZATION) else {
        return Err(ApiError::unauthorized("no API key given; send it as `Authorization: Bearer KEY`"));
    };
    let given = header.as_bytes();
    let is_bearer = given.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    if is_bearer && key.matches(given[7..].trim_ascii()) {
        Ok(())
    } else {
        Err(ApiError::unauthorized("incorrect API key"))
    }
}

async fn page(State(shared): Server) -> Response {
    shared.page.respond()
}

async fn health(State(shared): Server) -> Json<Value> {
    let stats = shared.backend.stats();
    Json(json!({"status": "ok", "model": shared.model, "running": stats.running, "waiting": stats.waiting}))
}

async fn metrics(State(shared): Server) -> Result<Response, ApiError> {
    let text = shared.metrics.render(&shared.backend.stats()).map_err(|e| ApiError::server(e.to_string()))?;
    Ok(([(CONTENT_TYPE, METRICS_TYPE)], text).into_response())
}

async fn models(State(shared): Server) -> Json<Value> {
    let names = [shared.model.as_str()].into_iter().chain(shared.backend.adapters().iter().map(String::as_str));
    Json(json!({"object": "list", "data": names.map(|name| shared.model_entry(name)).collect::<Vec<_>>()}))
}

async fn model_by_id(
    State(shared): Server,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    // A name that is not even text is no model's name either.
    let id = path.map_or_else(|_| "\u{fffd}".to_owned(), |Path(id)| id);
    let adapter = shared.adapter_of(Some(&id))?;
    Ok(Json(shared.model_entry(adapter.as_deref().unwrap_or(&shared.model))))
}

async fn chat_completions(State(shared): Server, request: Request) -> Result<Response, ApiError> {
    let body = read_json(request, shared.config.max_body_bytes).await?;
    let ChatRequest { mut common, messages } = ChatRequest::parse(&body, &shared.config.sampling)?;
    common.params.adapter = shared.adapter_of(common.model.as_deref())?;
    let backend = shared.backend.clone();
    let tokens = blocking(move || {
        let tokenizer = backend.tokenizer();
        if tokenizer.chat_template().is_none() {
            let message = "this model has no chat template; use /v1/completions, or tune the model for chat";
            return Err(ApiError::bad_param("messages", message).with_code("no_chat_template"));
        }
        tokenizer.encode_chat(&messages, true).map_err(|e| ApiError::bad_param("messages", e.chain()))
    })
    .await?;
    shared.answer(Kind::Chat, &common, vec![tokens], vec![String::new()]).await
}

async fn completions(State(shared): Server, request: Request) -> Result<Response, ApiError> {
    let body = read_json(request, shared.config.max_body_bytes).await?;
    let CompletionRequest { mut common, prompts, echo } = CompletionRequest::parse(&body, &shared.config.sampling)?;
    common.params.adapter = shared.adapter_of(common.model.as_deref())?;
    if prompts.len().saturating_mul(common.best_of) > shared.config.max_choices {
        let (count, most) = (prompts.len(), shared.config.max_choices);
        let each = common.best_of;
        let message = format!("{count} prompts with {each} choices each are more than the {most} of one request");
        return Err(ApiError::bad_param("prompt", message));
    }
    let backend = shared.backend.clone();
    let (tokens, prefixes) = blocking(move || {
        let encoded: Result<Vec<_>, _> = prompts.into_iter().map(|p| encode(&*backend, p, echo)).collect();
        encoded.map(|pairs| pairs.into_iter().unzip())
    })
    .await?;
    shared.answer(Kind::Text, &common, tokens, prefixes).await
}

/// A prompt's tokens, and its text if it is to be echoed.
fn encode(backend: &dyn Backend, prompt: Prompt, echo: bool) -> Result<(Vec<u32>, String), ApiError> {
    let tokenizer = backend.tokenizer();
    let wrong = |e: cupola_artifact::Error| ApiError::bad_param("prompt", e.chain());
    match prompt {
        Prompt::Text(text) => Ok((tokenizer.encode(&text).map_err(wrong)?, if echo { text } else { String::new() })),
        Prompt::Tokens(ids) => {
            let size = tokenizer.vocab_size();
            if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
                let message = format!("`prompt` holds the token id {id}, but the vocabulary has {size} tokens");
                return Err(ApiError::bad_param("prompt", message));
            }
            let text = if echo { tokenizer.decode(&ids).map_err(wrong)? } else { String::new() };
            Ok((ids, text))
        }
    }
}

/// Tokenizing a long prompt takes a while; it must not hold up the other connections.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::server("the tokenizer failed"))?
}

impl Shared {
    fn model_entry(&self, name: &str) -> Value {
        let sampling = &self.config.sampling;
        json!({
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "cupola",
            "max_model_len": self.backend.max_seq_len(),
            "chat": self.backend.tokenizer().chat_template().is_some(),
            "defaults": {
                "temperature": tidy(sampling.temperature),
                "top_p": tidy(sampling.top_p),
                "max_tokens": sampling.max_tokens,
            },
        })
    }

    /// The adapter that a request's model names; none where that is the model itself.
    fn adapter_of(&self, asked: Option<&str>) -> Result<Option<String>, ApiError> {
        let Some(asked) = asked.filter(|asked| *asked != self.model) else { return Ok(None) };
        let adapters = self.backend.adapters();
        match adapters.iter().find(|name| *name == asked) {
            Some(name) => Ok(Some(name.clone())),
            None => {
                let served: Vec<&str> = [&self.model].into_iter().chain(adapters).map(String::as_str).collect();
                Err(ApiError::model_not_found(asked, &served.join("`, `")))
            }
        }
    }

    /// What an answer says wrote it.
    fn written_by<'a>(&'a self, common: &'a Common) -> &'a str {
        common.params.adapter.as_deref().unwrap_or(&self.model)
    }

    /// Submits the prompts and answers; `prefixes` holds one string per prompt.
    async fn answer(
        &self,
        kind: Kind,
        common: &Common,
        prompts: Vec<Vec<u32>>,
        prefixes: Vec<String>,
    ) -> Result<Response, ApiError> {
        self.check_lengths(if kind == Kind::Chat { "messages" } else { "prompt" }, &prompts)?;
        let tokenizer = self.backend.tokenizer();
        sampling::check(&common.params, tokenizer.vocab_size())?;
        if let Some(options) = &common.beams {
            return self.search(kind, common, options, prompts, &prefixes).await;
        }
        let texts = common.best_of;
        let prefixes: Vec<String> = prefixes.into_iter().flat_map(|p| std::iter::repeat_n(p, texts)).collect();
        let mut params = common.params.clone();
        let logprobs = Logprobs::new(kind, params.logprobs.map(|_| tokenizer.clone()), &prefixes);
        if texts > common.n {
            // They are compared by it.
            params.logprobs.get_or_insert(0);
        }
        let job = Job::start(&*self.backend, self.metrics.clone(), prompts, &params, texts)?;
        respond(Answer::new(kind, self.written_by(common), prefixes, logprobs), job, common).await
    }

    /// Refuses prompts that are empty or leave no room for an answer.
    fn check_lengths(&self, param: &str, prompts: &[Vec<u32>]) -> Result<(), ApiError> {
        let room = self.backend.max_seq_len();
        for prompt in prompts {
            if prompt.is_empty() {
                return Err(ApiError::bad_param(param, format!("`{param}` has no tokens")));
            }
            if prompt.len() >= room {
                let message = format!(
                    "the prompt has {} tokens, but prompt and answer together may have {room}; shorten `{param}`",
                    prompt.len()
                );
                return Err(ApiError::context_length(param, message));
            }
        }
        Ok(())
    }

    /// Answers by beam search.
    async fn search(
        &self,
        kind: Kind,
        common: &Common,
        options: &BeamOptions,
        prompts: Vec<Vec<u32>>,
        prefixes: &[String],
    ) -> Result<Response, ApiError> {
        beams::check(common)?;
        let place = self.searches.clone().try_acquire_owned();
        let place = place.map_err(|_| ApiError::queue_full("too many beam searches wait already"))?;
        let (beams, returned, params) = (common.best_of, common.n, common.params.clone());
        let options = BeamOptions { beams, returned, params, ..options.clone() };
        let asked = prompts.iter().map(Vec::len).sum();
        let (found, written) = beams::search(self.backend.clone(), prompts, options, place).await?;
        let prefixes: Vec<String> = prefixes.iter().flat_map(|p| std::iter::repeat_n(p.clone(), returned)).collect();
        let answer = Answer::new(kind, self.written_by(common), prefixes, Logprobs::new(kind, None, &[]));
        Ok(Json(answer.found(found, (asked, written))?).into_response())
    }
}

async fn respond(answer: Answer, job: Job, common: &Common) -> Result<Response, ApiError> {
    if !common.stream {
        return Ok(Json(answer.whole(job, common.n, common.best_of).await?).into_response());
    }
    let stream = Sse::new(answer.stream(job, common.include_usage));
    let mut response = stream.keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response();
    // Asks reverse proxies not to hold tokens back.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// 0.9 instead of 0.8999999761581421.
fn tidy(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// The answer to any other path.
pub async fn not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    drain(request).await;
    ApiError::not_found(format!("there is no {path} here"))
}

async fn method_not_allowed(request: Request) -> ApiError {
    let message = format!("{} does not take {}", route_label(request.uri().path()), request.method());
    drain(request).await;
    ApiError::method_not_allowed(message)
}
