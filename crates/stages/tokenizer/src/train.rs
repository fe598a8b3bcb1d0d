//! Training of a byte-level BPE tokenizer.

use std::collections::HashSet;

use cupola_artifact::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use crate::special::SideFiles;
use crate::template::TemplateSources;
use crate::tokenizer::Tokenizer;

/// The texts of the special tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpecialTokens {
    /// Begins and ends documents.
    pub document: String,
    /// Begins a turn of a chat; the role follows.
    pub turn_start: String,
    /// Ends a turn of a chat.
    pub turn_end: String,
    /// Fills up batches.
    pub pad: String,
    /// More, for uses of your own.
    pub more: Vec<String>,
}

impl Default for SpecialTokens {
    fn default() -> Self {
        Self {
            document: "<|endoftext|>".to_owned(),
            turn_start: "<|im_start|>".to_owned(),
            turn_end: "<|im_end|>".to_owned(),
            pad: "<|pad|>".to_owned(),
            more: Vec::new(),
        }
    }
}

impl SpecialTokens {
    /// All of them; the place is the id.
    pub fn all(&self) -> Vec<&str> {
        let own = [&self.document, &self.turn_start, &self.turn_end, &self.pad];
        own.into_iter().chain(&self.more).map(String::as_str).collect()
    }

    /// Refuses empty and repeated texts.
    pub fn check(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for token in self.all() {
            if token.chars().count() < 2 {
                return Err(Error::usage(format!("the special token {token:?} is too short"))
                    .with_hint("a special token needs at least two characters, better a form like <|name|>"));
            }
            if !seen.insert(token) {
                return Err(Error::usage(format!("the special token {token:?} is given twice")));
            }
        }
        Ok(())
    }
}

/// What to train.
#[derive(Clone, Debug)]
pub struct TrainConfig {
    /// Tokens to reach, bytes and special tokens included.
    pub vocab_size: usize,
    /// A pair seen less often is not merged.
    pub min_frequency: u64,
    /// The special tokens.
    pub special: SpecialTokens,
    /// Jinja source; `None` for [`default_chat_template`].
    pub chat_template: Option<String>,
}

/// Each turn is its start token, the role, a line break, the text and the end token; a line break follows.
pub fn default_chat_template(special: &SpecialTokens) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let (start, end) = (quoted(&special.turn_start), quoted(&special.turn_end));
    format!(
        "{{%- for message in messages -%}}\n\
         {{{{- {start} + message['role'] + '\\n' -}}}}\n\
         {{%- if message['role'] == 'assistant' -%}}\n\
         {{%- generation -%}}{{{{- message['content'] + {end} -}}}}{{%- endgeneration -%}}\n\
         {{%- else -%}}\n\
         {{{{- message['content'] + {end} -}}}}\n\
         {{%- endif -%}}\n\
         {{{{- '\\n' -}}}}\n\
         {{%- endfor -%}}\n\
         {{%- if add_generation_prompt -%}}{{{{- {start} + 'assistant\\n' -}}}}{{%- endif -%}}\n"
    )
}

type BpeTokenizer =
    tokenizers::TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Trains on texts. Words are split off by GPT-2's pattern (letters, digits, other signs, white space; a blank belongs
/// to the word after it); the ids are first the special tokens, then the 256 bytes, then the merges by frequency. The
/// vocabulary comes out smaller where the texts do not hold enough frequent pairs.
///
/// The same texts give the same tokenizer, on any number of threads: of equally frequent pairs, the library merges the
/// one with the smaller ids first.
pub fn train(texts: &[&str], config: &TrainConfig) -> Result<Tokenizer> {
    config.special.check()?;
    let least = 256 + config.special.all().len();
    if config.vocab_size < least {
        return Err(Error::usage(format!("vocab_size = {} is too small", config.vocab_size)).with_hint(format!(
            "it must be at least {least}: 256 bytes and {} special tokens",
            config.special.all().len()
        )));
    }
    let special: Vec<AddedToken> = config.special.all().into_iter().map(|t| AddedToken::from(t, true)).collect();
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(config.vocab_size)
        .min_frequency(config.min_frequency)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .special_tokens(special)
        .build();
    let byte_level = ByteLevel::new(false, false, true);
    let mut tokenizer = BpeTokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level)).with_post_processor(Some(byte_level));
    let failed = || "the training of the tokenizer failed".to_owned();
    tokenizer.train(&mut trainer, texts.iter()).context(failed)?;
    let (json, settings) = (to_json(tokenizer).context(failed)?, tokenizer_config(config));
    let template = config.chat_template.clone().unwrap_or_else(|| default_chat_template(&config.special));
    let templates = TemplateSources { default: Some(template), named: Vec::new() };
    Tokenizer::build(json, SideFiles { tokenizer_config: settings, ..SideFiles::default() }, templates)
}

fn to_json(tokenizer: BpeTokenizer) -> Result<Vec<u8>, tokenizers::Error> {
    // The wrapper type writes the model's `type`, which the trained type leaves to chance.
    let mut whole = tokenizers::Tokenizer::new(ModelWrapper::BPE(tokenizer.get_model().clone()));
    whole
        .with_pre_tokenizer(tokenizer.get_pre_tokenizer().cloned())
        .with_decoder(tokenizer.get_decoder().cloned())
        .with_post_processor(tokenizer.get_post_processor().cloned());
    let mut added: Vec<_> = tokenizer.get_added_tokens_decoder().into_iter().collect();
    added.sort_by_key(|(id, _)| *id);
    whole.add_special_tokens(added.into_iter().map(|(_, token)| token))?;
    Ok(whole.to_string(true)?.into_bytes())
}

fn tokenizer_config(config: &TrainConfig) -> Map<String, serde_json::Value> {
    let mut settings = Map::new();
    let more: Vec<&str> = config.special.all().into_iter().filter(|t| *t != config.special.document).collect();
    for (key, value) in [
        ("tokenizer_class", json!("PreTrainedTokenizerFast")),
        ("clean_up_tokenization_spaces", json!(false)),
        ("bos_token", json!(config.special.document)),
        ("eos_token", json!(config.special.document)),
        ("pad_token", json!(config.special.pad)),
        ("additional_special_tokens", json!(more)),
    ] {
        settings.insert(key.to_owned(), value);
    }
    settings
}
