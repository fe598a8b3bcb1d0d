//! The ways of alignment.

use cupola_artifact::Result;
use cupola_artifact::stage::Configured;

/// A way of alignment: what it reads, and the loop that learns from it.
pub trait Algorithm: Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;
    /// One line of help.
    fn about(&self) -> &'static str;
    /// Reads the stage's section, from which the algorithm's name has been taken out.
    ///
    /// # Errors
    /// A wrong setting.
    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>>;
}

/// Every way, the default one first.
pub const ALL: &[&dyn Algorithm] = &[
    &crate::preference::Preference,
    &crate::reward_model::RewardModel,
    &crate::online::PPO,
    &crate::online::RLOO,
    &crate::online::REINFORCE_PP,
    &crate::online::GRPO,
];
