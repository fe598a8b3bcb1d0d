//! Reading and writing a tokenizer's files.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use cupola_artifact::{Context, Error, Result, write_atomic};
use serde_json::{Map, Value, json};

use crate::special::{SideFiles, SpecialIds};
use crate::template::ChatTemplate;
use crate::tokenizer::{Inner, Tokenizer};
use crate::validate::{check_added, check_model};

impl Tokenizer {
    /// Reads a folder with `tokenizer.json` (or GPT-2's `vocab.json` and `merges.txt`), or the file `tokenizer.json`
    /// itself, and what lies beside it: `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja`,
    /// `generation_config.json`, `config.json`. Of a GGUF file, what its metadata says.
    pub fn load(dir: &Path) -> Result<Self> {
        if dir.is_file() && dir.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            return Self::load_gguf(dir);
        }
        let beside = if dir.is_file() { dir.parent().unwrap_or(Path::new(".")) } else { dir };
        let file = if dir.is_file() { dir.to_path_buf() } else { dir.join("tokenizer.json") };
        let json = if !file.exists() && dir.join("vocab.json").exists() && dir.join("merges.txt").exists() {
            gpt2_json(dir)?
        } else {
            std::fs::read(&file).map_err(|e| missing(&file, e))?
        };
        let files = side_files(beside)?;
        let template = template_source(&files.tokenizer_config, beside)?;
        Self::build(json, files, template).map_err(|e| e.wrap(format!("cannot load the tokenizer {}", file.display())))
    }

    /// Makes a tokenizer from the text of `tokenizer.json` and its settings.
    pub(crate) fn build(json: Vec<u8>, files: SideFiles, template: Option<String>) -> Result<Self> {
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
        special.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        special.with_padding(None);
        special.with_truncation(None).context(|| "cannot switch off truncation".to_owned())?;
        special.set_encode_special_tokens(false);
        let mut plain = special.clone();
        plain.set_encode_special_tokens(true);
        let ids = SpecialIds::find(&special, &files, template.as_deref());
        let name = |role: &str, id: Option<u32>| -> Option<String> {
            let given = files.tokenizer_config.get(&format!("{role}_token")).and_then(crate::special::token_text);
            given.map(str::to_owned).or_else(|| special.id_to_token(id?))
        };
        let template =
            template.map(|source| ChatTemplate::new(source, name("bos", ids.bos), name("eos", ids.eos))).transpose()?;
        Ok(Self(Arc::new(Inner {
            vocab_size: special.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1),
            byte_level: matches!(special.get_decoder(), Some(tokenizers::DecoderWrapper::ByteLevel(_))),
            plain,
            special,
            guarded: OnceLock::new(),
            json,
            config: files.tokenizer_config,
            ids,
            template,
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
        Self::build(self.0.json.clone(), files, Some(template))
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
            config.insert("chat_template".to_owned(), json!(template));
        }
        let mut map = Map::new();
        for (role, id) in [("bos_token", self.bos()), ("eos_token", self.eos()), ("pad_token", self.pad())] {
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

/// Writes a value as indented JSON.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).context(|| format!("cannot write {}", path.display()))?;
    text.push(b'\n');
    write_atomic(path, &text)
}

fn missing(file: &Path, error: std::io::Error) -> Error {
    let absent = error.kind() == std::io::ErrorKind::NotFound;
    let error = Error::failed(format!("cannot read the tokenizer {}", file.display())).with_source(error);
    if absent { error.with_hint("a tokenizer is a folder with tokenizer.json, or that file itself") } else { error }
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
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(e) => return Err(Error::failed(format!("cannot read {}", path.display())).with_source(e)),
    };
    serde_json::from_slice(&bytes).context(|| format!("{} is no JSON object", path.display()))
}

/// The chat template: `chat_template.jinja`, or the setting in `tokenizer_config.json`, which is a text or a list of
/// named ones of which `default` is taken.
fn template_source(config: &Map<String, Value>, dir: &Path) -> Result<Option<String>> {
    let file = dir.join("chat_template.jinja");
    if file.exists() {
        let text = std::fs::read_to_string(&file).context(|| format!("cannot read {}", file.display()))?;
        return Ok(Some(text));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(match config.get("chat_template") {
        Some(Value::Array(list)) => {
            let chosen = list.iter().find(|t| t["name"] == "default").or(list.first());
            chosen.and_then(|t| text(&t["template"]))
        }
        Some(value) => text(value),
        None => None,
    })
}

/// The `tokenizer.json` for GPT-2's two files.
fn gpt2_json(dir: &Path) -> Result<Vec<u8>> {
    let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
    let what = || format!("cannot read {} and {}", vocab.display(), merges.display());
    let vocab: Map<String, Value> = read_object(&vocab)?;
    let merges = std::fs::read_to_string(&merges).context(what)?;
    let merges: Vec<&str> = merges.lines().filter(|l| !l.starts_with("#version") && !l.is_empty()).collect();
    let end = "<|endoftext|>";
    let added: Vec<Value> = vocab
        .get(end)
        .map(|id| {
            json!({ "id": id, "content": end, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .into_iter()
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let root = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocab, "merges": merges },
    });
    serde_json::to_vec(&root).context(what)
}
