//! The stages this program knows, in the order of the life cycle.

use cupola_artifact::stage::Stage;

/// Every stage kind; a new one is a crate and a line here.
pub const ALL: &[&dyn Stage] = &[
    &cupola_data::DataStage,
    &cupola_tokenizer::TokenizerStage,
    &cupola_tokenizer::pack::PackStage,
    &cupola_pretrain::PretrainStage,
    &cupola_tune::TuneStage,
    &cupola_align::AlignStage,
    &cupola_memory::MemoryStage,
    &cupola_eval::EvalStage,
    &cupola_compress::CompressStage,
    &cupola_serve::ServeStage,
];
