//! Layer-norm tuning (Zhao et al. 2024, "Tuning LayerNorm in Attention"): the norms alone are trained.

use cupola_artifact::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::targets::{EXCLUDE_MODULES, Selection, Targets};
use crate::adapters::{Adapter, AdapterKind, Field, Stands, object, settings};

/// What layer-norm tuning is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerNormSettings {
    target_modules: Option<Targets>,
    exclude_modules: Option<Targets>,
}

const FIELDS: &[Field] = &[
    Field {
        name: "target_modules",
        peft: "target_modules",
        about: "the norms, by names, ends of names or a regular expression; not set, all",
    },
    Field { name: "exclude_modules", peft: "exclude_modules", about: EXCLUDE_MODULES },
];

/// Layer-norm tuning.
pub struct LayerNormKind;

impl LayerNormKind {
    fn preset(&self) -> LayerNormSettings {
        LayerNormSettings { target_modules: None, exclude_modules: None }
    }
}

impl AdapterKind for LayerNormKind {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn peft_type(&self) -> &'static str {
        "LN_TUNING"
    }

    fn about(&self) -> &'static str {
        "trains the norms alone (Zhao et al. 2024)"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    settings!(LayerNormKind: LayerNormSettings);
}

impl LayerNormSettings {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Which norms.
    pub fn selection(&self) -> Selection {
        let (target_modules, exclude_modules) = (self.target_modules.clone(), self.exclude_modules.clone());
        Selection { target_modules, exclude_modules, layers: None }
    }
}

impl Adapter for LayerNormSettings {
    fn settings(&self) -> Map<String, Value> {
        object(self)
    }

    fn stands(&self) -> Stands<'_> {
        Stands::Norms(self)
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }
}
