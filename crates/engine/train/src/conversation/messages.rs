//! `{"messages": [{"role", "content"}, …]}`, as OpenAI's fine-tuning files and TRL have it.

use cupola_tokenizer::Message;
use serde_json::Value;

use super::{Format, message_list};

/// The format `messages`.
pub(super) struct Messages;

impl Format for Messages {
    fn name(&self) -> &'static str {
        "messages"
    }

    fn fits(&self, record: &Value) -> bool {
        record.get("messages").is_some()
    }

    fn read(&self, record: &Value) -> Result<Vec<Message>, String> {
        message_list("messages", record.get("messages").unwrap_or(&Value::Null))
    }
}
