//! Which modules of a model an adapter stands at.

use cupola_artifact::{Error, Result};
use regex::Regex;
use serde::{Deserialize, Serialize};

/// The modules that a setting names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// By their names, or the ends of those (`q_proj`, `mlp.c_proj`).
    Named(Vec<String>),
    /// By a regular expression that a whole name fits; `all-linear` is every linear layer inside blocks.
    Pattern(String),
}

/// Which modules: those that are named, but those that are excluded, in some blocks or all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Those that are named; not given, the kind's own choice.
    pub target_modules: Option<Targets>,
    /// Those that are left out.
    pub exclude_modules: Option<Targets>,
    /// The numbers of the blocks; not given, all.
    pub layers: Option<Vec<usize>>,
}

/// What a kind of adapter stands at where nothing is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roles {
    /// Every linear layer inside blocks.
    All,
    /// Those that make keys and values, and those that narrow a feed-forward layer.
    KeysValuesDown,
}

/// What a kind with a [`Selection`] writes beside its other settings.
pub(crate) const TARGET_MODULES: &str = "the modules that get one: names or ends of names (`[\"q_proj\", \"mlp.c_proj\"]`), a \
     regular expression for whole names, or `\"all-linear\"`";
pub(crate) const EXCLUDE_MODULES: &str = "the modules that are left out, named in the same way";
pub(crate) const LAYERS: &str = "the numbers of the blocks that get one";

impl Targets {
    /// Whether a module is named. The ends of names begin at a dot.
    ///
    /// # Errors
    /// A regular expression that is none.
    pub fn matches(&self, module: &str) -> Result<bool> {
        match self {
            Targets::Named(names) => Ok(names.iter().any(|name| ends_with(module, name))),
            Targets::Pattern(pattern) => Ok(whole(pattern)?.is_match(module)),
        }
    }

    /// Whether this is every linear layer inside blocks.
    pub fn is_all_linear(&self) -> bool {
        matches!(self, Targets::Pattern(pattern) if pattern.eq_ignore_ascii_case("all-linear"))
    }
}

impl Selection {
    /// Whether a module is chosen where `named` says whether its name is.
    ///
    /// # Errors
    /// A regular expression that is none.
    pub fn takes(&self, module: &str, named: bool) -> Result<bool> {
        if !named || self.exclude_modules.as_ref().map_or(Ok(false), |out| out.matches(module))? {
            return Ok(false);
        }
        let Some(layers) = &self.layers else { return Ok(true) };
        Ok(block_number(module).is_some_and(|n| layers.contains(&n)))
    }
}

/// Whether a name is another or ends with it after a dot.
fn ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The first number among a name's parts.
fn block_number(module: &str) -> Option<usize> {
    module.split('.').find_map(|part| part.parse().ok())
}

/// A regular expression that fits whole names only.
fn whole(pattern: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|e| {
        Error::usage(format!("`{pattern}` is no regular expression for modules: {e}"))
            .with_hint("a list of names does it without: [\"q_proj\", \"v_proj\"]")
    })
}

/// What a table of patterns says of a module, or else the value for all: patterns fit whole names or their ends.
pub(crate) fn of_pattern<T: Copy>(table: &std::collections::BTreeMap<String, T>, module: &str, other: T) -> Result<T> {
    for (pattern, value) in table {
        if whole(&format!("(?:.*\\.)?(?:{pattern})"))?.is_match(module) {
            return Ok(*value);
        }
    }
    Ok(other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const Q: &str = "model.layers.12.self_attn.q_proj";

    #[test]
    fn modules_are_named_by_ends_and_by_whole_patterns() {
        let named = |names: &[&str]| Targets::Named(names.iter().map(ToString::to_string).collect());
        for (targets, wanted) in [
            (named(&["q_proj"]), true),
            (named(&["self_attn.q_proj", "x"]), true),
            (named(&[Q]), true),
            (named(&["proj"]), false),
            (named(&["attn.q_proj"]), false),
            (Targets::Pattern(r".*\.(q|v)_proj".into()), true),
            (Targets::Pattern("q_proj".into()), false),
            (Targets::Pattern(r"model\.layers\.1\..*".into()), false),
        ] {
            assert_eq!(targets.matches(Q).unwrap(), wanted, "{targets:?}");
        }
        assert!(Targets::Pattern("All-Linear".into()).is_all_linear());
        assert!(Targets::Pattern("(".into()).matches(Q).unwrap_err().hint().is_some());
    }

    #[test]
    fn a_selection_leaves_out_and_counts_blocks() {
        let selection = Selection {
            exclude_modules: Some(Targets::Named(vec!["v_proj".into()])),
            layers: Some(vec![1, 12]),
            ..Selection::default()
        };
        assert!(selection.takes(Q, true).unwrap());
        assert!(!selection.takes(Q, false).unwrap());
        assert!(!selection.takes(&Q.replace("q_", "v_"), true).unwrap());
        assert!(!selection.takes(&Q.replace("12", "2"), true).unwrap());
        assert!(!selection.takes("lm_head", true).unwrap());
    }

    #[test]
    fn the_first_pattern_that_fits_decides() {
        let table = [("v_proj", 2), ("layers.1.mlp.*", 5)].map(|(k, v)| (k.to_string(), v)).into();
        assert_eq!(of_pattern(&table, "model.layers.0.self_attn.v_proj", 8).unwrap(), 2);
        assert_eq!(of_pattern(&table, "model.layers.1.mlp.up_proj", 8).unwrap(), 5);
        assert_eq!(of_pattern(&table, "model.layers.11.mlp.up_proj", 8).unwrap(), 8);
    }
}
