//! The routes over an encoder: `/v1/embeddings` as OpenAI has it; `/embed` and `/predict` as text-embeddings-inference has
//! them; and the model's own task at `/` as Hugging Face's inference servers have it.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cupola_artifact::{Class, Error};
use cupola_generate::{Filling, Reader, Reads};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::answer::unix_seconds;
use crate::api_error::ApiError;
use crate::base64::encode;
use crate::body::{drain, read_json};
use crate::config::ServeConfig;
use crate::fields::{Fields, wrong};
use crate::routes::{bearer, not_found};

/// What all requests share.
struct Shared {
    /// One request computes at a time, on all cores.
    reader: Mutex<Reader>,
    reads: Reads,
    max_seq_len: usize,
    config: ServeConfig,
    model: String,
    created: u64,
    /// Places for the request that computes and those that wait.
    places: Arc<Semaphore>,
}

type Server = State<Arc<Shared>>;

/// Most texts of one request.
const MOST_TEXTS: usize = 2048;

/// A text, or its tokens.
enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

/// The server's routes over an encoder; `model` is the name that the API shows unless the settings give one.
pub fn reading_router(reader: Reader, config: &ServeConfig, model: &str) -> Router {
    let shared = Arc::new(Shared {
        reads: reader.reads(),
        max_seq_len: reader.max_seq_len(),
        reader: Mutex::new(reader),
        config: config.clone(),
        model: config.model_name.clone().unwrap_or_else(|| model.to_owned()),
        created: unix_seconds(),
        places: Arc::new(Semaphore::new(config.engine.max_waiting.min(Semaphore::MAX_PERMITS - 1) + 1)),
    });
    Router::new()
        .route("/", post(own_task))
        .route("/health", get(health))
        .route("/models/{*id}", post(own_task))
        .route("/v1/models", get(models))
        .route("/v1/embeddings", post(embeddings))
        .route("/embed", post(embed))
        .route("/predict", post(predict))
        .fallback(not_found)
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Stands before every route but `/health`: checks the key.
async fn guard(State(shared): Server, request: Request, next: Next) -> Response {
    let checked = match &shared.config.api_key {
        Some(key) if request.uri().path() != "/health" => bearer(key, &request),
        _ => Ok(()),
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(error) => {
            drain(request).await;
            error.into_response()
        }
    }
}

async fn health(State(shared): Server) -> Json<Value> {
    Json(json!({"status": "ok", "model": shared.model}))
}

async fn models(State(shared): Server) -> Json<Value> {
    let (id, created, length) = (&shared.model, shared.created, shared.max_seq_len);
    let entry = json!({"id": id, "object": "model", "created": created, "owned_by": "cupola", "max_model_len": length});
    Json(json!({"object": "list", "data": [entry]}))
}

/// A usage error is the request's fault.
fn told(param: &'static str) -> impl Fn(Error) -> ApiError {
    move |error| match error.class() {
        Class::Usage => ApiError::bad_param(param, error.chain()),
        Class::Failed => ApiError::server(error.chain()),
    }
}

/// The texts of a field, and whether it is a list of them.
fn inputs(fields: &mut Fields, name: &'static str) -> Result<(Vec<Input>, bool), ApiError> {
    let expected = "a text, a list of texts, token ids, or a list of those";
    let value = fields.take(name).ok_or_else(|| ApiError::bad_param(name, format!("`{name}` is missing")))?;
    let ids = |value: &Value| -> Option<Vec<u32>> {
        value.as_array()?.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    };
    let one = |value: &Value| match value {
        Value::String(text) => Some(Input::Text(text.clone())),
        other => ids(other).map(Input::Tokens),
    };
    let (all, several) = match &value {
        Value::Array(items) if !items.first().is_some_and(Value::is_number) => (items.iter().map(one).collect(), true),
        single => (one(single).map(|input| vec![input]), false),
    };
    let all: Vec<Input> = all.ok_or_else(|| wrong(name, expected, &value))?;
    match all.len() {
        0 => Err(ApiError::bad_param(name, format!("`{name}` is empty"))),
        n if n > MOST_TEXTS => {
            Err(ApiError::bad_param(name, format!("`{name}` has {n} texts, but a request may have {MOST_TEXTS}")))
        }
        _ => Ok((all, several)),
    }
}

impl Shared {
    /// The fields of a request.
    async fn fields(&self, request: Request) -> Result<Fields, ApiError> {
        let mut fields = Fields::parse(&read_json(request, self.config.max_body_bytes).await?)?;
        match fields.string("model")? {
            Some(asked) if asked != self.model => Err(ApiError::model_not_found(&asked, &self.model)),
            _ => Ok(fields),
        }
    }

    /// Lets the model read, when it is this request's turn.
    async fn read<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Reader) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| ApiError::queue_full("too many requests wait already"))?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&self.reader.lock().unwrap_or_else(PoisonError::into_inner));
            drop(place);
            result
        });
        done.await.map_err(|_| ApiError::server("the model failed"))?
    }
}

/// The tokens of all inputs.
fn tokens(reader: &Reader, inputs: Vec<Input>, cut: bool, name: &'static str) -> Result<Vec<Vec<u32>>, ApiError> {
    let of = |input| match input {
        Input::Text(text) => reader.tokens(&text, cut).map_err(told(name)),
        Input::Tokens(ids) => reader.check(&ids).map_err(told(name)).map(|()| ids),
    };
    inputs.into_iter().map(of).collect()
}

/// Refuses what nobody took.
fn nothing_else(fields: Fields) -> Result<(), ApiError> {
    match fields.rest().next() {
        Some((name, _)) => Err(ApiError::unsupported(&name, format!("`{name}` is not supported here"))),
        None => Ok(()),
    }
}

async fn embeddings(State(shared): Server, request: Request) -> Result<Json<Value>, ApiError> {
    let mut fields = shared.fields(request).await?;
    let (inputs, _) = inputs(&mut fields, "input")?;
    let packed = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("`encoding_format` must be \"float\" or \"base64\", but is {other:?}");
            return Err(ApiError::bad_param("encoding_format", message));
        }
    };
    let width = fields.size("dimensions", 1)?;
    fields.string("user")?;
    nothing_else(fields)?;
    let (vectors, count) = shared
        .clone()
        .read(move |reader| {
            let texts = tokens(reader, inputs, false, "input")?;
            Ok((reader.vectors(&texts), texts.iter().map(Vec::len).sum::<usize>()))
        })
        .await?;
    if let (Some(width), Some(first)) = (width, vectors.first())
        && width != first.len()
    {
        let message = format!("`dimensions` = {width}, but this model's vectors have {}", first.len());
        return Err(ApiError::unsupported("dimensions", message));
    }
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| {
            let bytes = || vector.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
            let embedding = if packed { json!(encode(&bytes())) } else { json!(vector) };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let usage = json!({"prompt_tokens": count, "total_tokens": count});
    Ok(Json(json!({"object": "list", "data": data, "model": shared.model, "usage": usage})))
}

/// A list of vectors.
async fn embed(State(shared): Server, request: Request) -> Result<Json<Value>, ApiError> {
    let mut fields = shared.fields(request).await?;
    let (inputs, _) = inputs(&mut fields, "inputs")?;
    let cut = fields.boolean("truncate")?.unwrap_or(false);
    if fields.boolean("normalize")? == Some(false) {
        return Err(ApiError::unsupported("normalize", "vectors have the length 1 here"));
    }
    nothing_else(fields)?;
    let read = move |reader: &Reader| Ok(reader.vectors(&tokens(reader, inputs, cut, "inputs")?));
    Ok(Json(json!(shared.read(read).await?)))
}

fn labelled(labels: Vec<(String, f32)>) -> Value {
    labels.into_iter().map(|(label, score)| json!({"label": label, "score": score})).collect()
}

/// The labels of a text, or a list of those of several.
async fn predict(State(shared): Server, request: Request) -> Result<Json<Value>, ApiError> {
    let mut fields = shared.fields(request).await?;
    let (inputs, several) = inputs(&mut fields, "inputs")?;
    let cut = fields.boolean("truncate")?.unwrap_or(false);
    nothing_else(fields)?;
    let read = move |reader: &Reader| reader.labels(&tokens(reader, inputs, cut, "inputs")?).map_err(told("inputs"));
    let mut all: Vec<Value> = shared.read(read).await?.into_iter().map(labelled).collect();
    Ok(Json(if several { all.into() } else { all.pop().unwrap_or_default() }))
}

fn filled(filling: Filling) -> Value {
    let Filling { token, text, sequence, score } = filling;
    json!({"score": score, "token": token, "token_str": text, "sequence": sequence})
}

/// One text's words for its mask; a list of such where it has several.
fn fillings(reader: &Reader, text: &[u32], most: usize) -> Result<Value, ApiError> {
    let mut masks: Vec<Value> = vec![];
    for mask in reader.fillings(text, most).map_err(told("inputs"))? {
        masks.push(mask.into_iter().map(filled).collect());
    }
    Ok(if masks.len() == 1 { masks.pop().unwrap_or_default() } else { masks.into() })
}

/// What the model is for: words for masks, labels, or vectors.
async fn own_task(State(shared): Server, request: Request) -> Result<Json<Value>, ApiError> {
    let mut fields = shared.fields(request).await?;
    let (inputs, several) = inputs(&mut fields, "inputs")?;
    let mut parameters = Fields::nested("parameters".into(), fields.take("parameters").unwrap_or(json!({})))?;
    let most = parameters.size("top_k", 1)?;
    let cut = parameters.boolean("truncation")?.unwrap_or(false);
    nothing_else(parameters)?;
    // Waiting for the model and caches are matters of servers that load models on demand.
    fields.take("options");
    nothing_else(fields)?;
    let reads = shared.reads;
    let read = move |reader: &Reader| -> Result<Value, ApiError> {
        let texts = tokens(reader, inputs, cut, "inputs")?;
        Ok(match reads {
            Reads::Vectors => json!(reader.vectors(&texts)),
            Reads::Labels => {
                let all = reader.labels(&texts).map_err(told("inputs"))?;
                all.into_iter()
                    .map(|labels| labelled(labels.into_iter().take(most.unwrap_or(usize::MAX)).collect()))
                    .collect()
            }
            Reads::Masks => {
                let all = texts.iter().map(|text| fillings(reader, text, most.unwrap_or(5)));
                let mut all = all.collect::<Result<Vec<Value>, ApiError>>()?;
                if several { all.into() } else { all.pop().unwrap_or_default() }
            }
        })
    };
    Ok(Json(shared.read(read).await?))
}
