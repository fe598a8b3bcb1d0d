//! A memory outside a model: pairs of a hidden state and the token that followed it, read by nearest neighbours (Khandelwal
//! et al. 2020, Generalization through Memorization; Wu et al. 2022, Memorizing Transformers). It grows without training.
//!
//! | file | what it holds |
//! |---|---|
//! | `search` | the nearest keys of queries, exactly |
//! | `cells` | keys in cells around centroids, of which a query visits a few |
//! | `memory` | the pairs, their settings, their files |
//! | `readout` | the tokens of the nearest keys, mixed into a model's prediction |

mod cells;
mod memory;
mod readout;
mod search;

pub use cells::Cells;
pub use memory::{MEMORY, Memory, Settings};
pub use search::{Found, Keys};
