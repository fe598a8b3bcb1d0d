//! The data stage: from files of any kind to clean training and validation documents.
//!
//! A pipeline is a list of steps ([`STEPS`]); each is a pure function of a document, or of documents that share a key. The
//! engine (`pipeline`) streams documents through them. Order is kept, every dropped document is counted under the reason
//! that dropped it, and the result does not depend on the number of threads or on interruptions.

mod browse;
mod collect;
mod config;
mod pipeline;
mod plan;
mod report;
mod report_page;
mod stage;
mod step;
mod steps;

pub use browse::{Seen, Wanted, browse};
pub use collect::crawl::CrawlSource;
pub use collect::{CollectedFile, CollectedSource, MAX_FILE_BYTES, default_cache};
pub use config::{DataConfig, KeepDropped, OnError, Source, SourceTable, SplitRule, StepSetting};
pub use pipeline::{CONTAMINATION_FILE, DROPPED_FILE, Dropped};
pub use stage::DataStage;
pub use step::{
    ANY_SIZE, Across, Became, Decision, Each, Key, Keys, Kind, Many, Notes, Place, Setting, Sketches, Step, Verdict,
    Work, by_name,
};
pub use steps::{ALL as STEPS, ClassifierTraining, LinearClassifier, NgramModel, Perplexity};
pub use steps::{HITS, hit_items, privacy_kinds};
