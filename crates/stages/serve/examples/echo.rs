//! The server and its page without a model: `cargo run -p cupola-serve --example echo -- 8000 [KEY]`.
//! Every message is echoed; one with `SLOW` in it is answered without end, one with `FAIL` fails.
#![allow(clippy::unwrap_used, reason = "an example may end with a panic")]

#[path = "../tests/server/common.rs"]
mod common;

use std::sync::Arc;
use std::time::Duration;

use cupola_serve::{Secret, ServeConfig, Server, router};

fn main() -> cupola_artifact::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().map_or(8000, |port| port.parse().unwrap());
    let api_key = arguments.next().map(Secret::new);
    let config = ServeConfig { port, api_key, ..ServeConfig::default() };
    let mut echo = common::Echo::new(true);
    echo.delay = Duration::from_millis(40);
    Server::bind(&config)?.run(router(Arc::new(echo), &config, common::MODEL), std::future::pending())
}
