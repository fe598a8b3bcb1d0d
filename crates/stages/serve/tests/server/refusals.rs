//! Requests that are wrong, hostile, or without a key: each gets its status and an error in the API's shape.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::{Running, agent, chat_body, reply, start, start_with_key};
use cupola_serve::{ServeConfig, Server};
use serde_json::json;

/// Sends bytes as they are and reads what comes until the connection ends.
fn raw(server: &Running, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(server.handle.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A connection that is reset has said all it had to say.
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_wrong_type_names_the_field_and_what_was_found() {
    let server = start();
    for (fields, param, found) in [
        (json!({"temperature": "hot"}), "temperature", "the string \"hot\""),
        (json!({"temperature": 3}), "temperature", "3"),
        (json!({"top_p": -1}), "top_p", "-1"),
        (json!({"top_k": -1}), "top_k", "-1"),
        (json!({"max_tokens": "many"}), "max_tokens", "the string \"many\""),
        (json!({"max_tokens": 1e300}), "max_tokens", "the number 1e+300"),
        (json!({"n": 0}), "n", "0"),
        (json!({"n": 9}), "n", "9"),
        (json!({"stream": 1}), "stream", "the number 1"),
        (json!({"stop": 5}), "stop", "the number 5"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop", "5 strings"),
        (json!({"seed": 1.5}), "seed", "the number 1.5"),
        (json!({"model": 5}), "model", "the number 5"),
        (json!({"messages": "hi"}), "messages", "the string \"hi\""),
        (json!({"messages": []}), "messages", "empty"),
        (json!({"messages": null}), "messages", "missing"),
        (json!({"messages": [{"role": "user", "content": 1}]}), "messages[0].content", "the number 1"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", "`stream`"),
        (json!({"stream": true, "stream_options": {"x": 1}}), "stream_options.x", "unknown"),
    ] {
        let error = server.chat("hi", fields.clone()).error(400);
        assert_eq!(error["param"], param, "{fields}");
        assert!(error["message"].as_str().unwrap().contains(found), "{fields}: {error}");
    }
}

#[test]
fn parameters_that_are_not_supported_are_refused_and_not_ignored() {
    let server = start();
    for (fields, param) in [
        (json!({"tools": [{"type": "function"}]}), "tools"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"temprature": 1}), "temprature"),
    ] {
        assert_eq!(server.chat("hi", fields).error(400)["param"], param);
    }
    assert_eq!(server.chat("a", json!({"best_of": 3})).error(400)["param"], "best_of");
    assert_eq!(server.complete(json!("a"), json!({"logprobs": 2, "echo": true})).error(400)["param"], "logprobs");
}

#[test]
fn settings_out_of_range_are_told_with_field_and_range() {
    let server = start();
    for (fields, param, range) in [
        (json!({"min_p": 2}), "min_p", "`min_p` must be from 0 to 1, but is 2"),
        (json!({"frequency_penalty": 3}), "frequency_penalty", "from -2 to 2, but is 3"),
        (json!({"presence_penalty": -2.5}), "presence_penalty", "from -2 to 2, but is -2.5"),
        (json!({"repetition_penalty": -1}), "repetition_penalty", "above 0, but is -1"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias", "from -100 to 100, but is 101 for the token 1"),
        (json!({"logit_bias": {"99999": 1}}), "logit_bias", "the token 99999"),
        (json!({"min_tokens": 500}), "min_tokens", "but is 500"),
    ] {
        for reply in [server.chat("hi", fields.clone()), server.complete(json!("hi"), fields.clone())] {
            let error = reply.error(400);
            assert_eq!(error["param"], param, "{fields}");
            assert!(error["message"].as_str().unwrap().contains(range), "{fields}: {error}");
        }
    }
    for (fields, param, range) in [
        (json!({"logprobs": 6}), "logprobs", "from 0 to 5, but is 6"),
        (json!({"best_of": 9}), "best_of", "from 1 to 8, but is 9"),
        (json!({"best_of": 1, "n": 2}), "best_of", "at least `n` (2), but is 1"),
        (json!({"best_of": 2, "stream": true}), "best_of", "cannot be streamed"),
    ] {
        let error = server.complete(json!("hi"), fields.clone()).error(400);
        assert_eq!(error["param"], param, "{fields}");
        assert!(error["message"].as_str().unwrap().contains(range), "{fields}: {error}");
    }
    for (fields, param) in [
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": 2}), "logprobs"),
    ] {
        assert_eq!(server.chat("hi", fields).error(400)["param"], param);
    }
}

#[test]
fn bodies_that_are_no_json_object_are_bad_requests() {
    let server = start();
    let deep = "[".repeat(100_000);
    let deep_object = "{\"messages\":".repeat(50_000);
    for body in [&b""[..], b"{", b"[]", b"null", b"\xff\xfe", b"{\"a\":1}}", deep.as_bytes(), deep_object.as_bytes()] {
        for path in ["/v1/chat/completions", "/v1/completions"] {
            let error = server.post_bytes(path, "application/json", body).error(400);
            assert_eq!(error["type"], "invalid_request_error");
        }
    }
}

#[test]
fn only_json_is_taken() {
    let server = start();
    let body = chat_body("hi", json!({})).to_string();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
        let error = server.post_bytes("/v1/chat/completions", content_type, body.as_bytes()).error(415);
        assert!(error["message"].as_str().unwrap().contains(content_type));
    }
    let with_charset = "Application/JSON; charset=utf-8";
    assert_eq!(server.post_bytes("/v1/chat/completions", with_charset, body.as_bytes()).status, 200);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let server = start();
    for stream in [false, true] {
        let error = server.chat(&"x".repeat(crate::common::MAX_SEQ_LEN), json!({"stream": stream})).error(400);
        assert_eq!(error["code"], "context_length_exceeded");
        assert!(error["message"].as_str().unwrap().contains("500"), "{error}");
    }
    let error = server.complete(json!("x".repeat(crate::common::MAX_SEQ_LEN)), json!({})).error(400);
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("prompt")));
}

#[test]
fn a_prompt_of_10_megabytes_is_refused_and_the_server_goes_on() {
    let server = start();
    let error = server.chat(&"x".repeat(10 << 20), json!({})).error(413);
    assert_eq!(error["code"], "request_too_large");
    // The same without a length in the head, and with one that promises more than ever comes.
    let reader = std::io::repeat(b'x').take(10 << 20);
    let body = ureq::SendBody::from_owned_reader(reader);
    let request = agent().post(server.url("/v1/completions")).header("Content-Type", "application/json");
    reply(request.send(body)).error(413);
    let head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    let answer = raw(&server, format!("{head}Content-Length: 99999999999\r\nConnection: close\r\n\r\nx").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(server.chat("hi", json!({})).status, 200);
}

#[test]
fn a_full_queue_is_a_429() {
    let error = start().chat("REFUSE", json!({})).error(429);
    assert_eq!((&error["code"], &error["type"]), (&json!("queue_full"), &json!("rate_limit_error")));
}

#[test]
fn another_model_route_or_method_is_refused_in_the_same_shape() {
    let server = start();
    let error = server.chat("hi", json!({"model": "gpt-9"})).error(404);
    assert_eq!(error["code"], "model_not_found");
    assert_eq!(server.complete(json!("a"), json!({"model": "gpt-9"})).error(404)["code"], "model_not_found");
    for path in ["/v1/nothing", "/nothing", "/v1/chat/completions/", "/%00", "/../etc/passwd"] {
        server.get(path).error(404);
    }
    server.get("/v1/chat/completions").error(405);
    server.post("/v1/models", &json!({})).error(405);
    let answer = raw(&server, b"DELETE /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").to_lowercase();
    assert!(answer.starts_with("http/1.1 405") && answer.contains("\r\nallow: get,head\r\n"), "{answer}");
}

#[test]
fn a_missing_or_wrong_key_is_a_401_and_the_page_needs_none() {
    let server = start_with_key("sk-right");
    let get = |key: &str| reply(agent().get(server.url("/v1/models")).header("Authorization", key).call());
    assert_eq!(server.get("/v1/models").error(401)["code"], "invalid_api_key");
    for wrong in ["Bearer sk-wrong", "Bearer ", "Bearer sk-right2", "Basic sk-right", "sk-right"] {
        get(wrong).error(401);
    }
    assert_eq!(get("Bearer sk-right").status, 200);
    assert_eq!(get("bearer sk-right").status, 200);
    server.chat("hi", json!({})).error(401);
    server.chat(&"x".repeat(10 << 20), json!({})).error(401);
    server.get("/v1/nothing").error(401);
    for open in ["/", "/health", "/metrics"] {
        assert_eq!(server.get(open).status, 200);
    }
}

#[test]
fn malformed_http_harms_nobody() {
    let server = start();
    for bytes in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut socket = TcpStream::connect(server.handle.address()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.write_all(bytes).unwrap();
        let mut answer = [0; 64];
        let read = socket.read(&mut answer).unwrap_or(0);
        assert!(read == 0 || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_port_in_use_is_an_error_with_a_hint() {
    let server = start();
    let config = ServeConfig { port: server.handle.address().port(), ..ServeConfig::default() };
    let error = Server::bind(&config).err().unwrap();
    assert!(error.to_string().contains(&config.port.to_string()));
    assert!(error.hint().unwrap().contains("--port"));
    let config = ServeConfig { host: "no such host".into(), ..ServeConfig::default() };
    assert!(Server::bind(&config).err().unwrap().hint().is_some());
}
