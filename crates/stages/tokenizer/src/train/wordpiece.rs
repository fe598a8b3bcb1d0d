//! Training of a WordPiece vocabulary as BERT's: pairs are merged by frequency, and a text is split into the longest
//! pieces of the vocabulary, those inside a word written with `##`.

use std::collections::BTreeSet;

use cupola_artifact::{Context, Error, Result};
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
};

use super::{TrainConfig, WordPieceTokens, alphabet, check_room, count_words, expressible};
use crate::layouts::{added, bert_template};
use crate::special::SideFiles;
use crate::template::TemplateSources;
use crate::tokenizer::Tokenizer;

/// Written before a piece that does not begin a word.
const INSIDE: &str = "##";
/// Longer words are unknown.
const LONGEST_WORD: usize = 100;

/// Trains on texts. Ids are first the special tokens, then the characters, then the characters inside words, then the
/// merges by frequency.
pub(super) fn train(
    texts: &[&str],
    special: &WordPieceTokens,
    lowercase: bool,
    config: &TrainConfig,
) -> Result<Tokenizer> {
    special.check()?;
    let split = |line: &str| split(line, lowercase);
    let words = count_words(texts, split)?;
    let alphabet = alphabet(&words, config.character_coverage);
    let words = expressible(words, &alphabet);
    let inside: BTreeSet<char> = words.keys().flat_map(|word| word.chars().skip(1)).collect();
    let singles = alphabet.iter().map(char::to_string).chain(inside.iter().map(|c| format!("{INSIDE}{c}")));
    let singles: Vec<String> = singles.collect();
    check_room(config.vocab_size, singles.len(), special.all().len())?;
    // The library numbers pieces inside words as it meets them in a hash table; numbered before, they keep their ids,
    // by which it decides between equally frequent pairs.
    let first = special.all().into_iter().map(str::to_owned).chain(singles);
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(config.vocab_size)
        .min_frequency(config.min_frequency)
        .continuing_subword_prefix(INSIDE.to_owned())
        .special_tokens(first.map(|text| AddedToken::from(text, true)).collect())
        .build();
    let failed = || "the training of the tokenizer failed".to_owned();
    let known = |line: &str| {
        let words_of_line = split(line).map_err(|e| e.to_string())?;
        Ok(words_of_line.into_iter().filter(|word| words.contains_key(word)).collect())
    };
    trainer.feed(texts.iter().flat_map(|text| text.lines()), known).context(failed)?;
    let mut merged = BPE::default();
    trainer.train(&mut merged).context(failed)?;
    let mut vocab: Vec<(String, u32)> = merged.get_vocab().into_iter().collect();
    vocab.sort_by_key(|(_, id)| *id);
    let json = tokenizer_json(vocab, special, lowercase)?;
    let templates = TemplateSources { default: config.chat_template.clone(), named: Vec::new() };
    let files = SideFiles { tokenizer_config: tokenizer_config(special, lowercase), ..SideFiles::default() };
    Tokenizer::build(serde_json::to_vec_pretty(&json).context(failed)?, files, templates)
}

/// The words of a line: BERT cleans the text and splits at white space and at every sign.
fn split(line: &str, lowercase: bool) -> Result<Vec<String>> {
    let what = || "cannot split a text into words".to_owned();
    let mut text = NormalizedString::from(line);
    BertNormalizer::new(true, true, None, lowercase).normalize(&mut text).context(what)?;
    let mut words = PreTokenizedString::from(text);
    BertPreTokenizer.pre_tokenize(&mut words).context(what)?;
    let splits = words.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    let fitting = splits.into_iter().filter(|(word, _, _)| word.chars().count() <= LONGEST_WORD);
    Ok(fitting.map(|(word, _, _)| word.to_owned()).collect())
}

fn tokenizer_json(vocab: Vec<(String, u32)>, special: &WordPieceTokens, lowercase: bool) -> Result<Value> {
    let tokens: Vec<Value> = special.all().into_iter().zip(0..).map(|(text, id)| added(id, text, true)).collect();
    let place = |name: &str| Some(special.all().iter().position(|t| *t == name)? as u64);
    let post_processor = bert_template(&special.cls, &special.sep, place)?;
    let vocab: Map<String, Value> = vocab.into_iter().map(|(text, id)| (text, json!(id))).collect();
    if vocab.is_empty() {
        return Err(Error::failed("the training of the tokenizer gave no vocabulary"));
    }
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens,
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": lowercase },
        "pre_tokenizer": { "type": "BertPreTokenizer" }, "post_processor": post_processor,
        "decoder": { "type": "WordPiece", "prefix": INSIDE, "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": special.unk, "continuing_subword_prefix": INSIDE,
            "max_input_chars_per_word": LONGEST_WORD, "vocab": vocab },
    }))
}

fn tokenizer_config(special: &WordPieceTokens, lowercase: bool) -> Map<String, Value> {
    let mut settings = Map::new();
    for (key, value) in [
        ("tokenizer_class", json!("BertTokenizer")),
        ("do_lower_case", json!(lowercase)),
        ("tokenize_chinese_chars", json!(true)),
        ("strip_accents", Value::Null),
        ("clean_up_tokenization_spaces", json!(false)),
        ("pad_token", json!(special.pad)),
        ("unk_token", json!(special.unk)),
        ("cls_token", json!(special.cls)),
        ("sep_token", json!(special.sep)),
        ("mask_token", json!(special.mask)),
    ] {
        settings.insert(key.to_owned(), value);
    }
    if !special.more.is_empty() {
        settings.insert("additional_special_tokens".to_owned(), json!(special.more));
    }
    settings
}
