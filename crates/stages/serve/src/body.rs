//! Reads a request's body: JSON only, within the limit and in time.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use crate::api_error::ApiError;

/// How much of a body that is refused anyway is read and thrown away, so that a client that sends all before it listens
/// gets to see the answer instead of a broken connection.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(10);
const READ_TIME: Duration = Duration::from_secs(60);

/// The body of a JSON request.
pub async fn read_json(request: Request, limit: usize) -> Result<Vec<u8>, ApiError> {
    let content_type = request.headers().get(CONTENT_TYPE).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let is_json = content_type.as_deref().is_some_and(|t| {
        t.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
    });
    if !is_json {
        drain(request).await;
        return Err(ApiError::unsupported_media_type(content_type.as_deref().unwrap_or("missing")));
    }
    if declared_length(&request).is_some_and(|length| length > limit as u64) {
        drain(request).await;
        return Err(ApiError::too_large(limit));
    }
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    let read = async {
        while let Some(chunk) = next_chunk(&mut body).await {
            let chunk = chunk.map_err(|e| ApiError::bad_request(format!("the request's body broke off: {e}")))?;
            if bytes.len() + chunk.len() > limit {
                return Err(ApiError::too_large(limit));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    match tokio::time::timeout(READ_TIME, read).await {
        Ok(Ok(())) => Ok(bytes),
        Ok(Err(error)) => {
            drain_body(body).await;
            Err(error)
        }
        Err(_) => Err(ApiError::body_timeout()),
    }
}

/// Throws a request's body away, up to a limit.
pub async fn drain(request: Request) {
    if declared_length(&request).is_none_or(|length| length <= DRAIN_BYTES as u64) {
        drain_body(request.into_body()).await;
    }
}

async fn drain_body(mut body: Body) {
    let mut left = DRAIN_BYTES;
    let read = async {
        while let Some(Ok(chunk)) = next_chunk(&mut body).await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // Out of time is as good as done: nobody wants these bytes.
    drop(tokio::time::timeout(DRAIN_TIME, read).await);
}

fn declared_length(request: &Request) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn next_chunk(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    // Trailers hold no data.
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}
