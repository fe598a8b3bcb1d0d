//! What the tests of training share.
#![allow(clippy::unwrap_used, dead_code, reason = "tests; not each file uses all")]

use std::path::Path;

use cupola_artifact::Result;
use cupola_artifact::stage::{Input, Progress, Report, Stage, StageContext};
use cupola_tokenizer::{Tokenizer, TokenizerStage};

/// Text with words that share parts, of which some come from several merges.
pub fn corpus(words: usize) -> String {
    const PARTS: [&str; 16] =
        ["the", "re", "in", "ing", "er", "an", "on", "ther", "hand", "st", "ea", "th", "ou", "ght", "é", "12"];
    let mut state = 7u64;
    let mut next = move |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % n
    };
    let mut text = String::new();
    for i in 0..words {
        for _ in 0..=next(3) {
            // The smaller of two draws: some parts are frequent, some rare, as words are.
            text.push_str(PARTS[next(16).min(next(16))]);
        }
        text.push_str(if i % 12 == 11 { ".\n" } else { " " });
    }
    text
}

pub fn file_of(tokenizer: &Tokenizer) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    std::fs::read(dir.path().join("tokenizer.json")).unwrap()
}

pub fn rayon_pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

pub fn run(settings: &str, inputs: &[(&str, &Path)], dir: &Path, progress: &dyn Progress) -> Result<Report> {
    let stage = TokenizerStage.configure(settings.parse().unwrap())?;
    let inputs: Vec<Input> = inputs
        .iter()
        .map(|(key, path)| Input { key: (*key).into(), reference: "x".into(), path: path.to_path_buf(), kind: None })
        .collect();
    let context = StageContext {
        name: "bpe",
        dir,
        work: dir,
        recipe_dir: dir,
        inputs: &inputs,
        device: "cpu",
        seed: 0,
        progress,
    };
    stage.run(&context)
}
