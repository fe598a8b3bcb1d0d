//! Collecting from servers on loopback.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

mod crawl;
mod files;
mod hub;
mod server;

use std::path::Path;

use cupola_artifact::stage::Silent;
use cupola_artifact::{Error, Result, parse_config};

use super::{Collection, Environment, collect};
use crate::config::DataConfig;

/// Collects what a recipe names into the folder `cache` beside it.
fn collected(dir: &Path, hub: &str, settings: &str) -> Result<Collection> {
    let config: DataConfig = parse_config("data", format!("cache = \"cache\"\n{settings}").parse().unwrap())?;
    config.steps()?;
    let token = (!hub.is_empty()).then(|| "secret".to_owned());
    let environment = Environment { hub: hub.to_owned(), hub_token: token, pause: 0.001 };
    collect(&config, dir, &environment, &Silent)
}

fn fails(dir: &Path, hub: &str, settings: &str) -> Error {
    collected(dir, hub, settings).map(|_| ()).unwrap_err()
}

/// The content of the only file of the first source.
fn content(collection: &Collection) -> Vec<u8> {
    let [file] = collection.files[0].as_deref().unwrap() else { panic!("not one file: {collection:?}") };
    std::fs::read(&file.path).unwrap()
}
