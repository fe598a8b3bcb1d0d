//! Learning a domain: plain text in, a model that goes on with such text out.

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, StageContext};
use cupola_artifact::{Error, Result, parse_config};
use cupola_generate::{document_start, load_to_change};
use cupola_nn::Decoder;
use cupola_ops::LossForm;
use cupola_records::{Document, Split, TRAIN_FILE, read_documents};
use cupola_tokenizer::Tokenizer;
use cupola_train::batching::Layout;
use cupola_train::conversation::{Example, hold_out};
use cupola_train::finetune::{FineTune, split_keys};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::sets::{Lesson, Set, learn};
use crate::stage::KIND;
use crate::task::TuneTask;

/// Continued pretraining on text, with some of what was learned before against forgetting.
pub struct Text;

/// The settings beside those of [`FineTune`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Own {
    /// Text of the old domain: a data stage, files or a folder. It is learned again, and measured on.
    replay: Option<String>,
    /// The share of what is learned that is replayed (Ibrahim et al. 2024, who take 0.05 for like domains and up to 0.5 for others).
    replay_share: f64,
}

impl Default for Own {
    fn default() -> Self {
        Self { replay: None, replay_share: 0.1 }
    }
}

struct Domain {
    own: Own,
    shared: FineTune,
}

/// The key under which the old domain is an input.
const REPLAY: &str = "replay";

impl TuneTask for Text {
    fn name(&self) -> &'static str {
        "text"
    }

    fn about(&self) -> &'static str {
        "plain text of a domain (continued pretraining), with replay of the old one"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let (own, shared) = split_keys(KIND, table, &["replay", "replay_share"])?;
        let given = own.contains_key("replay_share");
        let own: Own = parse_config(KIND, own)?;
        if !(0.0..1.0).contains(&own.replay_share) {
            return Err(Error::usage(format!("`replay_share` in [{KIND}] must be from 0 to below 1")));
        }
        if own.replay.is_none() && given {
            return Err(Error::usage(format!("`replay_share` in [{KIND}] says nothing without `replay`"))
                .with_hint("name text of the old domain: `replay = \"corpus\"`"));
        }
        let shared = FineTune::read(KIND, shared, 1.0)?;
        if shared.system.is_some() {
            return Err(Error::usage(format!("`system` in [{KIND}] is not for `task = \"text\"`")));
        }
        Ok(Box::new(Domain { own, shared }))
    }
}

impl Domain {
    /// Documents as pieces as long as the context, the first of each behind the token that begins a document.
    fn pieces(documents: &[Document], tokenizer: &Tokenizer, start: u32, max_len: usize) -> Result<Vec<Example>> {
        let cut = |document: &Document| {
            let ids = [&[start][..], &tokenizer.encode(&document.text)?].concat();
            // A piece begins with the last token of the one before, so that every token is predicted once.
            let begins = (0..ids.len().saturating_sub(1)).step_by(max_len);
            let piece = |from: usize| {
                let ids = ids[from..ids.len().min(from + max_len + 1)].to_vec();
                let learn = (0..ids.len()).map(|i| i > 0).collect();
                Example { ids, learn }
            };
            Ok(begins.map(piece).collect())
        };
        let all: Vec<Vec<Example>> = documents.par_iter().map(cut).collect::<Result<_>>()?;
        Ok(all.into_iter().flatten().collect())
    }

    fn set(&self, context: &StageContext<'_>, key: &str, tokenizer: &Tokenizer, decoder: &Decoder) -> Result<Set> {
        let (path, max_len) = (&context.input(key)?.path, self.shared.context_len(decoder.spec()));
        let read = read_documents(path, Split::Train)?;
        // A data stage has held out a part; of other text one is held out here.
        let (train, validation) = match path.join(TRAIN_FILE).is_file() {
            true => (read, read_documents(path, Split::Validation)?),
            false => {
                let keyed = read.into_iter().map(|document| (document.text.clone(), document)).collect();
                hold_out(keyed, self.shared.holdout, self.shared.validation_fraction)
            }
        };
        let start = document_start(decoder, tokenizer)?;
        let pieces = |documents: &[Document]| Self::pieces(documents, tokenizer, start, max_len);
        let (records, train, validation) = (train.len() + validation.len(), pieces(&train)?, pieces(&validation)?);
        match train.is_empty() {
            true => Err(Error::failed(format!("{} has no text to learn from", path.display()))
                .with_hint("name a data stage, or files with text")),
            false => Ok(Set { name: key.into(), records, truncated: 0, dropped: 0, train, validation, weight: 1.0 }),
        }
    }
}

impl Configured for Domain {
    fn references(&self) -> Vec<Reference> {
        let replay = self.own.replay.iter().map(|value| Reference { key: REPLAY, value: value.clone() });
        self.shared.references().into_iter().chain(replay).collect()
    }

    fn effective_config(&self) -> Value {
        let mut config = json!(self.shared);
        if let (Some(config), Value::Object(own)) = (config.as_object_mut(), json!(self.own)) {
            config.insert("task".into(), json!(Text.name()));
            config.extend(own);
        }
        config
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        Ok(self.shared.plan(inputs, 0.0))
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let device = cupola_ops::open(context.device)?;
        let (model, tokenizer) = load_to_change(&context.input("model")?.path, &device)?;
        let max_len = self.shared.context_len(model.decoder()?.spec());
        let mut sets = vec![self.set(context, "data", &tokenizer, model.decoder()?)?];
        if self.own.replay.is_some() {
            let mut replay = self.set(context, REPLAY, &tokenizer, model.decoder()?)?;
            // Of nothing replayed the old domain is still measured.
            replay.weight = self.own.replay_share / (1.0 - self.own.replay_share);
            sets.push(replay);
        }
        let lesson =
            Lesson { sets, things: "pieces of text", form: LossForm::default(), layout: Layout::Packed(max_len) };
        learn(&self.shared, context, (model, tokenizer), lesson)
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
