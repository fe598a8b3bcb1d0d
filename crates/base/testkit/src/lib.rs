//! What tests share: golden numbers made by other implementations, tolerances, tiny models, temporary folders.
//!
//! Every function panics when something is wrong: a test that cannot read its fixture has failed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "this crate is used by tests only, where a panic is the report"
)]

pub mod chat_server;
mod close;
mod golden;
mod page;
mod stages;
mod temp;
mod tiny;

pub use close::{assert_close, largest_error};
pub use golden::{Golden, fixture, fixture_or_skip};
pub use page::check_tables;
pub use stages::{KillAt, metric, run_stage};
pub use temp::TempDir;
pub use tiny::{CHAT_TEMPLATE, TinyModel, tiny_llama_dir, tiny_tokenizer_files};
