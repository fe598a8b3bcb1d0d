//! A small HTTP server on loopback that answers as a test says, cuts connections off and remembers what it was asked.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub when: Instant,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection is cut off after so many bytes of the body.
    pub cut: Option<usize>,
    /// The answer is kept back.
    pub delay: Duration,
    /// The body has no length and no end.
    pub endless: bool,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub fn html(body: &str) -> Self {
        Self::new(200, body).with("content-type", "text/html; charset=utf-8")
    }

    pub fn to(address: &str) -> Self {
        Self::new(302, "").with("location", address)
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A file as servers give it that know ranges and versions.
    pub fn file(asked: &Asked, body: &[u8], etag: &str) -> Self {
        if asked.header("if-none-match") == Some(etag) {
            return Self::new(304, "").with("etag", etag);
        }
        let start =
            asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match start.filter(|_| asked.header("if-range") == Some(etag)) {
            Some(start) if start >= body.len() => {
                Self::new(416, "").with("content-range", &format!("bytes */{}", body.len()))
            }
            Some(start) => Self::new(206, &body[start..])
                .with("etag", etag)
                .with("content-range", &format!("bytes {start}-{}/{}", body.len() - 1, body.len())),
            None => Self::new(200, body).with("etag", etag),
        }
    }

    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

/// A server; it ends with the process.
pub struct Server {
    /// `http://127.0.0.1:PORT`.
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Starts one; `answer` also gets the number of the request to that path, from 0.
    pub fn start(answer: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || {
                    // A client that goes away is not the server's trouble.
                    let _ = serve(stream, &log, answer.as_ref());
                });
            }
        });
        Self { address, asked }
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The paths of all requests so far.
    pub fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.path).collect()
    }

    /// An address on this server.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }
}

fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    answer: &(dyn Fn(&Asked, usize) -> Answer + Send + Sync),
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let asked = Asked { path, headers, when: Instant::now() };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(asked.clone());
        log.iter().filter(|other| other.path == asked.path).count() - 1
    };
    let answer = answer(&asked, number);
    std::thread::sleep(answer.delay);
    let mut out = stream;
    let mut head = format!("HTTP/1.1 {} Test\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !answer.endless {
        head.push_str(&format!("content-length: {}\r\n", answer.body.len()));
    }
    out.write_all(format!("{head}\r\n").as_bytes())?;
    out.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len()).min(answer.body.len())])?;
    if answer.endless {
        loop {
            out.write_all(&[b'a'; 4096])?;
        }
    }
    out.flush()
}
