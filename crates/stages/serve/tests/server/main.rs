//! The server over HTTP. One program, since every test program links the whole engine.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod chat;
mod common;
mod completions;
mod connections;
mod encoders;
mod openai_client;
mod real_model;
mod refusals;
mod trial;
