//! The methods.

pub mod int8;
