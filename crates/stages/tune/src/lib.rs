//! The stage `tune`: supervised fine-tuning on conversations, with the loss on the assistant's tokens only.

mod objective;
mod stage;

pub use objective::Tuning;
pub use stage::TuneStage;
