//! Training of a byte-level BPE tokenizer.

use std::collections::HashSet;

use cupola_artifact::{Context, Error, Result};
use serde_json::{Map, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use super::{SpecialTokens, TrainConfig};
use crate::special::SideFiles;
use crate::template::TemplateSources;
use crate::tokenizer::Tokenizer;

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
pub(super) fn train(texts: &[&str], special: &SpecialTokens, config: &TrainConfig) -> Result<Tokenizer> {
    special.check()?;
    let least = 256 + special.all().len();
    if config.vocab_size < least {
        return Err(Error::usage(format!("vocab_size = {} is too small", config.vocab_size))
            .with_hint(format!("it must be at least {least}: 256 bytes and {} special tokens", special.all().len())));
    }
    let tokens: Vec<AddedToken> = special.all().into_iter().map(|t| AddedToken::from(t, true)).collect();
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(config.vocab_size)
        .min_frequency(config.min_frequency)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .special_tokens(tokens)
        .build();
    let byte_level = ByteLevel::new(false, false, true);
    let mut tokenizer = BpeTokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level)).with_post_processor(Some(byte_level));
    let failed = || "the training of the tokenizer failed".to_owned();
    tokenizer.train(&mut trainer, texts.iter()).context(failed)?;
    let (json, settings) = (to_json(tokenizer).context(failed)?, tokenizer_config(special));
    let template = config.chat_template.clone().unwrap_or_else(|| default_chat_template(special));
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

fn tokenizer_config(special: &SpecialTokens) -> Map<String, serde_json::Value> {
    let mut settings = Map::new();
    let more: Vec<&str> = special.all().into_iter().filter(|t| *t != special.document).collect();
    for (key, value) in [
        ("tokenizer_class", json!("PreTrainedTokenizerFast")),
        ("clean_up_tokenization_spaces", json!(false)),
        ("bos_token", json!(special.document)),
        ("eos_token", json!(special.document)),
        ("pad_token", json!(special.pad)),
        ("additional_special_tokens", json!(more)),
    ] {
        settings.insert(key.to_owned(), value);
    }
    settings
}
