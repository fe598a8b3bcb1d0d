//! Training of a byte-level BPE tokenizer.

use cupola_artifact::{Context, Error, Result};
use serde_json::{Map, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, ModelWrapper};

use super::count::count_words;
use super::merging::{Learned, Limits, learn};
use super::{SpecialTokens, TrainConfig};
use crate::byte_bpe::byte_letters;
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

/// Trains on texts. Words are split off by GPT-2's pattern (letters, digits, other signs, white space; a blank belongs
/// to the word after it); the ids are first the special tokens, then the 256 bytes, then the merges by frequency. The
/// vocabulary comes out smaller where the texts do not hold enough frequent pairs.
///
/// The same texts give the same tokenizer, on any number of threads, and the one that the library would train: of equally
/// frequent pairs, the one with the smaller ids is merged first.
pub(super) fn train(texts: &[&str], special: &SpecialTokens, config: &TrainConfig) -> Result<Tokenizer> {
    special.check()?;
    let least = 256 + special.all().len();
    if config.vocab_size < least {
        return Err(Error::usage(format!("vocab_size = {} is too small", config.vocab_size))
            .with_hint(format!("it must be at least {least}: 256 bytes and {} special tokens", special.all().len())));
    }
    let learned = learn_merges(texts, special, config);
    let failed = || "the training of the tokenizer failed".to_owned();
    let (json, settings) = (to_json(&learned, special).context(failed)?, tokenizer_config(special));
    let template = config.chat_template.clone().unwrap_or_else(|| default_chat_template(special));
    let templates = TemplateSources { default: Some(template), named: Vec::new() };
    Tokenizer::build(json, SideFiles { tokenizer_config: settings, ..SideFiles::default() }, templates)
}

fn learn_merges(texts: &[&str], special: &SpecialTokens, config: &TrainConfig) -> Learned {
    let mut tokens: Vec<String> = Vec::new();
    let mut add = |token: String| {
        let id = tokens.iter().position(|known| *known == token).unwrap_or(tokens.len());
        if id == tokens.len() {
            tokens.push(token);
        }
        id as u32
    };
    special.all().into_iter().for_each(|token| _ = add(token.to_owned()));
    let mut bytes = [0; 256];
    for (letter, byte) in byte_letters() {
        bytes[usize::from(byte)] = add(letter.to_string());
    }
    let words = count_words(texts);
    let ids = |word: &[u8]| word.iter().map(|byte| bytes[usize::from(*byte)]).collect();
    let limits = Limits { vocab_size: config.vocab_size, min_frequency: config.min_frequency };
    learn(tokens, words.into_iter().map(|(word, n)| (ids(&word), n)), limits)
}

/// The text of `tokenizer.json`.
fn to_json(learned: &Learned, special: &SpecialTokens) -> Result<Vec<u8>, tokenizers::Error> {
    let vocab = learned.tokens.iter().cloned().zip(0..);
    let text = |id: u32| learned.tokens[id as usize].clone();
    let merges = learned.merges.iter().map(|&[a, b]| (text(a), text(b)));
    let model = BPE::builder().vocab_and_merges(vocab.collect::<Vocab>(), merges.collect()).build()?;
    let byte_level = ByteLevel::new(false, false, true);
    let mut whole = tokenizers::Tokenizer::new(ModelWrapper::BPE(model));
    whole.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level)).with_post_processor(Some(byte_level));
    whole.add_special_tokens(special.all().into_iter().map(|token| AddedToken::from(token, true)))?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::HashSet;

    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::BpeTrainer;

    use super::*;
    use crate::train::TokenizerKind;

    /// What the library trains.
    fn library(texts: &[&str], special: &SpecialTokens, config: &TrainConfig) -> tokenizers::Tokenizer {
        let tokens: Vec<AddedToken> = special.all().into_iter().map(|t| AddedToken::from(t, true)).collect();
        let mut trainer: TrainerWrapper = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(config.vocab_size)
            .min_frequency(config.min_frequency)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
            .special_tokens(tokens)
            .build()
            .into();
        let byte_level = ByteLevel::new(false, false, true);
        let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::BPE(BPE::default()));
        tokenizer
            .with_pre_tokenizer(Some(byte_level))
            .with_decoder(Some(byte_level))
            .with_post_processor(Some(byte_level));
        tokenizer.train(&mut trainer, texts.iter()).unwrap();
        tokenizer
    }

    #[test]
    fn the_trained_file_is_the_one_that_the_library_trains() {
        let special = SpecialTokens::default();
        let parts = ["ab", "abc", "bc", "c", "aaa", "ba", "é", "日本", "1", "12", "'s", ",", "\n", " ", "  "];
        let mut dice = 1u64;
        let mut roll = |sides: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) as usize % sides
        };
        for round in 0..40 {
            let count = 1 + roll(3);
            let texts: Vec<String> = (0..count)
                .map(|_| (0..roll(3000)).map(|_| parts[roll(parts.len())]).collect::<Vec<_>>().concat())
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let config = TrainConfig {
                kind: TokenizerKind::Bpe(special.clone()),
                vocab_size: 261 + roll(400),
                min_frequency: roll(4) as u64,
                character_coverage: 1.0,
                chat_template: None,
            };
            let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
            let ours = json(&to_json(&learn_merges(&texts, &special, &config), &special).unwrap());
            let theirs = json(library(&texts, &special, &config).to_string(true).unwrap().as_bytes());
            assert_eq!(ours["model"]["merges"], theirs["model"]["merges"], "round {round}");
            assert_eq!(ours, theirs, "round {round}");
        }
    }
}
