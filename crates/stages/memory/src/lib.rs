//! The stage `memory`: documents become pairs that a model looks up while it predicts (Khandelwal et al. 2020). Nothing is
//! trained, so a memory can grow at any time.
//!
//! | file | what it holds |
//! |---|---|
//! | `stage` | the settings, the plan, the run |
//! | `fill` | documents through the model, hidden states and the tokens after them out |

mod fill;
mod stage;

pub use stage::MemoryStage;
