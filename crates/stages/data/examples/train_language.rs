//! Makes the table by which the step `language` tells languages apart:
//!
//!     cargo run --release -p cupola-data --example train_language FOLDER src/steps/language/model.zst
//!
//! FOLDER holds a text per language, `en.txt` and so on (`bench/data/language_texts.py` gathers them). The table that comes with the program was made from the sentences that
//! the language models of lingua-rs are tested with (1.3.0, Apache-2.0, from news and web pages; 1,000 for each of 66
//! languages), for languages that those lack from the keywords of Unicode CLDR 48 (Unicode licence), and from
//! `src/steps/language/texts`, which were written for it.

#![expect(clippy::print_stderr, reason = "a tool that says what it made")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::Path;

#[path = "../src/steps/language/features.rs"]
mod features;

/// The most frequent features that are kept of each language.
const KEPT: usize = 3500;
/// The share of features that a language was not seen with.
const FLOOR: f64 = 1e-6;
/// How many steps of a stored weight are a nat.
const STEPS: f64 = 16.0;
/// Subtracted from each count: half of what was seen once would not be seen again.
const DISCOUNT: f64 = 0.5;
/// How often each of our own sentences counts: there are few, but of running text.
const OWN_WEIGHT: f64 = 8.0;
/// Languages with little text, the one with which they share most of their words, and the share of that mixed in.
const NEIGHBOURS: &[(&str, &str, f64)] = &[("bho", "hi", 0.5), ("pnb", "ur", 0.4), ("pcm", "en", 0.1)];

type Shares = HashMap<u32, f64>;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, out] = &arguments[..] else { return Err("usage: train_language FOLDER OUT".into()) };
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/steps/language/texts");
    let mut counts: BTreeMap<String, Shares> = BTreeMap::new();
    for (folder, weight) in [(Path::new(folder), 1.0), (own.as_path(), OWN_WEIGHT)] {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let language = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let counts = counts.entry(language).or_default();
            let text = std::fs::read_to_string(&path)?;
            features::features(&text, usize::MAX, |feature| *counts.entry(feature).or_default() += weight);
        }
    }
    let mut shares: BTreeMap<String, Shares> =
        counts.into_iter().map(|(name, counts)| (name, shares(&counts))).collect();
    for (language, neighbour, mixed) in NEIGHBOURS {
        let other = shares.get(*neighbour).cloned().unwrap_or_default();
        if let Some(shares) = shares.get_mut(*language) {
            shares.values_mut().for_each(|share| *share *= 1.0 - mixed);
            other.into_iter().for_each(|(feature, share)| *shares.entry(feature).or_default() += mixed * share);
        }
    }
    let table = table(&shares);
    let packed = zstd::bulk::compress(&table, 19)?;
    std::fs::write(out, &packed)?;
    eprintln!("{} languages, {} bytes, {} packed", shares.len(), table.len(), packed.len());
    Ok(())
}

fn shares(counts: &Shares) -> Shares {
    let total: f64 = counts.values().sum();
    let least = counts.values().copied().fold(f64::MAX, f64::min);
    counts.iter().map(|(feature, count)| (*feature, (count - DISCOUNT * least) / total)).collect()
}

/// Names in a line; the number of features; features; how many languages each has; language and weight of each.
fn table(shares: &BTreeMap<String, Shares>) -> Vec<u8> {
    let mut features: BTreeMap<u32, Vec<(u8, u8)>> = BTreeMap::new();
    for (language, shares) in shares.values().enumerate() {
        let mut kept: Vec<(u32, f64)> = shares.iter().map(|(feature, share)| (*feature, *share)).collect();
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for (feature, share) in kept.into_iter().take(KEPT) {
            let weight = ((share / FLOOR).ln() * STEPS).round().clamp(0.0, 255.0) as u8;
            if weight > 0 {
                features.entry(feature).or_default().push((language as u8, weight));
            }
        }
    }
    let names: Vec<&str> = shares.keys().map(String::as_str).collect();
    let mut table = format!("{}\n", names.join(" ")).into_bytes();
    table.extend((features.len() as u32).to_le_bytes());
    features.keys().for_each(|feature| table.extend(feature.to_le_bytes()));
    features.values().for_each(|weights| table.push(weights.len() as u8));
    features.values().flatten().for_each(|(language, weight)| table.extend([*language, *weight]));
    table
}
