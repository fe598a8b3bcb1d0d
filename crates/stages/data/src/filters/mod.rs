//! Quality filters with published thresholds. A new one is a file here and a line in [`ALL`].

mod c4;
mod fineweb;
mod gopher_quality;
mod gopher_repetition;
mod lines;

use cupola_artifact::Result;

use crate::config::unknown_filter;

/// All filters, by the names that a recipe uses.
pub const ALL: &[&dyn Filter] =
    &[&gopher_repetition::GopherRepetition, &gopher_quality::GopherQuality, &c4::C4, &fineweb::FineWeb];

/// What a filter says about a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may stay.
    Keep,
    /// It goes; the reason under which it is counted.
    Drop(&'static str),
}

/// Judges documents one at a time.
pub trait Filter: Sync {
    /// What a recipe calls it.
    fn name(&self) -> &'static str;

    /// What it drops, by whom it was published, in a line.
    fn about(&self) -> &'static str;

    /// Keep or drop.
    fn check(&self, text: &str) -> Verdict;
}

/// The filter of that name, or an error with the nearest one.
pub(crate) fn by_name(name: &str) -> Result<&'static dyn Filter> {
    ALL.iter().copied().find(|filter| filter.name() == name).ok_or_else(|| unknown_filter(name))
}

/// The verdict of the first filter that drops the text.
pub(crate) fn judge(filters: &[&dyn Filter], text: &str) -> Verdict {
    filters.iter().map(|filter| filter.check(text)).find(|v| *v != Verdict::Keep).unwrap_or(Verdict::Keep)
}

/// `Drop(reason)` for the first condition that holds.
fn first_reason(conditions: &[(bool, &'static str)]) -> Verdict {
    conditions.iter().find(|(holds, _)| *holds).map_or(Verdict::Keep, |(_, reason)| Verdict::Drop(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const PROSE: &str = "The river had been rising for three days before anyone thought to move the boats.\n\
        Nobody in the village could remember a spring like it, and the old men who sat by the bridge said so often.\n\
        When the water reached the lower gardens, the schoolmaster sent the children home with their books.\n\
        They carried them on their heads, laughing, as though the flood had been arranged to please them.\n\
        By evening the mill had stopped, and the miller walked up and down his yard with a lantern in his hand.";

    #[test]
    fn plain_prose_passes_every_filter() {
        for filter in ALL {
            assert_eq!(filter.check(PROSE), Verdict::Keep, "{}", filter.name());
        }
    }

    #[test]
    fn every_filter_has_its_own_name_and_survives_any_text() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|f| f.name()).collect();
        assert_eq!(names.len(), ALL.len());
        for filter in ALL {
            assert!(!filter.about().is_empty());
            for text in ["", " ", "\n\n\n", "…", "\u{301}", "😀", "a", &"字".repeat(1000), &"{".repeat(50)] {
                filter.check(text);
            }
        }
    }

    #[test]
    fn reasons_start_with_the_filters_name_or_family() {
        for filter in ALL {
            let family = filter.name().split('_').next().unwrap_or_default();
            if let Verdict::Drop(reason) = filter.check("lorem ipsum") {
                assert!(reason.starts_with(family), "{reason}");
            }
        }
    }
}
