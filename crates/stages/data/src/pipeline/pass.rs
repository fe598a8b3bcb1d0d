//! One pass over the documents: the steps between two that need all documents of a part, or of all parts.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use cupola_artifact::{Error, Result};
use cupola_records::Document;

use super::emit::{Emitter, Emitting};
use super::groups::Decisions;
use super::part::{
    Description, Documents, Dropped, Lines, MAX_DOCUMENTS, PartId, Travelling, read_documents, write_file, write_keys,
};
use super::sources::Read;
use super::waiting::Waiting;
use crate::config::KeepDropped;
use crate::report::PartReport;
use crate::step::{ANY_SIZE, Across, Became, Decision, Each, Keys, Many, Notes, Step, Verdict, Work};

/// Documents of each reason that a part keeps as a sample of what was dropped.
const SAMPLES: u64 = 8;

/// Characters of a sampled document that are kept.
const SAMPLE_CHARACTERS: usize = 4000;

/// What a pass does with every document.
pub struct Pass<'a> {
    /// Where it writes its parts.
    pub dir: &'a Path,
    /// The step that compared the documents of the pass before, its number, and what it decided.
    pub decided: Option<(usize, &'a dyn Across, &'a Decisions)>,
    /// The step that makes documents of those of the pass before, its number, and how many wait at a time.
    pub many: Option<(usize, &'a dyn Many, Waiting)>,
    /// The steps that look at documents one at a time, with their numbers.
    pub each: Vec<(usize, &'a dyn Each)>,
    /// The step that will compare what is left.
    pub then: Option<&'a dyn Across>,
    /// Whether what is left has passed all steps, and has not been counted by a pass before.
    pub counts_kept: bool,
    /// In the last pass, where documents go.
    pub emit: Option<&'a Emitter>,
    /// All steps, for their names.
    pub steps: &'a [Step],
    /// Which dropped documents are kept.
    pub keep_dropped: KeepDropped,
}

impl Pass<'_> {
    /// Makes the part of a chunk of the sources.
    pub fn first(&self, id: PartId, chunk: Vec<Read>, last: bool) -> Result<()> {
        let mut part = Part::create(self, id)?;
        for read in chunk {
            match read {
                Read::Broken(source, reason, error) => {
                    part.report.read(&source, 0);
                    part.report.drop_for(&source, None, reason, 0);
                    part.dropped(&Document::new("", error, source), "read", reason)?;
                }
                Read::Skipped(counts) => part.report.skip(&counts),
                Read::Document(document) => {
                    let bytes = document.text.len().max(document.field("html").map_or(0, str::len)) as u64;
                    part.report.read(&document.source, bytes);
                    part.report.before.add(&document);
                    part.take(Travelling { bytes, document }, None)?;
                }
            }
        }
        part.finish(last)
    }

    /// Makes the part that follows one of the pass before; `done` is called for each document that a step has waited for.
    pub fn next(&self, id: PartId, before: &Path, last: bool, done: &(dyn Fn() + Sync)) -> Result<()> {
        let mut part = Part::create(self, id)?;
        if let Some((step, many, waiting)) = &self.many {
            let documents = read_documents(before, id)?.collect::<Result<Vec<Travelling>>>()?;
            return match part.made(*step, *many, waiting, documents, done)? {
                true => part.finish(last),
                // Another part's error stopped the run: this one is not complete.
                false => Ok(()),
            };
        }
        let decisions = match self.decided {
            Some((_, _, decisions)) => decisions.of_part(id)?,
            None => Vec::new(),
        };
        let mut at = 0;
        for (index, travelling) in read_documents(before, id)?.enumerate() {
            let place = id.place(index);
            let first = at;
            while decisions.get(at).is_some_and(|decision| decision.place == place) {
                at += 1;
            }
            part.take(travelling?, Some(&decisions[first..at]))?;
        }
        part.finish(last)
    }
}

/// A part under construction.
struct Part<'a, 'p> {
    pass: &'p Pass<'a>,
    id: PartId,
    report: PartReport,
    notes: Vec<Notes>,
    documents: Option<Documents>,
    emitted: Option<Emitting<'a>>,
    kept: usize,
    keys: Keys,
    /// Where each document's sketch ends among all.
    sketch_ends: Vec<u64>,
    dropped: Option<Lines>,
    /// Dropped documents so far, by reason.
    sampled: HashMap<String, u64>,
}

impl<'a, 'p> Part<'a, 'p> {
    fn create(pass: &'p Pass<'a>, id: PartId) -> Result<Self> {
        let emitted = pass.emit.map(|emit| emit.part(pass.dir, id)).transpose()?;
        let documents = match emitted {
            Some(_) => None,
            None => Some(Documents::create(pass.dir, id)?),
        };
        Ok(Self {
            pass,
            id,
            report: PartReport::default(),
            notes: vec![Notes::default(); pass.steps.len()],
            documents,
            emitted,
            kept: 0,
            keys: Keys::default(),
            sketch_ends: Vec::new(),
            dropped: None,
            sampled: HashMap::new(),
        })
    }

    /// Takes a document through the steps of the pass.
    fn take(&mut self, mut travelling: Travelling, decisions: Option<&[Decision]>) -> Result<()> {
        let pass = self.pass;
        let bytes = travelling.bytes;
        if let Some((step, across, _)) = pass.decided
            && let Some(decisions) = decisions
        {
            self.report.steps.entry(step).or_default().came.add(bytes);
            if !decisions.is_empty() {
                let verdict = guarded(&mut travelling.document, |document| {
                    across.apply(document, decisions, &mut self.notes[step])
                });
                if self.is_dropped(verdict, step, &travelling)? {
                    return Ok(());
                }
            }
        }
        self.go_on(travelling)
    }

    /// Makes documents of others and takes both through the pass's further steps; whether it came to the end.
    fn made(
        &mut self,
        step: usize,
        many: &dyn Many,
        waiting: &Waiting,
        mut documents: Vec<Travelling>,
        done: &(dyn Fn() + Sync),
    ) -> Result<bool> {
        let results = waiting.each(&mut documents, |travelling| {
            let mut notes = Notes::default();
            let mut became = Ok(Became { verdict: Verdict::Keep, made: Vec::new() });
            let verdict = guarded(&mut travelling.document, |document| {
                became = many.apply(document, &mut notes);
                Verdict::Keep
            });
            done();
            match verdict {
                Verdict::Keep => became.map(|became| (became, notes)),
                broken => Ok((Became { verdict: broken, made: Vec::new() }, notes)),
            }
        })?;
        if results.len() < documents.len() {
            return Ok(false);
        }
        for (travelling, (became, notes)) in documents.into_iter().zip(results) {
            self.notes[step].append(&notes);
            self.report.steps.entry(step).or_default().came.add(travelling.bytes);
            if !self.is_dropped(became.verdict, step, &travelling)? {
                self.go_on(travelling)?;
            }
            for (document, verdict) in became.made {
                let travelling = Travelling { bytes: document.text.len() as u64, document };
                self.report.made(&travelling.document.source, step, travelling.bytes);
                if !self.is_dropped(verdict, step, &travelling)? {
                    self.go_on(travelling)?;
                }
            }
        }
        Ok(true)
    }

    /// Takes a document through the steps that look at documents one at a time.
    fn go_on(&mut self, mut travelling: Travelling) -> Result<()> {
        let (pass, bytes) = (self.pass, travelling.bytes);
        for (step, each) in &pass.each {
            self.report.steps.entry(*step).or_default().came.add(bytes);
            let verdict = guarded(&mut travelling.document, |document| each.apply(document, &mut self.notes[*step]));
            if self.is_dropped(verdict, *step, &travelling)? {
                return Ok(());
            }
        }
        self.keep(&travelling)
    }

    fn is_dropped(&mut self, verdict: Verdict, step: usize, travelling: &Travelling) -> Result<bool> {
        let name = self.pass.steps[step].kind.name;
        let document = &travelling.document;
        match verdict {
            Verdict::Keep => return Ok(false),
            Verdict::Drop(reason) => {
                self.report.drop_for(&document.source, Some(step), reason, travelling.bytes);
                self.dropped(document, name, reason)?;
            }
            Verdict::SetAside(error) => {
                self.report.drop_for(&document.source, Some(step), "set_aside", travelling.bytes);
                let told = Document { text: format!("{error}\n\n{}", document.text), ..document.clone() };
                self.dropped(&told, name, "set_aside")?;
            }
        }
        Ok(true)
    }

    fn keep(&mut self, travelling: &Travelling) -> Result<()> {
        let document = &travelling.document;
        if self.pass.counts_kept {
            self.report.keep(document, travelling.bytes);
        }
        if let Some(then) = self.pass.then {
            let place = self.id.place(self.kept);
            then.keys(document, place, &mut self.keys);
            self.sketch_ends.push(self.keys.sketch.len() as u64);
            let expected = then.sketch_bytes().saturating_mul(self.kept + 1);
            if then.sketch_bytes() != ANY_SIZE && self.keys.sketch.len() != expected {
                return Err(Error::failed(format!("a sketch of {} has not {expected} bytes", document.id)));
            }
        }
        self.kept += 1;
        if self.kept > MAX_DOCUMENTS {
            return Err(Error::failed(format!("more than {MAX_DOCUMENTS} documents are made in a part"))
                .with_hint("make fewer documents of each"));
        }
        match (&mut self.documents, &mut self.emitted) {
            (Some(documents), _) => documents.write(travelling),
            (None, Some(emitted)) => emitted.write(document),
            (None, None) => Ok(()),
        }
    }

    fn dropped(&mut self, document: &Document, step: &str, reason: &str) -> Result<()> {
        let whole = self.pass.keep_dropped == KeepDropped::All;
        if self.pass.keep_dropped == KeepDropped::None {
            return Ok(());
        }
        let sampled = self.sampled.entry(reason.to_owned()).or_default();
        *sampled += 1;
        if !whole && *sampled > SAMPLES {
            return Ok(());
        }
        if self.dropped.is_none() {
            self.dropped = Some(Lines::create(self.id.file(self.pass.dir, "dropped"))?);
        }
        let cut = document.text.char_indices().nth(SAMPLE_CHARACTERS).map_or(document.text.len(), |(at, _)| at);
        let mut fields = document.fields.clone();
        fields.remove("html");
        let dropped = Dropped {
            id: document.id.clone(),
            source: document.source.clone(),
            step: step.to_owned(),
            reason: reason.to_owned(),
            text: document.text[..if whole { document.text.len() } else { cut }].to_owned(),
            fields,
        };
        self.dropped.as_mut().map_or(Ok(()), |lines| lines.write(&dropped))
    }

    fn finish(mut self, last: bool) -> Result<()> {
        let dir = self.pass.dir;
        if let Some(documents) = self.documents.take() {
            documents.finish()?;
        }
        let emitted = self.emitted.take().map(Emitting::finish).transpose()?;
        if let Some(dropped) = self.dropped.take() {
            dropped.finish()?;
        }
        if let Some(then) = self.pass.then {
            write_keys(&self.id.file(dir, "keys"), &mut self.keys.keys)?;
            let file = self.id.file(dir, "sketch");
            match then.sketch_bytes() {
                0 => {}
                // Before sketches of any size stand the places where they begin and end.
                ANY_SIZE => {
                    let table = 8 * (self.sketch_ends.len() as u64 + 1);
                    let places = std::iter::once(table).chain(self.sketch_ends.iter().map(|end| table + end));
                    let mut bytes: Vec<u8> = places.flat_map(u64::to_le_bytes).collect();
                    bytes.append(&mut self.keys.sketch);
                    write_file(&file, &bytes)?;
                }
                _ => write_file(&file, &self.keys.sketch)?,
            }
        }
        let mut records = None;
        for (step, notes) in self.notes.iter().enumerate() {
            if !notes.counts().is_empty() {
                self.report.note(step, notes);
            }
            for (kind, record) in notes.records() {
                let lines = match &mut records {
                    Some(lines) => lines,
                    None => records.insert(Lines::create(self.id.file(dir, "records"))?),
                };
                lines.write(&(kind, record))?;
            }
        }
        records.map_or(Ok(()), Lines::finish)?;
        Description { last, documents: self.kept as u64, report: self.report, emitted }.write(dir, self.id)
    }
}

/// Runs a step on a document; a panic is what was wrong with the document.
fn guarded(document: &mut Document, step: impl FnOnce(&mut Document) -> Verdict) -> Verdict {
    let result = catch_unwind(AssertUnwindSafe(|| step(document)));
    result.unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Verdict::SetAside(format!("the step broke: {what}"))
    })
}

/// The steps of a pass, by their numbers.
#[derive(Debug, Default)]
pub struct Numbers {
    /// The step for which the pass before wrote its documents; none in the first pass.
    pub first: Option<usize>,
    /// The steps after it that look at documents one at a time.
    pub each: Vec<usize>,
}

/// The steps of a pipeline, divided into passes.
pub fn passes(steps: &[Step]) -> Vec<Numbers> {
    let mut passes = vec![Numbers::default()];
    for (i, step) in steps.iter().enumerate() {
        match (&step.work, passes.last_mut()) {
            (Work::Each(_), Some(pass)) => pass.each.push(i),
            _ => passes.push(Numbers { first: Some(i), each: Vec::new() }),
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_panics_sets_the_document_aside() {
        let mut document = Document::new("id", "text", "source");
        let verdict = guarded(&mut document, |document| {
            assert!(document.text.is_empty(), "it has {} bytes", document.text.len());
            Verdict::Keep
        });
        assert_eq!(verdict, Verdict::SetAside("the step broke: it has 4 bytes".into()));
        assert_eq!(guarded(&mut document, |_| Verdict::Keep), Verdict::Keep);
    }
}
