//! Metadata to `tokenizer.json`.

use base64::prelude::{BASE64_STANDARD, Engine};
use cupola_artifact::{Error, Result};
use serde_json::{Map, Value, json};

use super::{BLANK, Kind, key, pieces, split, unused_name};
use crate::value::{Array, Metadata, Value as Entry};

/// A tokenizer as Hugging Face's files have it.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// `tokenizer_config.json`, with the chat template.
    pub config: Map<String, Value>,
}

/// The tokenizer that metadata describes; `None` where it describes none.
///
/// # Errors
/// A kind of tokenizer that is not known here, and metadata that contradicts itself.
pub fn tokenizer_files(metadata: &Metadata) -> Result<Option<TokenizerFiles>> {
    let Some(model) = metadata.text(key::MODEL)? else { return Ok(None) };
    let make = match model {
        "gpt2" => byte_bpe,
        "llama" => piece_bpe,
        "t5" => unigram,
        "bert" => word_piece,
        "none" | "no_vocab" => return Ok(None),
        other => {
            return Err(Error::failed(format!("the file's tokenizer is of the kind `{other}`"))
                .with_hint("gpt2, llama, t5 and bert are known; put the model's own tokenizer.json beside the file"));
        }
    };
    let vocab = Vocab::read(metadata)?;
    let parts = make(metadata, &vocab)?;
    let special = Special::read(metadata, &vocab, model)?;
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocab.added(),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": special.template(),
        "decoder": parts.decoder,
        "model": parts.model,
    });
    Ok(Some(TokenizerFiles { tokenizer, config: special.config(metadata)? }))
}

/// What differs between the kinds.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

struct Vocab<'a> {
    tokens: &'a [String],
    kinds: Vec<Kind>,
}

impl<'a> Vocab<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self> {
        let tokens = metadata.required(key::TOKENS, metadata.texts(key::TOKENS)?)?;
        let types = metadata.integers(key::TYPES)?.unwrap_or_else(|| vec![1; tokens.len()]);
        same_length(key::TYPES, types.len(), tokens.len())?;
        let kind = |(id, number): (usize, i64)| match Kind::from_number(number) {
            Kind::Unused if tokens[id] != unused_name(id) => Kind::Control,
            kind => kind,
        };
        Ok(Self { tokens, kinds: types.into_iter().enumerate().map(kind).collect() })
    }

    /// The ids that have a token.
    fn used(&self) -> impl Iterator<Item = usize> {
        (0..self.tokens.len()).filter(|id| self.kinds[*id] != Kind::Unused)
    }

    fn added(&self) -> Vec<Value> {
        let added = |id: &usize| !matches!(self.kinds[*id], Kind::Normal | Kind::Byte);
        let token = |id: usize| {
            json!({
                "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": self.kinds[id] != Kind::UserDefined,
            })
        };
        self.used().filter(added).map(token).collect()
    }

    fn ids(&self, name: impl Fn(usize) -> String) -> Map<String, Value> {
        self.used().map(|id| (name(id), json!(id))).collect()
    }

    fn token(&self, id: Option<u32>) -> Option<&str> {
        self.tokens.get(id? as usize).map(String::as_str)
    }
}

fn same_length(key: &str, got: usize, want: usize) -> Result<()> {
    if got == want {
        return Ok(());
    }
    Err(Error::failed(format!("the metadata `{key}` has {got} values for {want} tokens"))
        .with_hint("the file is damaged: get it again"))
}

fn byte_bpe(metadata: &Metadata, vocab: &Vocab) -> Result<Parts> {
    let merges = metadata.required(key::MERGES, metadata.texts(key::MERGES)?)?;
    let (pre_tokenizer, ignores) = split::pre_tokenizer(metadata.text(key::PRE)?.unwrap_or("gpt-2"))?;
    let pair = |merge: &String| {
        let wrong = || Error::failed(format!("the merge {merge:?} is no pair of tokens"));
        merge.split_once(' ').map(|(left, right)| json!([left, right])).ok_or_else(wrong)
    };
    let merges = merges.iter().map(pair).collect::<Result<Vec<Value>>>()?;
    let unknown = vocab.token(metadata.token(key::UNKNOWN)?);
    Ok(Parts {
        normalizer: Value::Null,
        pre_tokenizer,
        decoder: split::byte_level(true),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignores,
            "vocab": vocab.ids(|id| vocab.tokens[id].clone()), "merges": merges,
        }),
    })
}

fn piece_bpe(metadata: &Metadata, vocab: &Vocab) -> Result<Parts> {
    let scores = metadata.required(key::SCORES, metadata.floats(key::SCORES)?)?;
    same_length(key::SCORES, scores.len(), vocab.tokens.len())?;
    let tokens: Vec<&str> = vocab.tokens.iter().map(String::as_str).collect();
    let merges = pieces::merges(&tokens, scores, |id| vocab.kinds[id] == Kind::Normal);
    let unknown = vocab.token(metadata.token(key::UNKNOWN)?.or(Some(0)));
    let adds_space = metadata.flag(key::ADD_SPACE)?.unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": BLANK}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let normalizer = if adds_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": BLANK}, replace]})
    } else {
        replace
    };
    Ok(Parts {
        normalizer,
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab.ids(|id| vocab.tokens[id].clone()), "merges": merges,
        }),
    })
}

fn unigram(metadata: &Metadata, vocab: &Vocab) -> Result<Parts> {
    let scores = metadata.required(key::SCORES, metadata.floats(key::SCORES)?)?;
    same_length(key::SCORES, scores.len(), vocab.tokens.len())?;
    let mut normalizers = Vec::new();
    if let Some(Entry::Array(Array::U8(map))) = metadata.get(key::CHARSMAP) {
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(map)}));
    }
    if metadata.flag(key::MERGE_SPACES)?.unwrap_or(false) {
        normalizers.push(json!({"type": "Strip", "strip_left": false, "strip_right": true}));
        normalizers.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": BLANK}));
    }
    let scheme = if metadata.flag(key::ADD_SPACE)?.unwrap_or(true) { "always" } else { "never" };
    let blanks = json!({"type": "Metaspace", "replacement": BLANK, "prepend_scheme": scheme, "split": true});
    let pieces: Vec<Value> = vocab.tokens.iter().zip(scores).map(|(t, s)| json!([t, s])).collect();
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: blanks.clone(),
        decoder: blanks,
        model: json!({
            "type": "Unigram", "unk_id": metadata.token(key::UNKNOWN)?, "byte_fallback": false, "vocab": pieces,
        }),
    })
}

fn word_piece(metadata: &Metadata, vocab: &Vocab) -> Result<Parts> {
    let name = |id: usize| match (vocab.kinds[id], vocab.tokens[id].strip_prefix(BLANK)) {
        (Kind::Normal, Some(begins)) => begins.to_owned(),
        (Kind::Normal, None) => format!("##{}", vocab.tokens[id]),
        _ => vocab.tokens[id].clone(),
    };
    let lowercase = metadata.flag(key::LOWERCASE)?.unwrap_or(true);
    Ok(Parts {
        normalizer: json!({
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": metadata.flag(key::STRIP_ACCENTS)?, "lowercase": lowercase,
        }),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        model: json!({
            "type": "WordPiece", "unk_token": vocab.token(metadata.token(key::UNKNOWN)?),
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab.ids(name),
        }),
    })
}

/// The tokens with a meaning, and which of them are put around each text.
struct Special<'a> {
    named: Vec<(&'static str, &'a str)>,
    first: Option<(&'a str, u32)>,
    last: Option<(&'a str, u32)>,
}

impl<'a> Special<'a> {
    fn read(metadata: &'a Metadata, vocab: &'a Vocab, model: &str) -> Result<Self> {
        let token = |key: &str| -> Result<Option<(&'a str, u32)>> {
            let id = metadata.token(key)?;
            let Some(id) = id else { return Ok(None) };
            let none = || Error::failed(format!("the metadata `{key}` is {id}, which is no token"));
            vocab.token(Some(id)).ok_or_else(none).map(|token| Some((token, id)))
        };
        // What holds where the file says nothing.
        let (adds_first, adds_last) = match model {
            "llama" => (true, false),
            "t5" => (false, true),
            "bert" => (true, true),
            _ => (false, false),
        };
        let first = token(key::BOS)?.filter(|_| metadata.flag(key::ADD_BOS).ok().flatten().unwrap_or(adds_first));
        let end = if model == "bert" { key::SEPARATOR } else { key::EOS };
        let last = token(end)?.filter(|_| metadata.flag(key::ADD_EOS).ok().flatten().unwrap_or(adds_last));
        let mut named = Vec::new();
        for (role, key) in [
            ("bos_token", key::BOS),
            ("eos_token", key::EOS),
            ("pad_token", key::PAD),
            ("unk_token", key::UNKNOWN),
            ("sep_token", key::SEPARATOR),
            ("cls_token", key::CLS),
            ("mask_token", key::MASK),
        ] {
            named.extend(token(key)?.map(|(text, _)| (role, text)));
        }
        Ok(Self { named, first, last })
    }

    fn template(&self) -> Value {
        let around: Vec<(&str, u32)> = self.first.into_iter().chain(self.last).collect();
        if around.is_empty() {
            return Value::Null;
        }
        let special = |(name, _): (&str, u32), part: usize| json!({"SpecialToken": {"id": name, "type_id": part}});
        let text = |name: &str, part: usize| {
            let first = self.first.map(|token| special(token, part));
            let last = self.last.map(|token| special(token, part));
            first
                .into_iter()
                .chain([json!({"Sequence": {"id": name, "type_id": part}})])
                .chain(last)
                .collect::<Vec<_>>()
        };
        let tokens: Map<String, Value> = around
            .iter()
            .map(|(name, id)| ((*name).to_owned(), json!({"id": name, "ids": [id], "tokens": [name]})))
            .collect();
        let pair: Vec<Value> = text("A", 0).into_iter().chain(text("B", 1)).collect();
        json!({"type": "TemplateProcessing", "single": text("A", 0), "pair": pair, "special_tokens": tokens})
    }

    fn config(&self, metadata: &Metadata) -> Result<Map<String, Value>> {
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        config.extend(self.named.iter().map(|(role, token)| ((*role).to_owned(), json!(token))));
        if let Some(template) = metadata.text(key::TEMPLATE)? {
            config.insert("chat_template".into(), json!(template));
        }
        Ok(config)
    }
}
