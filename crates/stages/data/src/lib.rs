//! The data stage: from files of any kind to clean training and validation documents.
//!
//! read → normalize → filters → exact duplicates → near duplicates → split. Order is kept, every dropped document is
//! counted under the reason that dropped it, and the result does not depend on the number of threads.

mod config;
mod dedup;
mod filters;
mod ingest;
mod normalize;
mod plan;
mod report;
mod split;
mod stage;

pub use config::{DataConfig, DedupConfig, NormalizeConfig, OnError, SplitRule};
pub use dedup::{NearDuplicates, near_duplicates};
pub use filters::{ALL as FILTERS, Filter, Verdict};
pub use normalize::normalize;
pub use stage::DataStage;
