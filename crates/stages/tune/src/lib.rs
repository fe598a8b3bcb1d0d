//! The stage `tune`: supervised fine-tuning, on what the assistant says in conversations or on labels of texts.

mod conversations;
mod labelled;
mod labels;
mod scores;
mod sets;
mod stage;
pub mod task;
mod text;
mod tuning;

pub use stage::TuneStage;
pub use tuning::Tuning;
