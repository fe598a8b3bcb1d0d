//! Duplicates: documents, or parts of them, that are there already. Of those that are equal the first stays.

pub mod exact;
mod minhash;
pub mod near;
