//! Which ids begin, end and pad: gathered from the several files that may say it.

use serde_json::{Map, Value};

/// Tokens that end a turn in the chat formats of published models.
const TURN_ENDS: [&str; 9] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<end_of_turn>",
    "<|end|>",
    "<|end_of_turn|>",
    "<|endofturn|>",
    "<|return|>",
];

/// Names of the end of a document, for a `tokenizer.json` that comes without any other file.
const DOCUMENT_ENDS: [&str; 4] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"];

/// The ids with a meaning.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub cls: Option<u32>,
    pub sep: Option<u32>,
    pub mask: Option<u32>,
    pub unk: Option<u32>,
    pub sentinels: Vec<u32>,
    pub stop: Vec<u32>,
}

/// The files beside `tokenizer.json`; empty where absent.
#[derive(Default)]
pub(crate) struct SideFiles {
    pub tokenizer_config: Map<String, Value>,
    pub special_tokens_map: Map<String, Value>,
    pub generation_config: Map<String, Value>,
    pub config: Map<String, Value>,
}

impl SpecialIds {
    /// Looks first at the names in `tokenizer_config.json` and `special_tokens_map.json`, then at the ids in
    /// `generation_config.json` and `config.json`, at last at well-known names.
    pub(crate) fn find(tokenizer: &tokenizers::Tokenizer, files: &SideFiles, template: Option<&str>) -> Self {
        let named = |role: &str| {
            [&files.tokenizer_config, &files.special_tokens_map]
                .into_iter()
                .find_map(|file| tokenizer.token_to_id(token_text(file.get(&format!("{role}_token"))?)?))
        };
        let numbered = |role: &str| -> Vec<u32> {
            [&files.generation_config, &files.config]
                .into_iter()
                .map(|file| id_list(file.get(&format!("{role}_token_id"))))
                .find(|ids| !ids.is_empty())
                .unwrap_or_default()
        };
        let known = |names: &[&str]| names.iter().find_map(|name| special_id(tokenizer, name));
        let known_end = || known(&DOCUMENT_ENDS);
        let eos = named("eos").or_else(|| numbered("eos").first().copied()).or_else(known_end);
        let mut stop: Vec<u32> = eos.into_iter().chain(numbered("eos")).collect();
        let used = |name: &&&str| template.is_some_and(|t| t.contains(**name));
        stop.extend(TURN_ENDS.iter().filter(used).filter_map(|name| tokenizer.token_to_id(name)));
        let mut seen = Vec::new();
        stop.retain(|id| {
            !seen.contains(id) && {
                seen.push(*id);
                true
            }
        });
        Self {
            bos: named("bos").or_else(|| numbered("bos").first().copied()),
            eos,
            pad: named("pad").or_else(|| numbered("pad").first().copied()).or_else(|| known(&["[PAD]", "<pad>"])),
            cls: named("cls").or_else(|| known(&["[CLS]"])),
            sep: named("sep").or_else(|| known(&["[SEP]"])),
            mask: named("mask").or_else(|| known(&["[MASK]", "<mask>"])),
            unk: named("unk").or_else(|| known(&["[UNK]", "<unk>"])),
            sentinels: sentinels(tokenizer),
            stop,
        }
    }
}

/// A token given as `"text"` or `{"content": "text", …}`.
pub(crate) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn special_id(tokenizer: &tokenizers::Tokenizer, name: &str) -> Option<u32> {
    tokenizer.get_added_vocabulary().is_special_token(name).then(|| tokenizer.token_to_id(name)).flatten()
}

/// `<extra_id_0>`, `<extra_id_1>`, … as far as there are any.
fn sentinels(tokenizer: &tokenizers::Tokenizer) -> Vec<u32> {
    (0..).map_while(|i| tokenizer.token_to_id(&format!("<extra_id_{i}>"))).collect()
}

/// Ids given as a number or as a list of numbers.
fn id_list(value: Option<&Value>) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(one).collect(),
        Some(id) => one(id).into_iter().collect(),
        None => Vec::new(),
    }
}
