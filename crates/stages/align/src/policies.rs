//! Losses on the policy's own answers, a file each.

pub mod cispo;
pub mod clipped;
pub mod sapo;
pub mod sequence;
