//! A client of one request, with which the `serve` stage tries its own server out.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use cupola_artifact::{Context, Error, Result};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(120);

/// What a streamed request brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trial {
    /// The answer.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Seconds from sending the request to the first text.
    pub first_token_seconds: f64,
    /// Seconds to the end.
    pub total_seconds: f64,
}

impl Trial {
    /// The speed after the first token; of the whole when there is only one.
    pub fn tokens_per_second(&self) -> f64 {
        let after_first = self.total_seconds - self.first_token_seconds;
        match self.completion_tokens {
            0 => 0.0,
            tokens if tokens > 1 && after_first > 0.0 => (tokens - 1) as f64 / after_first,
            tokens => tokens as f64 / self.total_seconds.max(1e-9),
        }
    }
}

/// Sends a request and reads the answer's head; gives what follows it, line by line.
fn send(address: SocketAddr, route: &str, body: &Value) -> Result<impl Iterator<Item = std::io::Result<String>>> {
    let body = body.to_string();
    let mut socket = TcpStream::connect_timeout(&address, TIMEOUT).context(|| format!("cannot reach {address}"))?;
    socket.set_read_timeout(Some(TIMEOUT)).context(|| "setting the time limit of the trial request".into())?;
    // HTTP/1.0: the answer comes as it is, without chunks, and ends with the connection.
    let head = format!(
        "POST {route} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).context(|| "sending the trial request".into())?;
    let mut lines = BufReader::new(socket).lines();
    let mut next = || lines.next().transpose().context(|| "reading the server's answer".into());
    let status = next()?.unwrap_or_default();
    while next()?.is_some_and(|line| !line.is_empty()) {}
    if !status.contains(" 200 ") {
        let body = next()?.unwrap_or_default();
        return Err(Error::failed(format!("the server answered the trial request with {status}: {body}")));
    }
    Ok(lines)
}

/// Sends a request that the server answers at once; gives the answer and the seconds that it took.
pub fn ask(address: SocketAddr, route: &str, body: &Value) -> Result<(Value, f64)> {
    let started = Instant::now();
    let lines = send(address, route, body)?.collect::<std::io::Result<Vec<String>>>();
    let text = lines.context(|| "reading the server's answer".into())?.concat();
    let answer = serde_json::from_str(&text).context(|| format!("the server sent `{text}`"))?;
    Ok((answer, started.elapsed().as_secs_f64()))
}

/// Sends a request that the server answers by server-sent events, and reads them to the end.
pub fn stream(address: SocketAddr, route: &str, mut body: Value) -> Result<Trial> {
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let started = Instant::now();
    let mut trial = Trial::default();
    for line in send(address, route, &body)? {
        let line = line.context(|| "reading the server's answer".into())?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            trial.total_seconds = started.elapsed().as_secs_f64();
            return Ok(trial);
        }
        let chunk: Value = serde_json::from_str(data).context(|| format!("the server sent `{data}`"))?;
        trial.take(&chunk, started)?;
    }
    Err(Error::failed("the server's answer broke off"))
}

impl Trial {
    fn take(&mut self, chunk: &Value, started: Instant) -> Result<()> {
        if let Some(message) = chunk["error"]["message"].as_str() {
            return Err(Error::failed(format!("the trial request failed: {message}")));
        }
        let choice = &chunk["choices"][0];
        let text = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
        let ended = choice["finish_reason"].is_string();
        // An answer may have no text at all: then the first sign of it is its end.
        if self.first_token_seconds == 0.0 && (!text.is_empty() || ended) {
            self.first_token_seconds = started.elapsed().as_secs_f64();
        }
        self.text += text;
        if let Some(usage) = chunk["usage"].as_object() {
            let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
            (self.prompt_tokens, self.completion_tokens) = (count("prompt_tokens"), count("completion_tokens"));
        }
        Ok(())
    }
}
