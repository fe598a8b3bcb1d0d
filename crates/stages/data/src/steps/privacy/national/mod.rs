//! National identity numbers: a file per country, those of the European Union that share a form in [`union`].

pub mod china;
pub mod finland;
pub mod italy;
pub mod spain;
pub mod union;
pub mod usa;
