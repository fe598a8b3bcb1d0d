//! `{"instruction", "input", "output"}`, as Stanford Alpaca has it (Taori et al. 2023).

use cupola_tokenizer::Message;
use serde_json::Value;

use super::{Format, prompt_of, text};

/// The format `alpaca`.
pub(super) struct Alpaca;

impl Format for Alpaca {
    fn name(&self) -> &'static str {
        "alpaca"
    }

    fn fits(&self, record: &Value) -> bool {
        record.get("instruction").is_some() && record.get("output").is_some()
    }

    fn read(&self, record: &Value) -> Result<Vec<Message>, String> {
        let mut messages = prompt_of(record)?.ok_or("there is no `instruction`")?;
        messages.push(Message::new("assistant", text("output", record.get("output"))?));
        Ok(messages)
    }
}
