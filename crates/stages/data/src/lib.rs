//! The data stage: from files of any kind to clean training and validation documents.
mod step;
mod steps;
pub use step::{
    ANY_SIZE, Across, Decision, Each, Key, Keys, Kind, Notes, Place, Setting, Sketches, Step, Verdict, Work, by_name,
};
pub use steps::ALL as STEPS;
pub use steps::{HITS, hit_items};
