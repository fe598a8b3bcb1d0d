//! Serving: an OpenAI-style HTTP API over the generation engine, a page to chat on, and metrics.
//!
//! | file | what it holds |
//! |---|---|
//! | `server` | binding, running, shutting down |
//! | `routes` | the routes, the API key, counting |
//! | `reading` | the routes over an encoder |
//! | `request`, `fields`, `parameters`, `body` | reading requests, every error by name |
//! | `job`, `answer` | sequences under way, and the answers made of them |
//! | `stage`, `client` | the `serve` stage, which tries the server out |

mod answer;
mod api_error;
mod backend;
mod base64;
mod beams;
mod body;
mod client;
mod config;
mod fields;
mod interrupt;
mod job;
mod logprobs;
mod metrics;
mod page;
mod parameters;
mod reading;
mod request;
mod resolve;
mod routes;
mod sampling;
mod server;
mod stage;

pub use backend::Backend;
pub use client::Trial;
pub use config::{API_KEY_VARIABLE, Secret, ServeConfig};
pub use interrupt::catch_interrupts;
pub use reading::reading_router;
pub use resolve::{model_name, resolve_model};
pub use routes::router;
pub use server::{Handle, Server, serve};
pub use stage::{ServeStage, try_out};
