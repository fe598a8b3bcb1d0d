//! Models of the sentencepiece library, Unigram and BPE (`sentencepiece_model.proto` of github.com/google/sentencepiece).
//!
//! Text is encoded as that library does it. Only what is written as a control symbol (`</s>`) becomes that symbol where
//! special tokens are asked for, which the library never does.

use std::collections::BTreeMap;

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value, json};

use super::protobuf::{Field, Fields};
use super::{Beside, added, template, unknown_family};
use crate::charsmap::to_base64;

/// What a blank is written as.
const BLANK: char = '▁';

/// How a piece is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

struct Piece {
    text: String,
    score: f64,
    usage: Use,
}

/// What of a model file matters for encoding.
struct Model {
    pieces: Vec<Piece>,
    bpe: bool,
    byte_fallback: bool,
    bos: Option<usize>,
    eos: Option<usize>,
    /// The table that characters are replaced by.
    charsmap: Vec<u8>,
    dummy_prefix: bool,
    remove_blanks: bool,
    escape_blanks: bool,
}

pub(super) fn read(bytes: &[u8], beside: &Beside<'_>) -> Result<Value> {
    let mut model = Model::parse(bytes)?;
    let family = beside.family();
    model.arrange(&family, beside)?;
    let unk = model.pieces.iter().position(|p| p.usage == Use::Unknown).ok_or_else(|| {
        Error::failed("it has no piece for what is unknown").with_hint("the model is damaged: get it again")
    })?;
    let mut known = BTreeMap::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        if matches!(piece.usage, Use::Control | Use::UserDefined) || id == unk {
            known.insert(id as u64, added(id as u64, &piece.text, piece.usage != Use::UserDefined));
        }
    }
    let added = beside.added_tokens(known)?;
    let post_processor = model.post_processor(&family, beside)?;
    let (pre_normalizer, pre_tokenizer) = model.splitting(&family, beside);
    let mut normalizers = model.normalizers(&family, beside);
    normalizers.extend(pre_normalizer);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": model.decoder(),
        "model": if model.bpe { model.bpe_json(unk) } else { model.unigram_json(unk) },
    }))
}

impl Model {
    fn parse(bytes: &[u8]) -> Result<Self> {
        if is_tiktoken(bytes) {
            return Err(Error::failed("it is a list of byte strings in tiktoken's format, no sentencepiece model")
                .with_hint("use the tokenizer.json that is published beside it"));
        }
        let mut model = Self {
            pieces: Vec::new(),
            bpe: false,
            byte_fallback: false,
            bos: Some(1),
            eos: Some(2),
            charsmap: Vec::new(),
            dummy_prefix: true,
            remove_blanks: true,
            escape_blanks: true,
        };
        for field in Fields::new(bytes) {
            match field? {
                (1, piece) => model.pieces.push(parse_piece(piece)?),
                (2, trainer) => model.parse_trainer(trainer)?,
                (3, normalizer) => model.parse_normalizer(normalizer)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(Error::failed("it holds no pieces").with_hint("is this a sentencepiece model?"));
        }
        if !model.escape_blanks {
            return Err(Error::failed(
                "it writes blanks as they are (escape_whitespaces = false), which is not supported",
            ));
        }
        Ok(model)
    }

    fn parse_trainer(&mut self, message: Field<'_>) -> Result<()> {
        let place = |id: i32| usize::try_from(id).ok();
        for field in Fields::new(message.bytes()?) {
            match field? {
                (3, kind) => {
                    self.bpe = match kind.number()? {
                        1 => false,
                        2 => true,
                        other => {
                            let name = if other == 3 { "words" } else { "characters" };
                            return Err(Error::failed(format!("it is a model of {name}"))
                                .with_hint("only the types Unigram and BPE are supported"));
                        }
                    }
                }
                (24, suffix) if suffix.flag()? => {
                    return Err(Error::failed(
                        "it puts blanks behind words (treat_whitespace_as_suffix), which is not supported",
                    ));
                }
                (35, fallback) => self.byte_fallback = fallback.flag()?,
                (41, id) => self.bos = place(id.int32()?),
                (42, id) => self.eos = place(id.int32()?),
                _ => {}
            }
        }
        Ok(())
    }

    fn parse_normalizer(&mut self, message: Field<'_>) -> Result<()> {
        for field in Fields::new(message.bytes()?) {
            match field? {
                (2, map) => self.charsmap = map.bytes()?.to_vec(),
                (3, flag) => self.dummy_prefix = flag.flag()?,
                (4, flag) => self.remove_blanks = flag.flag()?,
                (5, flag) => self.escape_blanks = flag.flag()?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts the pieces where the family's models have them.
    fn arrange(&mut self, family: &str, beside: &Beside<'_>) -> Result<()> {
        let control = |text: String, score: f64| Piece { text, score, usage: Use::Control };
        match family {
            "" | "llama" | "mistral" | "mixtral" | "gemma" | "gemma2" | "gemma3" | "gemma3_text" | "albert" => {}
            "t5" | "mt5" | "umt5" | "switch_transformers" => {
                let extra = beside.number("extra_ids", 100);
                let missing = (0..extra).rev().map(|i| format!("<extra_id_{i}>"));
                let missing: Vec<String> = missing.filter(|t| self.pieces.iter().all(|p| p.text != *t)).collect();
                self.pieces.extend(missing.into_iter().map(|t| control(t, 0.0)));
            }
            "pegasus" => {
                let names = [("pad", "<pad>"), ("eos", "</s>"), ("mask_sent", "<mask_1>"), ("mask", "<mask_2>")];
                let mut pieces: Vec<_> =
                    names.iter().map(|(role, text)| control(beside.token(role, text), 0.0)).collect();
                pieces.extend((2..beside.number("offset", 103)).map(|i| control(format!("<unk_{i}>"), -100.0)));
                pieces.extend(std::mem::take(&mut self.pieces).into_iter().skip(2));
                self.pieces = pieces;
                (self.bos, self.eos) = (None, Some(1));
            }
            other => return Err(unknown_family(other, &["Llama", "Gemma", "T5", "MT5", "Albert", "Pegasus"])),
        }
        if family == "albert" {
            let special = ["cls", "sep", "mask", "pad"].map(|role| {
                beside.token(
                    role,
                    if role == "pad" { "<pad>".to_owned() } else { format!("[{}]", role.to_uppercase()) }.as_str(),
                )
            });
            for piece in self.pieces.iter_mut().filter(|p| special.contains(&p.text)) {
                piece.usage = Use::Control;
            }
        }
        Ok(())
    }

    fn normalizers(&self, family: &str, beside: &Beside<'_>) -> Vec<Value> {
        let replace =
            |regex: &str, new: &str| json!({ "type": "Replace", "pattern": { "Regex": regex }, "content": new });
        let mut steps = Vec::new();
        if family == "albert" {
            steps.extend([replace("``", "\""), replace("''", "\"")]);
            if !beside.flag("keep_accents", false) {
                steps.extend([json!({ "type": "NFKD" }), json!({ "type": "StripAccents" })]);
            }
            if beside.flag("do_lower_case", true) {
                steps.push(json!({ "type": "Lowercase" }));
            }
        }
        if !self.charsmap.is_empty() {
            steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": to_base64(&self.charsmap) }));
        }
        if self.remove_blanks {
            steps.extend([replace(r"\A +|[ ▁]+\z", ""), replace(" {2,}", " ")]);
        }
        steps
    }

    /// The last normalizers and the pre-tokenizer: both write blanks as `▁`, and one before the text.
    fn splitting(&self, family: &str, beside: &Beside<'_>) -> (Vec<Value>, Value) {
        let blank = json!({ "type": "Replace", "pattern": { "String": " " }, "content": BLANK.to_string() });
        let prepend = json!({ "type": "Prepend", "prepend": BLANK.to_string() });
        let legacy = beside.flag("legacy", true);
        if self.bpe && legacy {
            let steps = if self.dummy_prefix { vec![prepend, blank] } else { vec![blank] };
            return (steps, Value::Null);
        }
        let scheme = match (self.dummy_prefix, legacy) {
            (false, _) => "never",
            (true, true) => "always",
            (true, false) => "first",
        };
        // Pieces of several words need the whole text.
        let crossing = |p: &Piece| p.usage == Use::Normal && p.text.chars().skip(1).any(|c| c == BLANK);
        let split = !self.bpe && !self.pieces.iter().any(crossing);
        let metaspace = metaspace(scheme, split);
        let pre_tokenizer = match family {
            "pegasus" => json!({ "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, metaspace] }),
            _ => metaspace,
        };
        (Vec::new(), pre_tokenizer)
    }

    fn decoder(&self) -> Value {
        if !self.bpe && !self.byte_fallback {
            return metaspace(if self.dummy_prefix { "always" } else { "never" }, true);
        }
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": BLANK.to_string() }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.dummy_prefix {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        json!({ "type": "Sequence", "decoders": steps })
    }

    fn post_processor(&self, family: &str, beside: &Beside<'_>) -> Result<Value> {
        let id = |name: &str| Some(self.pieces.iter().position(|p| p.text == name)? as u64);
        let text = |id: Option<usize>| id.and_then(|id| self.pieces.get(id)).map(|p| p.text.as_str());
        if family == "albert" {
            let (cls, sep) = (beside.token("cls", "[CLS]"), beside.token("sep", "[SEP]"));
            return super::wordpiece::bert_template(&cls, &sep, id);
        }
        if family == "pegasus" {
            let eos = text(self.eos).unwrap_or_default();
            return template(&[("$A", 0), (eos, 0)], &[("$A", 0), ("$B", 0), (eos, 0)], id);
        }
        // A model that knows no beginning ends its sequences, as T5 does; any other begins them, as Llama does.
        let t5 = family.contains("t5") || family == "switch_transformers" || (family.is_empty() && self.bos.is_none());
        let bos = text(self.bos).filter(|_| beside.flag("add_bos_token", !t5));
        let eos = text(self.eos).filter(|_| beside.flag("add_eos_token", t5));
        let second = u32::from(!t5);
        let part = |name, kind| {
            let begin = bos.map(|t| (t, kind));
            begin.into_iter().chain([(name, kind)]).chain(eos.map(|t| (t, kind))).collect::<Vec<_>>()
        };
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        template(&part("$A", 0), &[part("$A", 0), part("$B", second)].concat(), id)
    }

    fn unigram_json(&self, unk: usize) -> Value {
        let vocab: Vec<Value> = self.pieces.iter().map(|p| json!([p.text, p.score])).collect();
        json!({ "type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": self.byte_fallback })
    }

    /// A pair may be merged when the result is a piece; the better piece goes first, as its score says.
    fn bpe_json(&self, unk: usize) -> Value {
        let vocab: Map<String, Value> =
            self.pieces.iter().enumerate().map(|(i, p)| (p.text.clone(), json!(i))).collect();
        let normal: std::collections::HashSet<&str> =
            self.pieces.iter().filter(|p| p.usage == Use::Normal).map(|p| p.text.as_str()).collect();
        let mut ranked: Vec<(f64, usize, &str, &str)> = Vec::new();
        for (id, piece) in self.pieces.iter().enumerate().filter(|(_, p)| p.usage == Use::Normal) {
            let splits = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
            let fitting = splits.filter(|(left, right)| normal.contains(left) && normal.contains(right));
            ranked.extend(fitting.map(|(left, right)| (-piece.score, id, left, right)));
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let merges: Vec<Value> = ranked.into_iter().map(|(_, _, left, right)| json!([left, right])).collect();
        json!({ "type": "BPE", "unk_token": self.pieces[unk].text, "fuse_unk": true,
                "byte_fallback": self.byte_fallback, "vocab": vocab, "merges": merges })
    }
}

/// A step that writes blanks as `▁`, with one before the text as `scheme` says.
pub(crate) fn metaspace(scheme: &str, split: bool) -> Value {
    json!({ "type": "Metaspace", "replacement": BLANK, "prepend_scheme": scheme, "split": split })
}

fn parse_piece(message: Field<'_>) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, usage: Use::Normal };
    for field in Fields::new(message.bytes()?) {
        match field? {
            (1, text) => piece.text = text.text()?.to_owned(),
            (2, score) => piece.score = f64::from(score.f32()?),
            (3, usage) => {
                piece.usage = match usage.number()? {
                    2 => Use::Unknown,
                    3 => Use::Control,
                    4 => Use::UserDefined,
                    5 => Use::Unused,
                    6 => Use::Byte,
                    _ => Use::Normal,
                }
            }
            _ => {}
        }
    }
    if !piece.score.is_finite() {
        return Err(Error::failed(format!("the piece {:?} has the score {}", piece.text, piece.score)));
    }
    Ok(piece)
}

/// Whether the first line is a byte string in base64 and a number.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let Some((word, rank)) = std::str::from_utf8(line).ok().and_then(|l| l.split_once(' ')) else { return false };
    rank.trim_end().parse::<u64>().is_ok() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
}
