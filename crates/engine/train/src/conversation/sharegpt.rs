//! `{"conversations": [{"from", "value"}, …]}`, as ShareGPT's exports and Vicuna's data have it.

use cupola_tokenizer::Message;
use serde_json::Value;

use super::Format;

/// Who speaks there, and the roles of chat templates.
const ROLES: [(&str, &str); 7] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("observation", "tool"),
];

/// The format `sharegpt`.
pub(super) struct ShareGpt;

impl Format for ShareGpt {
    fn name(&self) -> &'static str {
        "sharegpt"
    }

    fn fits(&self, record: &Value) -> bool {
        record.get("conversations").is_some()
    }

    fn read(&self, record: &Value) -> Result<Vec<Message>, String> {
        let turns = record.get("conversations").and_then(Value::as_array).ok_or("`conversations` is no list")?;
        let system = record.get("system").and_then(Value::as_str).filter(|text| !text.is_empty());
        let mut messages: Vec<Message> = system.map(|text| Message::new("system", text)).into_iter().collect();
        for turn in turns {
            let (from, value) = (turn["from"].as_str(), turn["value"].as_str());
            let (Some(from), Some(value)) = (from, value) else {
                return Err("a turn of `conversations` is not {\"from\": …, \"value\": …}".into());
            };
            let role = ROLES.iter().find(|(name, _)| *name == from).map(|(_, role)| *role);
            messages
                .push(Message::new(role.ok_or_else(|| format!("a turn is from `{from}`, whom nobody knows"))?, value));
        }
        match messages.is_empty() {
            true => Err("`conversations` is empty".into()),
            false => Ok(messages),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn turns_become_messages() {
        let record = json!({"system": "be kind", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]});
        assert!(ShareGpt.fits(&record));
        let messages = ShareGpt.read(&record);
        let wanted = [("system", "be kind"), ("user", "hi"), ("assistant", "hello")].map(|(r, c)| Message::new(r, c));
        assert_eq!(messages, Ok(wanted.to_vec()));
        for (record, what) in [
            (json!({"conversations": [{"from": "bot", "value": "hi"}]}), "`bot`"),
            (json!({"conversations": [{"role": "user"}]}), "is not"),
            (json!({"conversations": []}), "empty"),
            (json!({"conversations": 3}), "no list"),
        ] {
            assert!(ShareGpt.read(&record).is_err_and(|error| error.contains(what)), "{record}");
        }
    }
}
