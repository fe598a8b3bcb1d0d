//! Training of a Unigram model as T5's (Kudo 2018, arXiv:1804.10959): a large set of pieces is fitted by expectation
//! maximisation and cut down, step by step, to those whose loss would cost the most likelihood.

use std::collections::{BTreeMap, HashSet};

use cupola_artifact::{Context, Error, Result};
use serde_json::{Map, Value, json};

use super::em::Fit;
use super::pieces::{BLANK, seeds};
use super::{TrainConfig, UnigramTokens, alphabet, check_room, count_words};
use crate::layouts::{added, metaspace, template};
use crate::special::SideFiles;
use crate::template::TemplateSources;
use crate::tokenizer::Tokenizer;

/// Rounds of fitting before pieces are dropped.
const ROUNDS: usize = 2;
/// More pieces are kept until the end than are asked for: the last cut goes by score.
const SURPLUS: f64 = 1.1;

/// Trains on texts. Ids are first `special.first()`, then the pieces by probability, then `special.last()`.
pub(super) fn train(texts: &[&str], special: &UnigramTokens, config: &TrainConfig) -> Result<Tokenizer> {
    special.check()?;
    let words = count_words(texts, |line| Ok(split(line)))?;
    let alphabet = alphabet(&words, config.character_coverage);
    let (first, last) = (special.first(), special.last());
    let known = first.len() + last.len();
    check_room(config.vocab_size, alphabet.len(), known)?;
    let words = known_parts(&words, &alphabet);
    if words.is_empty() {
        return Err(Error::failed("the training of the tokenizer found no words"));
    }
    let mut pieces = fit(&words, config.vocab_size - known, config.min_frequency);
    // A special token must not come out of the text as well.
    pieces.retain(|(text, _)| !first.contains(&text.as_str()) && !last.contains(text));
    let json = tokenizer_json(&pieces, special)?;
    let failed = || "the training of the tokenizer failed".to_owned();
    let templates = TemplateSources { default: config.chat_template.clone(), named: Vec::new() };
    let files = SideFiles { tokenizer_config: tokenizer_config(special), ..SideFiles::default() };
    Tokenizer::build(serde_json::to_vec_pretty(&json).context(failed)?, files, templates)
}

/// The words of a line, each with a blank before it.
fn split(line: &str) -> Vec<String> {
    let parts = line.split(|c: char| c.is_whitespace() || c == BLANK).filter(|part| !part.is_empty());
    parts.map(|part| format!("{BLANK}{part}")).collect()
}

/// The words cut where they have a character that is not in the alphabet.
fn known_parts(words: &BTreeMap<String, u64>, alphabet: &[char]) -> Vec<(Vec<char>, f64)> {
    let known: HashSet<char> = alphabet.iter().copied().collect();
    let mut parts: BTreeMap<Vec<char>, u64> = BTreeMap::new();
    for (word, count) in words {
        for part in word.split(|c| !known.contains(&c)).filter(|part| !part.is_empty()) {
            *parts.entry(part.chars().collect()).or_default() += count;
        }
    }
    parts.into_iter().map(|(part, count)| (part, count as f64)).collect()
}

/// The best `size` pieces with their log probabilities, the most probable first; all single characters are among them.
fn fit(words: &[(Vec<char>, f64)], size: usize, min_frequency: u64) -> Vec<(String, f64)> {
    let surplus = (size as f64 * SURPLUS) as usize;
    let mut fit = Fit::new(seeds(words, min_frequency));
    loop {
        for _ in 0..ROUNDS {
            fit.round(words);
        }
        let before = fit.len();
        if before <= surplus {
            break;
        }
        fit.prune(words, surplus);
        if fit.len() == before {
            break;
        }
    }
    let mut pieces = fit.into_pieces();
    pieces.sort_by(|a, b| (b.text.len() == 1).cmp(&(a.text.len() == 1)).then(b.score.total_cmp(&a.score)));
    pieces.truncate(size);
    let mut pieces: Vec<_> = pieces.into_iter().map(|p| (p.text.iter().collect::<String>(), p.score)).collect();
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    pieces
}

fn tokenizer_json(pieces: &[(String, f64)], special: &UnigramTokens) -> Result<Value> {
    let mut vocab: Vec<Value> = special.first().into_iter().map(|text| json!([text, 0.0])).collect();
    let mut tokens: Vec<Value> = special.first().into_iter().zip(0..).map(|(text, id)| added(id, text, true)).collect();
    vocab.extend(pieces.iter().map(|(text, score)| json!([text, score])));
    for text in special.last() {
        tokens.push(added(vocab.len() as u64, &text, true));
        vocab.push(json!([text, 0.0]));
    }
    let eos = special.eos.as_str();
    let post_processor = template(&[("$A", 0), (eos, 0)], &[("$A", 0), (eos, 0), ("$B", 0), (eos, 0)], |name| {
        (name == eos).then_some(1)
    })?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens, "normalizer": null,
        "pre_tokenizer": { "type": "Sequence",
            "pretokenizers": [{ "type": "WhitespaceSplit" }, metaspace("always", true)] },
        "post_processor": post_processor, "decoder": metaspace("always", true),
        "model": { "type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false },
    }))
}

fn tokenizer_config(special: &UnigramTokens) -> Map<String, Value> {
    let mut settings = Map::new();
    // T5's class writes `</s>` whatever the settings say.
    let class = if special.eos == "</s>" { "T5Tokenizer" } else { "PreTrainedTokenizerFast" };
    let sentinels = (0..special.sentinels).map(|i| format!("<extra_id_{i}>"));
    let additional: Vec<String> = sentinels.chain(special.more.iter().cloned()).collect();
    for (key, value) in [
        ("tokenizer_class", json!(class)),
        ("clean_up_tokenization_spaces", json!(false)),
        ("eos_token", json!(special.eos)),
        ("pad_token", json!(special.pad)),
        ("unk_token", json!(special.unk)),
        ("extra_ids", json!(special.sentinels)),
        ("additional_special_tokens", json!(additional)),
    ] {
        settings.insert(key.to_owned(), value);
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_at_unknown_characters() {
        let words = BTreeMap::from([("▁abxab".to_owned(), 2), ("▁ab".to_owned(), 3)]);
        let parts = known_parts(&words, &['a', 'b', '▁']);
        let text = |word: &str| word.chars().collect::<Vec<_>>();
        assert_eq!(parts, [(text("ab"), 2.0), (text("▁ab"), 5.0)]);
        assert_eq!(split("  a ▁b\tc"), ["▁a", "▁b", "▁c"]);
    }

    #[test]
    fn frequent_words_become_pieces_and_all_characters_stay() {
        let words: Vec<(Vec<char>, f64)> = [("▁the", 50.0), ("▁then", 20.0), ("▁cat", 30.0), ("▁at", 9.0)]
            .map(|(w, n)| (w.chars().collect(), n))
            .into();
        let pieces = fit(&words, 10, 2);
        assert_eq!(pieces.len(), 10);
        let has = |text: &str| pieces.iter().any(|(piece, _)| piece == text);
        assert!(has("▁the") && has("▁cat"), "{pieces:?}");
        assert!("▁thencat".chars().all(|c| has(&c.to_string())), "{pieces:?}");
        assert!(pieces.is_sorted_by(|a, b| a.1 >= b.1) && pieces[0].1 < 0.0, "{pieces:?}");
    }
}
