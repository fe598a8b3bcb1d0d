//! `/v1/chat/completions` over HTTP.

use crate::common::{MODEL, start, start_with};
use cupola_serve::ServeConfig;
use serde_json::{Value, json};

#[test]
fn a_whole_answer_has_text_reason_and_usage() {
    let server = start();
    let answer = server.chat("hello there", json!({})).json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], MODEL);
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({"role": "assistant", "content": "echo: hello there", "refusal": null}));
    assert_eq!(choice["finish_reason"], "stop");
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 4);
    let total = usage["prompt_tokens"].as_u64().unwrap() + 4;
    assert_eq!(usage["total_tokens"], total);
}

#[test]
fn a_stream_gives_role_pieces_reason_usage_and_done() {
    let server = start();
    let fields = json!({"stream": true, "stream_options": {"include_usage": true}});
    let chunks = server.chat("hello there", fields).chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk" && c["id"] == chunks[0]["id"]));
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "echo: hello there");
    let [.., last, usage] = &chunks[..] else { panic!("{chunks:?}") };
    assert_eq!(last["choices"][0], json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}));
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 4);
    assert!(last["usage"].is_null() && last.get("usage").is_some());
}

#[test]
fn a_stream_without_the_option_has_no_usage() {
    let chunks = start().chat("hi", json!({"stream": true})).chunks();
    assert!(chunks.iter().all(|c| c.get("usage").is_none() && c["choices"].as_array().unwrap().len() == 1));
}

#[test]
fn choices_are_told_apart_by_index_and_seeded_apart() {
    let server = start();
    let answer = server.chat("hi", json!({"n": 2, "seed": 7})).json();
    let texts: Vec<_> = (0..2).map(|i| answer["choices"][i]["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(texts, ["echo: hi seed=7", "echo: hi seed=8"]);
    let chunks = server.chat("hi", json!({"n": 2, "seed": 7, "stream": true})).chunks();
    for index in 0..2 {
        let pieces = chunks.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index);
        let text: String = pieces.filter_map(|c| c["delta"]["content"].as_str()).collect();
        assert_eq!(text, format!("echo: hi seed={}", 7 + index));
    }
    let ended = chunks.iter().filter(|c| c["choices"][0]["finish_reason"] == "stop").count();
    assert_eq!(ended, 2);
}

#[test]
fn the_prompt_of_several_choices_counts_once() {
    let server = start();
    let prompt = |n: u32| server.chat("hi", json!({"n": n})).json()["usage"]["prompt_tokens"].clone();
    assert_eq!(prompt(1), prompt(3));
}

#[test]
fn stop_strings_and_max_tokens_end_the_answer() {
    let server = start();
    let text = |fields: Value| {
        let choice = server.chat("one two three four", fields).json()["choices"][0].clone();
        (choice["message"]["content"].as_str().unwrap().to_owned(), choice["finish_reason"].clone())
    };
    assert_eq!(text(json!({"stop": "three"})), ("echo: one two ".into(), json!("stop")));
    assert_eq!(text(json!({"stop": ["four", "two"]})), ("echo: one ".into(), json!("stop")));
    assert_eq!(text(json!({"max_tokens": 2})), ("echo: one ".into(), json!("length")));
    assert_eq!(text(json!({"max_completion_tokens": 3})), ("echo: one two ".into(), json!("length")));
}

#[test]
fn harmless_parameters_are_accepted() {
    let fields = json!({
        "user": "me", "metadata": {}, "store": true, "frequency_penalty": 0, "presence_penalty": 0, "logprobs": false,
        "top_k": 5, "temperature": 0, "top_p": 0.9, "seed": -1, "stop": null, "tools": null,
    });
    assert_eq!(start().chat("hi", fields).status, 200);
}

#[test]
fn a_model_without_a_chat_template_says_so() {
    let server = start_with(ServeConfig::default(), false);
    let error = server.chat("hi", json!({})).error(400);
    assert_eq!(error["code"], "no_chat_template");
    assert_eq!(server.complete(json!("hi"), json!({})).status, 200);
    assert_eq!(server.get("/v1/models").json()["data"][0]["chat"], false);
}

#[test]
fn what_the_template_refuses_is_a_bad_request() {
    let body = json!({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]});
    let error = start().post("/v1/chat/completions", &body).error(400);
    assert!(error["message"].as_str().unwrap().contains("system message must come first"), "{error}");
}

#[test]
fn a_failure_is_a_500_and_in_a_stream_an_event() {
    let server = start();
    let error = server.chat("FAIL now", json!({})).error(500);
    assert_eq!(error["type"], "server_error");
    let chunks = server.chat("FAIL now", json!({"stream": true})).chunks();
    assert_eq!(chunks.last().unwrap()["error"]["message"], "the model broke");
}
