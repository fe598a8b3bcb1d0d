//! An engine for tests: everything in memory, in the plainest way.

use cupola_artifact::Result;
use cupola_records::Document;
use serde::de::DeserializeOwned;

use crate::step::{Across, Decision, Key, Keys, Notes, Place, Setting, Sketches, Verdict};

/// A step with settings in TOML, ready to work.
pub fn step<T: Across + DeserializeOwned>(settings: &str) -> T {
    let mut step: T = toml::from_str(settings).expect("settings");
    step.validate().expect("settings that hold");
    step.prepare(&Setting { recipe_dir: std::path::Path::new("."), seed: 0 }).expect("a step");
    step
}

/// Documents with these texts.
pub fn documents(texts: &[impl AsRef<str>]) -> Vec<Document> {
    texts.iter().enumerate().map(|(i, text)| Document::new(i.to_string(), text.as_ref(), "test")).collect()
}

/// What the step leaves of documents; `None` of those that it drops.
pub fn run(step: &dyn Across, documents: &[Document]) -> Vec<Option<Document>> {
    let mut keys: Vec<Key> = Vec::new();
    let mut kept = Remembered(Vec::new());
    for (place, document) in documents.iter().enumerate() {
        let mut found = Keys::default();
        step.keys(document, place as Place, &mut found);
        keys.extend(found.keys);
        kept.0.push(found.sketch);
    }
    keys.sort_unstable();
    let mut decisions = Vec::new();
    for group in keys.chunk_by(|a, b| a.hash == b.hash && a.check == b.check).filter(|group| group.len() > 1) {
        step.group(group, &kept, &mut decisions).expect("a judgement");
    }
    let mut decisions = step.finish(decisions);
    decisions.sort_unstable();
    decisions.dedup();
    let apply = |(place, document): (usize, &Document)| {
        let about: Vec<Decision> = decisions.iter().filter(|d| d.place == place as Place).copied().collect();
        let mut document = document.clone();
        let keep = about.is_empty() || step.apply(&mut document, &about, &mut Notes::default()) == Verdict::Keep;
        keep.then_some(document)
    };
    documents.iter().enumerate().map(apply).collect()
}

/// Which of the texts the step drops.
pub fn dropped(step: &dyn Across, texts: &[impl AsRef<str>]) -> Vec<usize> {
    let after = run(step, &documents(texts));
    (0..after.len()).filter(|i| after[*i].is_none()).collect()
}

/// What the step leaves of texts; those that it drops are empty.
pub fn texts(step: &dyn Across, texts: &[impl AsRef<str>]) -> Vec<String> {
    run(step, &documents(texts)).into_iter().map(|document| document.map_or(String::new(), |d| d.text)).collect()
}

struct Remembered(Vec<Vec<u8>>);

impl Sketches for Remembered {
    fn sketch(&self, place: Place) -> Result<Vec<u8>> {
        Ok(self.0[place as usize].clone())
    }
}
