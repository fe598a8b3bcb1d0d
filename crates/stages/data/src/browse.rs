//! Looking through the kept and the dropped documents of a data artifact.

use std::path::Path;

use cupola_artifact::{Context, Error, Result};
use cupola_records::{Document, TRAIN_FILE, VALIDATION_FILE, read_records};
use serde::de::DeserializeOwned;

use crate::pipeline::{DROPPED_FILE, Dropped};

/// Which documents are looked at; a condition that is not set holds for all.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only kept (`true`) or only dropped ones.
    pub kept: Option<bool>,
    /// Only those that this step dropped.
    pub step: Option<String>,
    /// Only those that were dropped for this reason.
    pub reason: Option<String>,
    /// Only those of files whose name has this in it.
    pub source: Option<String>,
    /// Only those whose text or id has this in it, whatever the case.
    pub find: Option<String>,
}

/// A document and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub id: String,
    /// The file it came from.
    pub source: String,
    /// `kept: train`, or `dropped by STEP: REASON`.
    pub verdict: String,
    /// Its text, as kept or as it was when it was dropped.
    pub text: String,
}

/// The documents of a data artifact, dropped ones first, one after the other; a folder that is none is an error.
pub fn browse(dir: &Path, wanted: &Wanted) -> Result<impl Iterator<Item = Result<Seen>> + use<>> {
    if !dir.join(TRAIN_FILE).is_file() {
        return Err(Error::usage(format!("{} is no data artifact: it has no {TRAIN_FILE}", dir.display())).with_hint(
            "give the folder that `cupola data` or `cupola run` wrote, e.g. `runs/data-corpus/data.corpus`",
        ));
    }
    let only_dropped = wanted.step.is_some() || wanted.reason.is_some();
    let mut chosen = Vec::new();
    if wanted.kept != Some(true) {
        chosen.push((DROPPED_FILE, None));
    }
    if wanted.kept != Some(false) && !only_dropped {
        chosen.extend([(TRAIN_FILE, Some("kept: train")), (VALIDATION_FILE, Some("kept: validation"))]);
    }
    let mut documents: Vec<Box<dyn Iterator<Item = Result<Seen>>>> = Vec::new();
    for (file, kept) in chosen {
        let path = dir.join(file);
        if !path.is_file() {
            continue;
        }
        documents.push(match kept {
            Some(verdict) => Box::new(lines::<Document>(&path)?.map(move |document| {
                let Document { id, source, text, .. } = document?;
                Ok(Seen { id, source, verdict: verdict.to_owned(), text })
            })),
            None => {
                let (step, reason) = (wanted.step.clone(), wanted.reason.clone());
                let fits = move |dropped: &Dropped| {
                    step.as_ref().is_none_or(|step| *step == dropped.step)
                        && reason.as_ref().is_none_or(|reason| *reason == dropped.reason)
                };
                Box::new(lines::<Dropped>(&path)?.filter(move |d| d.as_ref().map_or(true, &fits)).map(|dropped| {
                    let Dropped { id, source, step, reason, text, .. } = dropped?;
                    Ok(Seen { id, source, verdict: format!("dropped by {step}: {reason}"), text })
                }))
            }
        });
    }
    let (source, find) = (wanted.source.clone(), wanted.find.as_ref().map(|find| find.to_lowercase()));
    let fits = move |seen: &Seen| {
        source.as_ref().is_none_or(|source| seen.source.contains(source.as_str()))
            && find.as_ref().is_none_or(|find| [&seen.id, &seen.text].iter().any(|t| t.to_lowercase().contains(find)))
    };
    Ok(documents.into_iter().flatten().filter(move |seen| seen.as_ref().map_or(true, &fits)))
}

fn lines<T: DeserializeOwned>(path: &Path) -> Result<impl Iterator<Item = Result<T>> + use<T>> {
    let name = path.display().to_string();
    Ok(read_records(path)?.map(move |record| {
        let record = record?;
        serde_json::from_value(record.value).context(|| format!("{name}: line {} cannot be read", record.line))
    }))
}
