//! `{"prompt", "completion"}`, texts or lists of messages, as TRL has it.

use cupola_tokenizer::Message;
use serde_json::Value;

use super::{Format, answer, prompt_of};

/// The format `prompt_completion`.
pub(super) struct PromptCompletion;

impl Format for PromptCompletion {
    fn name(&self) -> &'static str {
        "prompt_completion"
    }

    fn fits(&self, record: &Value) -> bool {
        record.get("prompt").is_some() && record.get("completion").is_some()
    }

    fn read(&self, record: &Value) -> Result<Vec<Message>, String> {
        let mut messages = prompt_of(record)?.ok_or("there is no `prompt`")?;
        messages.extend(answer("completion", record.get("completion"))?);
        Ok(messages)
    }
}
