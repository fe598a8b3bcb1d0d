//! What a method of compression is.

use cupola_arch::Model;
use cupola_artifact::{Result, StateDict};
use serde_json::Value;

/// One way to make a model smaller.
pub trait MethodKind: Send + Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;

    /// One line of help.
    fn about(&self) -> &'static str;

    /// Reads the settings that only this method has; an empty table gives the defaults.
    fn configure(&self, section: &str, table: toml::Table) -> Result<Box<dyn Method>>;
}

/// A method with its settings.
pub trait Method: Send + Sync {
    /// The settings with their defaults filled in.
    fn settings(&self) -> Value;

    /// The result in a few words, for people.
    fn describe(&self) -> String;

    /// Bytes that a parameter takes afterwards, for plans.
    fn bytes_per_parameter(&self) -> f64;

    /// Changes the model.
    fn apply(&self, model: &mut Model) -> Result<()>;

    /// A weight of the compressed model as floats, by the name it had before.
    fn weight(&self, compressed: &StateDict, name: &str) -> Result<Vec<f32>>;
}
