#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use cupola_testkit::{TempDir, tiny_tokenizer_files};
use serde_json::json;

use super::*;

fn tokenizer() -> Tokenizer {
    let dir = TempDir::new("conversation");
    tiny_tokenizer_files(dir.path());
    Tokenizer::load(dir.path()).unwrap()
}

fn record(value: Value) -> Record {
    Record { source: "data.jsonl".into(), line: 3, value }
}

fn learned(tokenizer: &Tokenizer, example: &Example) -> String {
    let ids: Vec<u32> = example.ids.iter().zip(&example.learn).filter(|(_, l)| **l).map(|(id, _)| *id).collect();
    tokenizer.decode_special(&ids).unwrap()
}

#[test]
fn only_the_assistants_tokens_are_learned() {
    let tokenizer = tokenizer();
    let messages = [
        Message::new("system", "Be kind."),
        Message::new("user", "Hi"),
        Message::new("assistant", "Hello"),
        Message::new("user", "Bye"),
        Message::new("assistant", "Ciao"),
    ];
    let whole = Example::conversation(&tokenizer, &messages).unwrap();
    assert_eq!(learned(&tokenizer, &whole), "Hello<|im_end|>Ciao<|im_end|>");
    let last = Example::completion(&tokenizer, &messages[..4], &messages[4..]).unwrap();
    assert_eq!(learned(&tokenizer, &last), "Ciao<|im_end|>");
    assert_eq!(whole.ids, last.ids);
    assert!(whole.learn.last().unwrap());
}

#[test]
fn every_format_gives_its_conversation() {
    for (value, user, assistant) in [
        (json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}), "a", "b"),
        (json!({"instruction": "a", "input": "c", "output": "b"}), "a\n\nc", "b"),
        (json!({"instruction": "a", "input": "", "output": "b"}), "a", "b"),
        (json!({"instruction": "a", "output": "b"}), "a", "b"),
        (json!({"prompt": "a", "completion": "b"}), "a", "b"),
        (
            json!({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}),
            "a",
            "b",
        ),
    ] {
        let messages = read_conversation(&record(value), None).unwrap();
        assert_eq!(messages, [Message::new("user", user), Message::new("assistant", assistant)]);
    }
}

#[test]
fn a_wrong_record_names_file_line_and_cause() {
    for (value, cause) in [
        (json!({"text": "a"}), "`text` is no conversation"),
        (json!({"messages": []}), "`messages` is empty"),
        (json!({"messages": [{"content": "a"}]}), "missing field `role`"),
        (json!({"messages": [{"role": "user", "content": "a"}]}), "no message of the assistant"),
        (json!({"instruction": 3, "output": "b"}), "`instruction` is not a text"),
        (json!({"instruction": "a", "input": [], "output": "b"}), "`input` is not a text"),
        (json!({"prompt": "a", "completion": null}), "`completion` is not a text"),
    ] {
        let error = read_conversation(&record(value), None).unwrap_err().to_string();
        assert!(error.starts_with("data.jsonl: line 3: ") && error.contains(cause), "{error}");
    }
    let error = read_conversation(&record(json!({"messages": []})), format("tune", "alpaca").unwrap()).unwrap_err();
    assert!(error.to_string().contains("there is no `instruction`"), "{error}");
    assert_eq!(format("tune", "alpacca").err().unwrap().hint(), Some("did you mean `alpaca`?"));
}

#[test]
fn a_long_example_loses_its_end_and_an_answer_beyond_it_leaves_nothing() {
    let example = Example { ids: (0..10).collect(), learn: (0..10).map(|i| i >= 5).collect() };
    let mut cut = example.clone();
    assert_eq!((cut.cut(9), cut.ids.len()), (Fit::Whole, 10));
    assert_eq!((cut.cut(6), cut.ids.len(), cut.learned()), (Fit::Cut, 7, 2));
    assert_eq!(example.clone().cut(3), Fit::Nothing);
}

#[test]
fn a_conversation_stays_on_its_side_whatever_else_is_there() {
    let items = |n: usize, step: usize| (0..n).step_by(step).map(|i| (format!("prompt {i}"), i)).collect::<Vec<_>>();
    let (train, validation) = hold_out(items(1000, 1), Holdout::Hash, 0.1);
    assert!((70..130).contains(&validation.len()) && train.len() + validation.len() == 1000);
    let (_, fewer) = hold_out(items(1000, 2), Holdout::Hash, 0.1);
    assert!(fewer.iter().all(|i| validation.contains(i)));
    let (train, validation) = hold_out(items(10, 1), Holdout::Position, 0.2);
    assert_eq!((train.len(), validation), (8, vec![8, 9]));
}

#[test]
fn small_sets_still_hold_something_out_and_keep_something() {
    let items = |n: usize| (0..n).map(|i| (i.to_string(), i)).collect::<Vec<_>>();
    for rule in [Holdout::Hash, Holdout::Position] {
        for fraction in [1e-9, 0.5, 0.999_999] {
            let (train, validation) = hold_out(items(2), rule, fraction);
            assert_eq!((train.len(), validation.len()), (1, 1), "{rule:?} {fraction}");
        }
        assert_eq!(hold_out(items(1), rule, 0.5), (vec![0], vec![]));
        assert_eq!(hold_out(items(5), rule, 0.0).1, Vec::<usize>::new());
    }
    let same: Vec<(String, i32)> = vec![("a".into(), 1), ("a".into(), 2)];
    assert_eq!(hold_out(same, Holdout::Hash, 0.5), (vec![1, 2], vec![]));
}
