//! A server that speaks just enough HTTP/1.1 and chat completions, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked for.
    pub path: String,
    /// The header of that name.
    pub authorization: String,
    /// What was sent.
    pub body: Value,
    /// How many requests came before it.
    pub number: usize,
}

impl Request {
    /// The last message.
    pub fn prompt(&self) -> &str {
        self.body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()
    }

    /// The first message that is not the system's.
    pub fn asked(&self) -> &str {
        let messages = self.body["messages"].as_array().unwrap();
        messages.iter().find(|m| m["role"] == "user").unwrap()["content"].as_str().unwrap()
    }
}

/// What is sent back, and after how long.
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Further headers, each with its line break.
    pub headers: String,
    /// What is sent.
    pub body: String,
    /// How long it takes.
    pub after: Duration,
}

impl Reply {
    /// A status with a body.
    pub fn status(status: u16, body: &str) -> Self {
        Self { status, headers: String::new(), body: body.into(), after: Duration::ZERO }
    }

    /// A chat completion.
    pub fn says(text: &str) -> Self {
        let body = json!({
            "model": "tiny-1",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        });
        Self::status(200, &body.to_string())
    }

    /// The same after so long.
    #[must_use]
    pub fn after(mut self, milliseconds: u64) -> Self {
        self.after = Duration::from_millis(milliseconds);
        self
    }
}

/// The server; it ends with the value.
pub struct Server {
    /// Where it is: `http://127.0.0.1:…`.
    pub address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it; `reply` answers each request.
    pub fn new(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (seen, stop, reply) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)), Arc::new(reply));
        let (all, ended) = (Arc::clone(&seen), Arc::clone(&stop));
        let listening = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (all, reply) = (Arc::clone(&all), Arc::clone(&reply));
                std::thread::spawn(move || serve(stream.unwrap(), &all, &*reply));
            }
        });
        Self { address, seen, stop, listening: Some(listening) }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
        self.listening.take().unwrap().join().unwrap();
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, reply: &(dyn Fn(&Request) -> Reply + Send + Sync)) {
    let mut reader = BufReader::new(stream);
    let (mut lines, mut line) = (Vec::new(), String::new());
    while reader.read_line(&mut line).unwrap_or(0) > 2 {
        lines.push(line.trim().to_owned());
        line.clear();
    }
    let Some(first) = lines.first() else { return };
    let header = |name: &str| {
        let found =
            lines[1..].iter().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let mut request = Request {
        path: first.split(' ').nth(1).unwrap().to_owned(),
        authorization: header("authorization"),
        body: serde_json::from_slice(&body).unwrap(),
        number: 0,
    };
    {
        let mut seen = seen.lock().unwrap();
        request.number = seen.len();
        seen.push(request.clone());
    }
    let reply = reply(&request);
    std::thread::sleep(reply.after);
    // Who has stopped waiting is not there any more.
    let _ = write!(
        reader.into_inner(),
        "HTTP/1.1 {} Told\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n{}\r\n{}",
        reply.status,
        reply.body.len(),
        reply.headers,
        reply.body
    );
}
