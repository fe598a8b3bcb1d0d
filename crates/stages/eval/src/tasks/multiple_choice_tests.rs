#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use cupola_artifact::stage::Silent;
use cupola_nn::Batch;
use cupola_testkit::{TempDir, tiny_llama_dir};

use super::*;
use crate::items::Pick;

const PICK: Pick = Pick { last: None, limit: None, seed: 0 };

fn subject(seed: u64) -> (Subject, TempDir) {
    let dir = TempDir::new("choice");
    tiny_llama_dir(dir.path(), seed);
    (Subject::load("tiny", dir.path(), "cpu").unwrap(), dir)
}

/// The log-likelihood of a continuation from all logits, by the definition.
fn by_hand(subject: &Subject, context: &[u32], continuation: &[u32]) -> f64 {
    let ids = [context, continuation].concat();
    let decoder = subject.model.decoder().unwrap();
    let logits = cupola_ops::to_vec(&decoder.logits(decoder.hidden(&Batch::causal(ids.clone(), 1))));
    let vocab = decoder.spec().vocab_size;
    (context.len()..ids.len())
        .map(|i| {
            let row = &logits[(i - 1) * vocab..i * vocab];
            f64::from(row[ids[i] as usize]) - row.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln()
        })
        .sum()
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn scores_are_those_of_the_harness_rules_computed_by_hand() {
    let (subject, dir) = subject(1);
    let file = dir.join("quiz.jsonl");
    let lines = [
        json!({"question": "Which is red?", "choices": ["blood", "the deep blue sea", "é"], "answer": 1}),
        json!({"query": "It ends in space ", "choices": ["a", "bc"], "answer": "B"}),
        json!({"question": "x", "choices": ["one", "four"], "answer": "one"}),
    ];
    std::fs::write(&file, lines.map(|l| l.to_string()).join("\n")).unwrap();
    let input = TaskInput { data: &file, pick: PICK, max_gen_tokens: 1, progress: &Silent };
    let outcome = MultipleChoice::default().run(&subject, &input).unwrap();
    // The tiny tokenizer has a token for each byte, so the boundary can be drawn by hand.
    let contexts = ["Question: Which is red?\nAnswer:", "It ends in space", "Question: x\nAnswer:"];
    let continuations: [&[&str]; 3] = [&[" blood", " the deep blue sea", " é"], &["  a", "  bc"], &[" one", " four"]];
    let lengths: [&[f64]; 3] = [&[5.0, 17.0, 1.0], &[1.0, 2.0], &[3.0, 4.0]];
    let answers = [1, 1, 0];
    let (mut acc, mut acc_norm) = (0.0, 0.0);
    for i in 0..3 {
        let want: Vec<f64> =
            continuations[i].iter().map(|c| by_hand(&subject, &bytes(contexts[i]), &bytes(c))).collect();
        let got = outcome.samples[i]["log_likelihoods"].as_array().unwrap();
        for (g, w) in got.iter().zip(&want) {
            assert!((g.as_f64().unwrap() - w).abs() < 1e-3, "{g} is not {w}");
        }
        acc += f64::from(best(want.iter().copied()) == answers[i]) / 3.0;
        acc_norm += f64::from(best(want.iter().zip(lengths[i]).map(|(w, n)| w / n)) == answers[i]) / 3.0;
    }
    let measures: Vec<_> = outcome.measures.iter().map(|(name, m)| (*name, m.value)).collect();
    assert_eq!(outcome.n, 3);
    assert!((measures[0].1 - acc).abs() < 1e-9 && measures[0].0 == "acc", "{measures:?}");
    assert!((measures[1].1 - acc_norm).abs() < 1e-9 && measures[1].0 == "acc_norm", "{measures:?}");
}

#[test]
fn a_chat_asks_through_the_template() {
    let (subject, _dir) = subject(2);
    let question = Question { question: "Hi?".into(), raw: false, choices: vec!["yes".into(), "no".into()], answer: 0 };
    let task = MultipleChoice { chat: true, ..Default::default() };
    let items = task.encode(&subject, &question).unwrap();
    let text = subject.tokenizer.decode_special(&items[1].ids).unwrap();
    assert_eq!(text, "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nno");
    assert_eq!(items[1].scored.iter().filter(|s| **s).count(), 2);
}

#[test]
fn of_equals_the_first_is_chosen() {
    assert_eq!(best([-2.0, -1.0, -1.0].into_iter()), 1);
}

#[test]
fn a_wrong_record_is_named_by_file_and_line() {
    let (subject, dir) = subject(3);
    let file = dir.join("quiz.jsonl");
    for (record, word) in [
        (json!({"choices": ["a", "b"], "answer": 0}), "`query` or `question`"),
        (json!({"question": "q", "choices": ["a"], "answer": 0}), "at least two"),
        (json!({"question": "q", "choices": ["a", ""], "answer": 0}), "none of them empty"),
        (json!({"question": "q", "choices": ["a", "b"], "answer": 2}), "`answer`"),
        (json!({"question": "q", "choices": ["a", "b"], "answer": "C"}), "`answer`"),
    ] {
        std::fs::write(&file, format!("{}\n{record}\n", json!({"question": "q", "choices": ["a", "b"], "answer": 0})))
            .unwrap();
        let input = TaskInput { data: &file, pick: PICK, max_gen_tokens: 1, progress: &Silent };
        let error = MultipleChoice::default().run(&subject, &input).unwrap_err().chain();
        assert!(error.contains("quiz.jsonl, line 2") && error.contains(word), "{error}");
    }
}
