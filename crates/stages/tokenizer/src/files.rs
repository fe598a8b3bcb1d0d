//! Reading and writing a tokenizer's files.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use cupola_artifact::{Context, Error, Result, write_atomic};
use serde_json::{Map, Value, json};
use tokenizers::ModelWrapper;
use tokenizers::models::unigram::Unigram;

use crate::byte_bpe::ByteBpe;
use crate::chat::{GUARD, drop_guard};
use crate::layouts::OldLayout;
use crate::special::{SideFiles, SpecialIds};
use crate::template::{ChatTemplate, TemplateSources};
use crate::tokenizer::{Inner, Tokenizer};
use crate::validate::{check_added, check_model};

impl Tokenizer {
    /// Reads a folder with `tokenizer.json` or an older library's vocabulary (see [`crate::layouts`]), or such a file
    /// itself, and what lies beside it: `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`,
    /// `chat_template.jinja`, `additional_chat_templates/`, `generation_config.json`, `config.json`. Of a GGUF file, what its
    /// metadata says.
    pub fn load(path: &Path) -> Result<Self> {
        if path.is_file() && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            return Self::load_gguf(path);
        }
        let dir = if path.is_file() { path.parent().unwrap_or(Path::new(".")) } else { path };
        let file = if path.is_file() { path.to_path_buf() } else { path.join("tokenizer.json") };
        let files = side_files(dir)?;
        let templates = templates(&files.tokenizer_config, dir)?;
        let old = if path.is_dir() && file.exists() { None } else { OldLayout::find(path) };
        let named = old.as_ref().map_or(file.clone(), |old| old.file().to_path_buf());
        let json = match &old {
            Some(old) => old.convert(&files),
            None if file.exists() => read_limited(&file),
            None => return Err(missing(&file)),
        };
        json.and_then(|json| Self::build(json, files, templates))
            .map_err(|e| e.wrap(format!("cannot load the tokenizer {}", named.display())))
    }

    /// Makes a tokenizer from the text of `tokenizer.json` and its settings.
    pub(crate) fn build(json: Vec<u8>, files: SideFiles, templates: TemplateSources) -> Result<Self> {
        let root: Value = serde_json::from_slice(&json).map_err(|e| {
            Error::failed("it is no valid JSON")
                .with_source(e)
                .with_hint("the file is cut off or damaged: get it again, or train the tokenizer anew")
        })?;
        check_model(&root)?;
        let mut special = tokenizers::Tokenizer::from_bytes(&json)
            .map_err(|e| Error::failed("it is no tokenizer that the library can read").with_source(e))?;
        check_added(&root, &special)?;
        // Special tokens are added by whoever builds a sequence, and limits are the model's; offsets stay untrimmed.
        let post = special.get_post_processor().cloned();
        special.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        special.with_padding(None);
        special.with_truncation(None).context(|| "cannot switch off truncation".to_owned())?;
        special.set_encode_special_tokens(false);
        let mut plain = special.clone();
        plain.set_encode_special_tokens(true);
        hide_special_pieces(&mut plain, &root)?;
        let ids = SpecialIds::find(&special, &files, templates.default.as_deref());
        let name = |role: &str, id: Option<u32>| -> Option<String> {
            let given = files.tokenizer_config.get(&format!("{role}_token")).and_then(crate::special::token_text);
            given.map(str::to_owned).or_else(|| special.id_to_token(id?))
        };
        let (bos, eos) = (name("bos", ids.bos), name("eos", ids.eos));
        let compile = |source: String| ChatTemplate::new(source, bos.clone(), eos.clone());
        let template = templates.default.map(compile).transpose()?;
        let named: Result<Vec<_>> = templates.named.into_iter().map(|(name, t)| Ok((name, compile(t)?))).collect();
        Ok(Self(Arc::new(Inner {
            vocab_size: special.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1),
            byte_level: matches!(special.get_decoder(), Some(tokenizers::DecoderWrapper::ByteLevel(_))),
            byte_bpe: ByteBpe::of(&root, &special)?,
            plain,
            special,
            guarded: OnceLock::new(),
            post,
            json,
            config: files.tokenizer_config,
            ids,
            template,
            named: named?,
        })))
    }

    /// The same tokenizer with another chat template; `None` keeps the one it has.
    pub(crate) fn with_chat_template(self, template: Option<String>) -> Result<Self> {
        let Some(template) = template else { return Ok(self) };
        // What was found in files that are not kept is written down here.
        let mut settings = self.0.config.clone();
        for (role, id) in [("bos_token", self.bos()), ("eos_token", self.eos()), ("pad_token", self.pad())] {
            if let Some(token) = id.and_then(|id| self.id_to_token(id)) {
                settings.insert(role.to_owned(), json!(token));
            }
        }
        let files = SideFiles { tokenizer_config: settings, ..SideFiles::default() };
        Self::build(self.0.json.clone(), files, TemplateSources { default: Some(template), named: Vec::new() })
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, which transformers'
    /// `AutoTokenizer` loads. A `tokenizer.json` that was read is written as it was.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).context(|| format!("cannot make the folder {}", dir.display()))?;
        let inner = &*self.0;
        let mut config = inner.config.clone();
        config.entry("tokenizer_class").or_insert(json!("PreTrainedTokenizerFast"));
        config.entry("clean_up_tokenization_spaces").or_insert(json!(false));
        if let Some(template) = self.chat_template() {
            let entry = |name: &str, source: &str| json!({ "name": name, "template": source });
            let named = inner.named.iter().map(|(name, template)| entry(name, template.source()));
            let all: Vec<Value> = std::iter::once(entry("default", template)).chain(named).collect();
            config.insert("chat_template".to_owned(), if all.len() == 1 { json!(template) } else { json!(all) });
        }
        let mut map = Map::new();
        for (role, id) in [
            ("bos_token", self.bos()),
            ("eos_token", self.eos()),
            ("pad_token", self.pad()),
            ("unk_token", self.unk()),
            ("cls_token", self.cls()),
            ("sep_token", self.sep()),
            ("mask_token", self.mask()),
        ] {
            if let Some(token) = id.and_then(|id| self.id_to_token(id)) {
                map.insert(role.to_owned(), json!(token));
                config.insert(role.to_owned(), json!(token));
            }
        }
        write_atomic(&dir.join("tokenizer.json"), &inner.json)?;
        write_json(&dir.join("tokenizer_config.json"), &Value::Object(config))?;
        write_json(&dir.join("special_tokens_map.json"), &Value::Object(map))
    }
}

/// Gives the pieces of a Unigram model that are special tokens other names, under the same ids: the model would choose
/// them for plain text, whatever the recognition of special tokens says. The names begin with the guard character, which
/// is dropped from every text.
fn hide_special_pieces(tokenizer: &mut tokenizers::Tokenizer, root: &Value) -> Result<()> {
    let ModelWrapper::Unigram(model) = tokenizer.get_model() else { return Ok(()) };
    let special = |piece: &str| tokenizer.get_added_vocabulary().is_special_token(piece);
    let hidden = |(id, (piece, score)): (usize, &(String, f64))| {
        (if special(piece) { format!("{GUARD}{id}") } else { piece.clone() }, *score)
    };
    let unk = root["model"]["unk_id"].as_u64().and_then(|id| usize::try_from(id).ok());
    let what = || "it has no usable Unigram model".to_owned();
    let model =
        Unigram::from(model.iter().enumerate().map(hidden).collect(), unk, model.byte_fallback()).context(what)?;
    drop_guard(tokenizer).context(what)?;
    tokenizer.with_model(model);
    Ok(())
}

/// Writes a value as indented JSON.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).context(|| format!("cannot write {}", path.display()))?;
    text.push(b'\n');
    write_atomic(path, &text)
}

/// The largest file that is read; that of a vocabulary of a million tokens has less than half.
const LARGEST_FILE: u64 = 256 << 20;

/// The bytes of a file, unless there are too many.
pub(crate) fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("cannot read {}", path.display());
    let size = std::fs::metadata(path).context(what)?.len();
    if size > LARGEST_FILE {
        let limit = LARGEST_FILE >> 20;
        return Err(Error::failed(format!("{} has {} MiB, more than {limit}", path.display(), size >> 20))
            .with_hint("this is no file of a tokenizer: is it the weights?"));
    }
    std::fs::read(path).context(what)
}

pub(crate) fn read_limited_text(path: &Path) -> Result<String> {
    let bytes = read_limited(path)?;
    String::from_utf8(bytes).map_err(|e| Error::failed(format!("{} is no UTF-8 text", path.display())).with_source(e))
}

fn missing(file: &Path) -> Error {
    Error::failed(format!("cannot read the tokenizer {}: there is no such file", file.display())).with_hint(
        "a tokenizer is a folder with tokenizer.json (or vocab.json and merges.txt, vocab.txt, tokenizer.model, \
         spiece.model), or such a file itself",
    )
}

fn side_files(dir: &Path) -> Result<SideFiles> {
    Ok(SideFiles {
        tokenizer_config: read_object(&dir.join("tokenizer_config.json"))?,
        special_tokens_map: read_object(&dir.join("special_tokens_map.json"))?,
        generation_config: read_object(&dir.join("generation_config.json"))?,
        config: read_object(&dir.join("config.json"))?,
    })
}

/// The object in a JSON file; an empty one when there is no such file.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.exists() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&read_limited(path)?).context(|| format!("{} is no JSON object", path.display()))
}

/// The chat templates: in `tokenizer_config.json` a text or a list of named ones; `chat_template.jinja` and the files in
/// `additional_chat_templates/` go before.
fn templates(config: &Map<String, Value>, dir: &Path) -> Result<TemplateSources> {
    let mut found = TemplateSources::default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match config.get("chat_template") {
        Some(Value::Array(list)) => {
            for entry in list {
                if let (Some(name), Some(template)) = (text(&entry["name"]), text(&entry["template"])) {
                    found.set(&name, template);
                }
            }
        }
        Some(value) => found.default = text(value),
        None => {}
    }
    if let Ok(entries) = std::fs::read_dir(dir.join("additional_chat_templates")) {
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "jinja")) {
            let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            found.set(name, read_limited_text(file)?);
        }
    }
    let file = dir.join("chat_template.jinja");
    if file.exists() {
        found.default = Some(read_limited_text(&file)?);
    }
    if found.default.is_none() && !found.named.is_empty() {
        found.default = Some(found.named[0].1.clone());
    }
    Ok(found)
}
