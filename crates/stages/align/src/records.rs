//! Preference records: a prompt with a better and a worse answer.

use cupola_artifact::{Error, Result};
use cupola_records::Record;
use cupola_tokenizer::Message;
use cupola_train::conversation::{answer, prompt_of, wrong};

/// A prompt with two answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// What precedes the answers.
    pub prompt: Vec<Message>,
    /// The better one.
    pub chosen: Vec<Message>,
    /// The worse one.
    pub rejected: Vec<Message>,
}

/// The pair in a record: `chosen` and `rejected`, texts or lists of messages, after `prompt` (a text or messages) or
/// `instruction` with its `input`. Lists of messages may repeat the prompt, or hold it alone: then it is what both have
/// in common.
///
/// # Errors
/// What is wrong with the record; names file and line.
pub fn read_preference(record: &Record) -> Result<Preference> {
    read(record).map_err(|what| {
        wrong(record, &what)
            .with_hint("a preference is {\"prompt\": …, \"chosen\": …, \"rejected\": …}, texts or lists of messages")
    })
}

fn read(record: &Record) -> Result<Preference, String> {
    let mut chosen = answer("chosen", record.value.get("chosen"))?;
    let mut rejected = answer("rejected", record.value.get("rejected"))?;
    let stated = prompt_of(&record.value)?;
    let mut prompt = stated.unwrap_or_default();
    if chosen[0].role != "assistant" || prompt.is_empty() {
        // The last message is the answer, whatever it says.
        let longest = chosen.len().min(rejected.len()) - 1;
        let common = chosen.iter().zip(&rejected).take(longest).take_while(|(a, b)| a == b).count();
        prompt = chosen[..common].to_vec();
        chosen.drain(..common);
        rejected.drain(..common);
    }
    if prompt.is_empty() {
        return Err("there is no `prompt`, and `chosen` and `rejected` do not begin with the same messages".into());
    }
    let answers = |messages: &[Message]| messages.iter().any(|m| m.role == "assistant");
    match (answers(&chosen), answers(&rejected)) {
        (true, true) => Ok(Preference { prompt, chosen, rejected }),
        (false, _) => Err("`chosen` has no message of the assistant".into()),
        (_, false) => Err("`rejected` has no message of the assistant".into()),
    }
}

/// An error when nothing is left to learn from.
pub(crate) fn nothing_left(path: &std::path::Path, max_len: usize) -> Error {
    Error::failed(format!("no pair in {} has two different answers within {max_len} tokens", path.display()))
        .with_hint("raise `max_seq_len`, or use a model with a longer context")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing test should panic")]

    use serde_json::{Value, json};

    use super::*;

    fn record(value: Value) -> Record {
        Record { source: "pairs.json".into(), line: 7, value }
    }

    #[test]
    fn every_shape_of_a_preference_gives_the_same_pair() {
        let user = json!({"role": "user", "content": "q\n\ni"});
        let says = |text: &str| json!({"role": "assistant", "content": text});
        let (good, bad) = (says("good"), says("bad"));
        for value in [
            json!({"prompt": "q\n\ni", "chosen": "good", "rejected": "bad"}),
            json!({"instruction": "q", "input": "i", "output": "good", "chosen": "good", "rejected": "bad"}),
            json!({"prompt": [user], "chosen": [good], "rejected": [bad]}),
            json!({"chosen": [user, good], "rejected": [user, bad]}),
            json!({"prompt": "q\n\ni", "chosen": [user, good], "rejected": [user, bad]}),
        ] {
            let Preference { prompt, chosen, rejected } = read_preference(&record(value)).unwrap();
            assert_eq!(prompt, [Message::new("user", "q\n\ni")]);
            assert_eq!(chosen, [Message::new("assistant", "good")]);
            assert_eq!(rejected, [Message::new("assistant", "bad")]);
        }
    }

    #[test]
    fn a_wrong_preference_names_file_line_and_cause() {
        for (value, cause) in [
            (json!({"prompt": "q", "chosen": "a"}), "there is no `rejected`"),
            (json!({"prompt": 3, "chosen": "a", "rejected": "b"}), "`prompt` is not a text"),
            (json!({"chosen": "a", "rejected": "b"}), "there is no `prompt`"),
            (json!({"prompt": "q", "chosen": [], "rejected": "b"}), "`chosen` is empty"),
            (
                json!({"chosen": [{"role": "user", "content": "q"}], "rejected": [{"role": "user", "content": "q"}]}),
                "no `prompt`",
            ),
        ] {
            let error = read_preference(&record(value)).unwrap_err().to_string();
            assert!(error.starts_with("pairs.json: line 7: ") && error.contains(cause), "{error}");
        }
    }
}
