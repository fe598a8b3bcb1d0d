//! Tokenizers in GGUF files.

use std::path::Path;

use cupola_artifact::{Context, Error, Result};
use cupola_gguf::{Gguf, Metadata, SpecialIds, TokenizerFiles, set_tokenizer, tokenizer_files};

use crate::special::SideFiles;
use crate::template::TemplateSources;
use crate::tokenizer::Tokenizer;

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    pub(crate) fn load_gguf(path: &Path) -> Result<Self> {
        let what = || format!("cannot load the tokenizer of {}", path.display());
        let file = Gguf::open(path)?;
        let files = tokenizer_files(file.metadata()).map_err(|e| e.wrap(what()))?;
        let TokenizerFiles { tokenizer, config } = files.ok_or_else(|| {
            Error::failed(format!("{} holds no tokenizer", path.display()))
                .with_hint("get the model's tokenizer.json, and export its folder again")
        })?;
        let template = config.get("chat_template").and_then(serde_json::Value::as_str).map(str::to_owned);
        let json = serde_json::to_vec(&tokenizer).context(what)?;
        let files = SideFiles { tokenizer_config: config, ..SideFiles::default() };
        Self::build(json, files, TemplateSources { default: template, ..Default::default() })
            .map_err(|e| e.wrap(what()))
    }

    /// Adds itself to a GGUF file's metadata; `rows` is the number of rows of the model's embedding.
    ///
    /// # Errors
    /// A tokenizer that llama.cpp would not apply as it is meant.
    pub fn set_gguf(&self, metadata: &mut Metadata, rows: usize) -> Result<()> {
        let json = serde_json::from_slice(&self.0.json).context(|| "tokenizer.json is no valid JSON".to_owned())?;
        let ids = SpecialIds { bos: self.bos(), eos: self.eos(), pad: self.pad() };
        set_tokenizer(metadata, &json, &ids, self.chat_template(), rows)
    }
}
