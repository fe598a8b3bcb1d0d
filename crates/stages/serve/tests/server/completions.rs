//! `/v1/completions`, `/v1/models`, `/health`, `/metrics` and the page over HTTP.

use crate::common::{MAX_SEQ_LEN, MODEL, start, start_with};
use cupola_serve::ServeConfig;
use serde_json::json;

#[test]
fn a_completion_continues_text_and_token_ids() {
    let server = start();
    let answer = server.complete(json!("ab"), json!({})).json();
    assert_eq!(answer["object"], "text_completion");
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(answer["choices"][0]["text"], "echo: ab");
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    let ids: Vec<u32> = "ab".bytes().map(u32::from).collect();
    assert_eq!(server.complete(json!(ids), json!({})).json()["choices"][0]["text"], "echo: ab");
}

#[test]
fn several_prompts_give_choices_in_their_order() {
    let answer = start().complete(json!(["a", "b"]), json!({"n": 2, "seed": 1})).json();
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<_> = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["echo: a seed=1", "echo: a seed=2", "echo: b seed=1", "echo: b seed=2"]);
    assert!(choices.iter().enumerate().all(|(i, c)| c["index"] == i));
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
}

#[test]
fn echo_puts_the_prompt_first_whole_and_streamed() {
    let server = start();
    assert_eq!(server.complete(json!("ab"), json!({"echo": true})).json()["choices"][0]["text"], "abecho: ab");
    assert_eq!(server.complete(json!([97, 98]), json!({"echo": true})).json()["choices"][0]["text"], "abecho: ab");
    let chunks = server.complete(json!("ab"), json!({"echo": true, "stream": true})).chunks();
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "abecho: ab");
    assert!(chunks.iter().all(|c| c["object"] == "text_completion"));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[test]
fn log_probabilities_come_with_the_text_whole_and_streamed() {
    let server = start();
    let want = json!({"tokens": ["e", "a"], "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"e": -0.5}, {"a": -0.5}], "text_offset": [0, 6]});
    assert_eq!(server.complete(json!("ab"), json!({"logprobs": 1})).json()["choices"][0]["logprobs"], want);
    let chunks = server.complete(json!("ab"), json!({"logprobs": 0, "stream": true})).chunks();
    let offsets: Vec<_> = chunks.iter().map(|c| &c["choices"][0]["logprobs"]["text_offset"]).collect();
    assert_eq!(json!(offsets), json!([[0], [6], null]));
    assert!(server.complete(json!("ab"), json!({})).json()["choices"][0]["logprobs"].is_null());
    let chat = server.chat("ab", json!({"logprobs": true, "top_logprobs": 1})).json();
    let first = json!({"token": "e", "logprob": -0.5, "bytes": [101],
        "top_logprobs": [{"token": "e", "logprob": -0.5, "bytes": [101]}]});
    assert_eq!(chat["choices"][0]["logprobs"]["content"][0], first);
    let chunks = server.chat("ab", json!({"logprobs": true, "stream": true})).chunks();
    let tokens: Vec<_> = chunks.iter().map(|c| &c["choices"][0]["logprobs"]["content"][0]["token"]).collect();
    assert_eq!(json!(tokens), json!([null, "e", "a", null]));
}

#[test]
fn the_likeliest_of_several_texts_are_given() {
    // The first seed's text is the likeliest.
    let answer = start().complete(json!(["a", "b"]), json!({"n": 2, "best_of": 3, "seed": 5})).json();
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|c| &c["text"]).collect();
    assert_eq!(json!(texts), json!(["echo: a seed=5", "echo: a seed=6", "echo: b seed=5", "echo: b seed=6"]));
    assert_eq!(answer["choices"][3]["index"], 3);
    assert!(answer["choices"][0]["logprobs"].is_null());
    // The texts that were not given cost as much.
    assert_eq!(answer["usage"]["completion_tokens"], 6 * 4);
    start().complete(json!(vec!["a"; 11]), json!({"best_of": 3})).error(400);
}

#[test]
fn wrong_prompts_are_bad_requests() {
    let server = start();
    for prompt in [json!(3), json!([]), json!(""), json!([99_999]), json!(["a", 1]), json!(null)] {
        let error = server.complete(prompt.clone(), json!({})).error(400);
        assert_eq!(error["type"], "invalid_request_error", "{prompt}");
    }
    let error = server.complete(json!(vec!["a"; 40]), json!({})).error(400);
    assert!(error["message"].as_str().unwrap().contains("32"), "{error}");
}

#[test]
fn the_models_are_listed_and_found_by_name() {
    let server = start_with(ServeConfig { model_name: Some("org/tiny".into()), ..ServeConfig::default() }, true);
    let list = server.get("/v1/models").json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("org/tiny")));
    assert_eq!(list["data"][0]["max_model_len"], MAX_SEQ_LEN);
    for path in ["/v1/models/org/tiny", "/v1/models/org%2Ftiny"] {
        assert_eq!(server.get(path).json()["object"], "model");
    }
    assert_eq!(server.get("/v1/models/other").error(404)["code"], "model_not_found");
    assert_eq!(server.get("/v1/models/%ff").error(404)["code"], "model_not_found");
}

#[test]
fn health_and_metrics_follow_the_requests() {
    let server = start();
    let health = server.get("/health").json();
    assert_eq!((&health["status"], &health["model"]), (&json!("ok"), &json!(MODEL)));
    server.chat("hi", json!({}));
    server.post("/v1/chat/completions", &json!({"messages": []}));
    server.get("/nowhere/1");
    let metrics = server.get("/metrics");
    assert!(metrics.content_type.starts_with("application/openmetrics-text"));
    for line in [
        "cupola_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 1",
        "cupola_requests_total{route=\"/v1/chat/completions\",status=\"400\"} 1",
        "cupola_requests_total{route=\"other\",status=\"404\"} 1",
        "cupola_generated_tokens_total 3",
        "cupola_sequences_running 0",
        "cupola_sequences_waiting 0",
        "cupola_key_value_cache_bytes 4096",
        "cupola_time_to_first_token_seconds_count 1",
        "cupola_sequence_duration_seconds_count 1",
        "# EOF",
    ] {
        assert!(metrics.body.lines().any(|l| l == line), "{line} is not in\n{}", metrics.body);
    }
}

#[test]
fn the_page_comes_with_a_policy_that_allows_only_itself() {
    let server = start();
    let mut response = crate::common::agent().get(server.url("/")).call().unwrap();
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert!(response.headers().get("access-control-allow-origin").is_none());
    assert!(response.body_mut().read_to_string().unwrap().contains("<title>cupola</title>"));
}
