//! What a stage `tune` teaches.

use cupola_artifact::Result;
use cupola_artifact::stage::Configured;

use crate::{conversations, labels, text};

/// Something to teach: the records that it reads, and what is learned of them.
pub trait TuneTask: Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;
    /// What is learned, in one line.
    fn about(&self) -> &'static str;
    /// Reads the stage's section, from which the task's name has been taken out.
    ///
    /// # Errors
    /// A wrong setting.
    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>>;
}

/// Every task, the default one first.
pub const ALL: &[&dyn TuneTask] = &[
    &conversations::Conversations,
    &text::Text,
    &labels::CLASSIFICATION,
    &labels::MULTI_LABEL,
    &labels::REGRESSION,
    &labels::TOKEN_CLASSIFICATION,
    &labels::QUESTION_ANSWERING,
];
