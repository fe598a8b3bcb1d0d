//! Records that become things to learn from: encoded, cut to the context, a part held out.

use cupola_artifact::stage::StageContext;
use cupola_artifact::{Error, Result};
use cupola_records::Record;
use cupola_tokenizer::{Message, Tokenizer};
use cupola_train::conversation::{Example, Fit, hold_out, prompt_key, read_all, with_system};
use cupola_train::finetune::FineTune;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::pairs::Pair;
use crate::records::read_preference;

/// One thing, the prompt that it is held out by, and whether it came through whole.
pub type Encoded<T> = (String, T, Fit);

/// What a data set has come to.
pub struct Gathered<T> {
    /// Records read.
    pub records: usize,
    /// Things that lost their end.
    pub truncated: usize,
    /// Things of which nothing is left to learn.
    pub dropped: usize,
    /// What is learned from.
    pub train: Vec<T>,
    /// What is held out.
    pub validation: Vec<T>,
}

/// A prompt with an answer as tokens, and whether it came through whole.
///
/// # Errors
/// As the chat template's; names the record's file and line.
pub fn encode_answer(
    tokenizer: &Tokenizer,
    record: &Record,
    (prompt, answer): (&[Message], &[Message]),
    max_len: usize,
) -> Result<(Example, Fit)> {
    let place = || format!("{}: line {}", record.source.display(), record.line);
    let mut example = Example::completion(tokenizer, prompt, answer).map_err(|e| e.wrap(place()))?;
    let fit = example.cut(max_len);
    Ok((example, fit))
}

/// The pair of a record. Two equal answers teach nothing.
///
/// # Errors
/// As [`read_preference`] and [`encode_answer`].
pub fn encode_pair(
    settings: &FineTune,
    tokenizer: &Tokenizer,
    record: &Record,
    max_len: usize,
) -> Result<Encoded<Pair>> {
    let preference = read_preference(record)?;
    let prompt = with_system(preference.prompt, settings.system.as_deref());
    let encode = |answer: &[Message]| encode_answer(tokenizer, record, (&prompt, answer), max_len);
    let ((chosen, first), (rejected, second)) = (encode(&preference.chosen)?, encode(&preference.rejected)?);
    let fit = match (first, second) {
        (Fit::Nothing, _) | (_, Fit::Nothing) => Fit::Nothing,
        _ if chosen == rejected => Fit::Nothing,
        (Fit::Cut, _) | (_, Fit::Cut) => Fit::Cut,
        _ => Fit::Whole,
    };
    Ok((prompt_key(&prompt), Pair { chosen, rejected }, fit))
}

impl<T: Send> Gathered<T> {
    /// Reads the stage's data; `encode` makes things of a record.
    ///
    /// # Errors
    /// What `encode` says; when nothing is left.
    pub fn read(
        settings: &FineTune,
        context: &StageContext<'_>,
        (things, max_len): (&str, usize),
        encode: impl Fn(&Record) -> Result<Vec<Encoded<T>>> + Sync,
    ) -> Result<Self> {
        let path = &context.input("data")?.path;
        let read = read_all(path)?;
        let encoded: Vec<Vec<Encoded<T>>> = read.par_iter().map(&encode).collect::<Result<_>>()?;
        let all: Vec<Encoded<T>> = encoded.into_iter().flatten().collect();
        let count = |fit: Fit| all.iter().filter(|(_, _, f)| *f == fit).count();
        let (of, truncated, dropped) = (all.len(), count(Fit::Cut), count(Fit::Nothing));
        if dropped == of {
            let place = path.display();
            return Err(Error::failed(format!(
                "none of the {things} in {place} has anything to learn within {max_len} tokens"
            ))
            .with_hint("raise `max_seq_len`, or use a model with a longer context"));
        }
        if truncated + dropped > 0 {
            context.progress.warn(&format!(
                "of {of} {things}, {truncated} lost the end of an answer (longer than {max_len} tokens), and {dropped} were left out: \
                 a whole answer was beyond that, or there was nothing to tell apart"
            ));
        }
        let kept =
            all.into_iter().filter(|(_, _, fit)| *fit != Fit::Nothing).map(|(key, thing, _)| (key, thing)).collect();
        let (train, validation) = hold_out(kept, settings.holdout, settings.validation_fraction);
        Ok(Self { records: read.len(), truncated, dropped, train, validation })
    }

    /// The counts, as a stage reports them; `things` names what they are of.
    pub fn report(&self, things: &str, metrics: &mut Map<String, Value>) {
        let held_out = format!("validation_{things}");
        for (name, n) in [
            ("records", self.records),
            (things, self.train.len()),
            (&held_out, self.validation.len()),
            ("truncated", self.truncated),
            ("dropped", self.dropped),
        ] {
            metrics.insert(name.to_owned(), json!(n));
        }
    }
}
