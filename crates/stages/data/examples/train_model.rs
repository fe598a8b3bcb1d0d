//! Trains what the steps `classifier` and `perplexity` read, and writes it to a file.
//!
//!     train_model classifier SETTINGS.toml OUT     SETTINGS has the step's `train`: samples, features, learning
//!     train_model perplexity SETTINGS.toml OUT     SETTINGS has the step's settings with `train`
//!
//! Files in SETTINGS are relative to its folder.

use std::path::Path;

use cupola_artifact::Context as _;
use cupola_artifact::{Error, Result, parse_config, parse_toml, write_atomic};
use cupola_data::{ClassifierTraining, NgramModel, Perplexity, Setting};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, settings, out] = args.as_slice() else {
        return Err(Error::usage("usage: train_model classifier|perplexity SETTINGS.toml OUT"));
    };
    let table = parse_toml(Path::new(settings))?;
    let recipe_dir = Path::new(settings).parent().unwrap_or(Path::new("."));
    let setting = Setting { recipe_dir, seed: 0 };
    let bytes = match what.as_str() {
        "classifier" => parse_config::<ClassifierTraining>("train", table)?.run(&setting)?.to_bytes()?,
        "perplexity" => {
            let step: Perplexity = parse_config("perplexity", table)?;
            NgramModel::train(&step.sample(&setting)?, step.order)?.to_bytes()?
        }
        other => return Err(Error::usage(format!("there is no kind of model `{other}`"))),
    };
    write_atomic(Path::new(out), &bytes).context(|| format!("cannot write {out}"))
}
