//! Records that become things to learn from: encoded, cut to the context, a part held out.

use cupola_artifact::stage::StageContext;
use cupola_artifact::{Error, Result};
use cupola_records::Record;
use cupola_train::conversation::{Fit, hold_out, read_all};
use cupola_train::finetune::FineTune;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

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
