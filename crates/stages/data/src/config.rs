//! The settings of the data stage.

use cupola_artifact::{Error, Result, unknown_name};
use serde::{Deserialize, Serialize};

use crate::filters;

/// `[data.NAME]` in a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Files, folders and globs, relative to the recipe: `.txt` and `.md` (a document per file), `.jsonl`, `.ndjson` and
    /// `.json`, each also with `.gz` or `.zst`, and `.parquet`. Required.
    pub sources: Vec<String>,
    /// The field of a record that holds its text; a text file's only field is `text`.
    pub text_field: String,
    /// What to do with a record that is broken or has no text: stop (`fail`) or drop and count it (`skip`).
    pub on_error: OnError,
    /// What is made uniform in each text.
    pub normalize: NormalizeConfig,
    /// Quality filters by name, applied in this order. None by default: the published thresholds are made for web pages
    /// and would drop a whole book or play for its length alone.
    pub filters: Vec<String>,
    /// Which duplicates are removed.
    pub dedup: DedupConfig,
    /// How documents are divided into training and validation.
    pub split: SplitRule,
    /// The share that is held out: of the documents for `split = "hash"`, of the bytes for `"position"`; 0 holds out none.
    pub validation_fraction: f64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            text_field: "text".into(),
            on_error: OnError::Fail,
            normalize: NormalizeConfig::default(),
            filters: Vec::new(),
            dedup: DedupConfig::default(),
            split: SplitRule::Hash,
            validation_fraction: 0.1,
        }
    }
}

/// What to do with a broken record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Stop with its file, line and cause.
    Fail,
    /// Drop it and count it.
    Skip,
}

/// How documents are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitRule {
    /// By a hash of the text: a document stays on its side when others are added, removed or reordered.
    Hash,
    /// The end of the corpus, cut at the exact byte (in a single long text, through it).
    Position,
}

/// `normalize = { … }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NormalizeConfig {
    /// Unicode normalization form C: `e` + combining acute becomes `é`.
    pub nfc: bool,
    /// `\r\n` and lone `\r` become `\n`.
    pub line_ends: bool,
    /// Control characters (Unicode category Cc) other than `\n` and `\t` are removed.
    pub control: bool,
}

impl Default for NormalizeConfig {
    fn default() -> Self {
        Self { nfc: true, line_ends: true, control: true }
    }
}

/// `dedup = { … }`. With the defaults (5-word shingles, 14 bands of 8 rows, as in `FineWeb`, Penedo et al. 2024) two documents
/// of Jaccard similarity `s` become a candidate pair with probability `1 - (1 - s^8)^14`: 0.97 at 0.83, 0.36 at 0.65.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DedupConfig {
    /// Remove documents with the same text.
    pub exact: bool,
    /// Remove near duplicates, found by `MinHash` (Broder 1997) over word shingles.
    pub near: bool,
    /// Words per shingle.
    pub ngram: usize,
    /// Bands of the locality-sensitive hash; `bands * rows` is the number of permutations.
    pub bands: usize,
    /// Rows per band.
    pub rows: usize,
    /// A candidate pair counts as duplicate if its similarity, estimated from the signatures, is at least this, 0 to 1.
    /// The standard error of the estimate is `sqrt(s (1 - s) / (bands * rows))`, 0.04 at most by default. The default 0.7 is
    /// near the bands' own threshold, `(1 / bands)^(1 / rows)` = 0.72.
    pub threshold: f64,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self { exact: true, near: true, ngram: 5, bands: 14, rows: 8, threshold: 0.7 }
    }
}

impl DataConfig {
    /// Checks what the types leave open.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.sources.is_empty() {
            return Err(Error::usage("`sources` is missing in [data]")
                .with_hint("add `sources = [\"corpus/*.txt\"]`: files, folders or globs"));
        }
        self.filters.iter().try_for_each(|name| filters::by_name(name).map(|_| ()))?;
        if !(0.0..1.0).contains(&self.validation_fraction) {
            return Err(Error::usage(format!("`validation_fraction` is {}, not in [0, 1)", self.validation_fraction))
                .with_hint("0.1 holds out a tenth"));
        }
        let d = &self.dedup;
        let permutations = d.bands.saturating_mul(d.rows);
        if d.ngram == 0 || d.ngram > 1000 || permutations == 0 || permutations > 4096 {
            return Err(Error::usage(format!(
                "`dedup` has ngram {}, bands {}, rows {}: ngram must be 1 to 1,000, bands times rows 1 to 4,096",
                d.ngram, d.bands, d.rows
            ))
            .with_hint("the defaults are ngram = 5, bands = 14, rows = 8"));
        }
        if !(0.0..=1.0).contains(&d.threshold) {
            return Err(Error::usage(format!("`dedup.threshold` is {}, not in [0, 1]", d.threshold)));
        }
        Ok(())
    }
}

/// The error for a filter that does not exist.
pub(crate) fn unknown_filter(name: &str) -> Error {
    let known: Vec<&str> = filters::ALL.iter().map(|filter| filter.name()).collect();
    unknown_name(&format!("unknown filter `{name}` in `filters`"), name, "filter", &known)
}
