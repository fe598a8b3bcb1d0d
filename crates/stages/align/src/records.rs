//! Preference records: a prompt with a better and a worse answer.

use cupola_artifact::Result;
use cupola_records::Record;
use cupola_tokenizer::Message;
use cupola_train::conversation::{answer, prompt_of, wrong};
use serde_json::Value;

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
/// in common. Texts may be transcripts of `Human:` and `Assistant:`, as those of Bai et al. 2022 are.
///
/// # Errors
/// What is wrong with the record; names file and line.
pub fn read_preference(record: &Record) -> Result<Preference> {
    read(record).map_err(|what| {
        wrong(record, &what)
            .with_hint("a preference is {\"prompt\": …, \"chosen\": …, \"rejected\": …}, texts or lists of messages")
    })
}

/// What stands before the turns of a transcript, as Bai et al. 2022 ("Training a Helpful and Harmless Assistant") publish
/// their preferences, and whose turns they are.
const TURNS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];

/// The messages of a transcript; none where a text is no transcript. The last message is its answer, if it has one.
fn transcript(value: Option<&Value>) -> Option<Vec<Message>> {
    let text = value?.as_str()?;
    let next = |from: usize| {
        let found = TURNS.iter().filter_map(|(mark, role)| Some((text[from..].find(mark)? + from, mark.len(), *role)));
        found.min()
    };
    let (mut at, mut messages) = (next(0).filter(|(at, _, _)| text[..*at].trim().is_empty())?, vec![]);
    loop {
        let begin = at.0 + at.1;
        let following = next(begin);
        let content = text[begin..following.map_or(text.len(), |f| f.0)].trim();
        messages.push(Message::new(at.2, content));
        match following {
            Some(following) => at = following,
            None => return Some(messages).filter(|messages| messages.len() > 1),
        }
    }
}

fn read(record: &Record) -> Result<Preference, String> {
    let messages = |key: &str| match transcript(record.value.get(key)) {
        Some(messages) => Ok(messages),
        None => answer(key, record.value.get(key)),
    };
    let (mut chosen, mut rejected) = (messages("chosen")?, messages("rejected")?);
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

/// By how much the better answer is to lead: the record's `margin`, 0 where it has none.
///
/// # Errors
/// A margin that is no number; names file and line.
pub fn margin_of(record: &Record) -> Result<f32> {
    match record.value.get("margin") {
        None | Some(Value::Null) => Ok(0.0),
        Some(margin) => {
            let found = margin.as_f64().filter(|m| m.is_finite()).map(|m| m as f32);
            found.ok_or_else(|| wrong(record, "`margin` is not a number"))
        }
    }
}

/// An answer that somebody found good or bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What precedes the answer.
    pub prompt: Vec<Message>,
    /// The answer.
    pub answer: Vec<Message>,
    /// Whether it is good.
    pub desirable: bool,
}

/// The verdicts in a record: `completion` (a text or messages) with `label`, true or false, after `prompt` or `instruction`;
/// or both answers of a preference, the chosen one good and the rejected one bad.
///
/// # Errors
/// What is wrong with the record; names file and line.
pub fn read_verdicts(record: &Record) -> Result<Vec<Verdict>> {
    if record.value.get("chosen").is_some() || record.value.get("rejected").is_some() {
        let Preference { prompt, chosen, rejected } = read_preference(record)?;
        let verdict = |answer, desirable| Verdict { prompt: prompt.clone(), answer, desirable };
        return Ok(vec![verdict(chosen, true), verdict(rejected, false)]);
    }
    read_verdict(record).map(|verdict| vec![verdict]).map_err(|what| {
        wrong(record, &what).with_hint(
            "a verdict is {\"prompt\": …, \"completion\": …, \"label\": true or false}; preferences are taken too",
        )
    })
}

fn read_verdict(record: &Record) -> Result<Verdict, String> {
    let answer = answer("completion", record.value.get("completion"))?;
    let prompt = prompt_of(&record.value)?.unwrap_or_default();
    let desirable = match record.value.get("label") {
        Some(Value::Bool(label)) => *label,
        Some(Value::Number(n)) if n.as_f64() == Some(0.0) || n.as_f64() == Some(1.0) => n.as_f64() == Some(1.0),
        Some(_) => return Err("`label` is neither true nor false".into()),
        None => return Err("there is no `label`".into()),
    };
    match (prompt.is_empty(), answer.iter().any(|m| m.role == "assistant")) {
        (true, _) => Err("there is no `prompt`".into()),
        (_, false) => Err("`completion` has no message of the assistant".into()),
        _ => Ok(Verdict { prompt, answer, desirable }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing test should panic")]

    use serde_json::json;

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
    fn transcripts_are_read_as_messages() {
        let begin = "\n\nHuman: hi\n\nAssistant: hello, what?\n\nHuman: a\n\nlong question\n\nAssistant:";
        let value = json!({"chosen": format!("{begin} good\n\nanswer"), "rejected": format!("{begin} bad")});
        let Preference { prompt, chosen, rejected } = read_preference(&record(value)).unwrap();
        let said = |role: &str, text: &str| Message::new(role, text);
        assert_eq!(prompt, [said("user", "hi"), said("assistant", "hello, what?"), said("user", "a\n\nlong question")]);
        assert_eq!(
            (&chosen[..], &rejected[..]),
            (&[said("assistant", "good\n\nanswer")][..], &[said("assistant", "bad")][..])
        );
        // A text that merely mentions the words is none.
        let value = json!({"prompt": "q", "chosen": "He said\n\nHuman: no", "rejected": "b"});
        assert_eq!(read_preference(&record(value)).unwrap().chosen, [said("assistant", "He said\n\nHuman: no")]);
    }

    #[test]
    fn verdicts_are_read_from_single_answers_and_from_pairs() {
        let prompt = vec![Message::new("user", "q")];
        let verdict = |text: &str, desirable| Verdict {
            prompt: prompt.clone(),
            answer: vec![Message::new("assistant", text)],
            desirable,
        };
        let read = |value| read_verdicts(&record(value)).unwrap();
        assert_eq!(read(json!({"prompt": "q", "completion": "a", "label": true})), [verdict("a", true)]);
        assert_eq!(read(json!({"prompt": "q", "completion": "a", "label": 0})), [verdict("a", false)]);
        let pair = json!({"prompt": "q", "chosen": "a", "rejected": "b"});
        assert_eq!(read(pair), [verdict("a", true), verdict("b", false)]);
        for (value, cause) in [
            (json!({"prompt": "q", "completion": "a"}), "there is no `label`"),
            (json!({"prompt": "q", "completion": "a", "label": 2}), "`label` is neither"),
            (json!({"prompt": "q", "label": true}), "there is no `completion`"),
            (json!({"completion": "a", "label": true}), "there is no `prompt`"),
            (json!({"prompt": "q", "chosen": "a"}), "there is no `rejected`"),
        ] {
            let error = read_verdicts(&record(value)).unwrap_err().to_string();
            assert!(error.starts_with("pairs.json: line 7: ") && error.contains(cause), "{error}");
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
