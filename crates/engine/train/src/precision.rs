//! What training computes in, and what it keeps.

use cupola_ops::Precision;
use serde::{Deserialize, Serialize};

/// What matrix products multiply while a model is trained. Weights, gradients, optimizer state and sums are 32-bit floats
/// always (mixed precision, Micikevicius et al. 2018).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionSetting {
    /// The fastest of the processor.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// float16, scaled panel by panel: no loss scaling is needed.
    F16,
}

impl PrecisionSetting {
    /// The precision on this machine.
    pub fn resolve(self) -> Precision {
        match self {
            Self::Auto => Precision::fastest(),
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::F16 => Precision::F16,
        }
    }

    /// A line for people: the precision, and how it came about.
    pub fn rule(self) -> String {
        let name = self.resolve().name();
        match self {
            Self::Auto => format!("precision = {name} (the fastest of this processor)"),
            _ if self.resolve().is_native() => format!("precision = {name} (from the recipe)"),
            _ => format!(
                "precision = {name} (from the recipe; rounded, then multiplied as f32: this processor lacks it)"
            ),
        }
    }
}
