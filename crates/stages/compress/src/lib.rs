//! Compression: a smaller model of the same kind, and what it costs in quality and gains in speed.
//!
//! | file | what it holds |
//! |---|---|
//! | `stage` | the settings, the plan, the run |
//! | `method` | what a method is |
//! | `methods/` | the methods, one file each |
//! | `measure` | size, speed, perplexity, the largest error of a weight |

mod measure;
mod method;
mod methods;
mod stage;

pub use method::{Method, MethodKind};
pub use stage::CompressStage;

/// Every method. A new one is a file in `methods/` and a line here.
pub const ALL: &[&dyn MethodKind] = &[&methods::int8::Kind];
