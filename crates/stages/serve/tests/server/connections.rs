//! Several clients at once, clients that go away, clients that are slow, and the end of the server.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::common::{Running, chat_body, start, start_with};
use cupola_serve::ServeConfig;
use serde_json::{Value, json};

/// Sends a request and leaves the answer to be read.
fn open(server: &Running, body: &Value) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(server.handle.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let body = body.to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    socket.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    BufReader::new(socket)
}

/// Reads on until a line contains `word`; `false` when the connection ends before.
fn read_until(stream: &mut BufReader<TcpStream>, word: &str) -> bool {
    let mut line = String::new();
    loop {
        line.clear();
        match stream.read_line(&mut line) {
            Ok(0) | Err(_) => return false,
            Ok(_) if line.contains(word) => return true,
            Ok(_) => {}
        }
    }
}

fn slow(fields: Value) -> Value {
    let mut body = chat_body("SLOW", fields);
    body["max_tokens"] = body["max_tokens"].as_u64().unwrap_or(100_000).into();
    body
}

#[test]
fn a_client_that_goes_away_cancels_its_stream() {
    let server = start();
    let mut stream = open(&server, &slow(json!({"stream": true, "n": 2})));
    assert!(read_until(&mut stream, "and"));
    drop(stream);
    server.wait("both choices cancelled", |s| s.cancelled.load(Ordering::SeqCst) == 2);
}

#[test]
fn a_client_that_goes_away_cancels_its_whole_answer_too() {
    let server = start();
    let stream = open(&server, &slow(json!({})));
    server.wait("generation began", |s| s.running.load(Ordering::SeqCst) == 1);
    drop(stream);
    server.wait("cancelled", |s| s.cancelled.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_long_answer_does_not_hold_up_the_others() {
    let server = start();
    let mut long: Vec<_> = (0..8).map(|_| open(&server, &slow(json!({"stream": true})))).collect();
    assert!(long.iter_mut().all(|stream| read_until(stream, "and")));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for i in 0..16 {
            let server = &server;
            scope.spawn(move || {
                let answer = server.chat(&format!("number {i}"), json!({})).json();
                assert_eq!(answer["choices"][0]["message"]["content"], format!("echo: number {i}"));
            });
        }
    });
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(server.state.running.load(Ordering::SeqCst), 8);
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_engine() {
    let server = start();
    let _unread = open(&server, &slow(json!({"stream": true, "max_tokens": 20, "n": 8})));
    server.wait("all choices ended", |s| s.finished.load(Ordering::SeqCst) == 8);
    assert_eq!(server.state.cancelled.load(Ordering::SeqCst), 0);
}

#[test]
fn one_connection_serves_many_requests() {
    let server = start();
    let agent = crate::common::agent();
    for status in [200, 400, 200] {
        let body = if status == 200 { chat_body("hi", json!({})) } else { json!({"messages": 1}) };
        let reply = crate::common::reply(agent.post(server.url("/v1/chat/completions")).send_json(&body));
        assert_eq!(reply.status, status);
    }
}

#[test]
fn shutdown_lets_running_answers_end() {
    let server = start();
    let mut stream = open(&server, &slow(json!({"stream": true, "max_tokens": 60})));
    assert!(read_until(&mut stream, "and"));
    let address = server.handle.address();
    let started = Instant::now();
    server.handle.stop().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(read_until(&mut stream, "[DONE]"));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn shutdown_cancels_answers_that_take_too_long() {
    let server = start_with(ServeConfig { shutdown_seconds: 1, ..ServeConfig::default() }, true);
    let mut stream = open(&server, &slow(json!({"stream": true})));
    assert!(read_until(&mut stream, "and"));
    let started = Instant::now();
    server.handle.stop().unwrap();
    assert!((1..4).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert!(!read_until(&mut stream, "[DONE]"));
    let deadline = Instant::now() + Duration::from_secs(2);
    while server.state.cancelled.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline, "the sequence goes on after the end of the server");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_idle_connection_does_not_delay_shutdown() {
    let server = start();
    let _idle = TcpStream::connect(server.handle.address()).unwrap();
    let agent = crate::common::agent();
    agent.get(server.url("/health")).call().unwrap();
    let started = Instant::now();
    server.handle.stop().unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}
