//! The stage `align`: direct preference optimization of a model against itself as it was.

mod loss;
mod losses;
mod objective;
mod records;
mod stage;

pub use loss::{ALL, LossSettings, PairLogps, PairLoss};
pub use objective::{Alignment, Pair, ScoredPair, reference_logps};
pub use records::{Preference, read_preference};
pub use stage::AlignStage;
