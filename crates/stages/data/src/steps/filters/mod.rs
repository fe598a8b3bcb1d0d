//! Quality filters with published thresholds.

pub mod c4;
pub mod fineweb;
pub mod gopher_quality;
pub mod gopher_repetition;
mod lines;
mod ngrams;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod golden;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use cupola_records::Document;

    use crate::step::{Kind, Notes, Setting, Verdict, Work};

    pub const FILTERS: [&Kind; 4] = [
        &super::gopher_repetition::GOPHER_REPETITION,
        &super::gopher_quality::GOPHER_QUALITY,
        &super::c4::C4_PAGES,
        &super::fineweb::FINEWEB,
    ];

    const PROSE: &str = "The river had been rising for three days before anyone thought to move the boats.\n\
        Nobody in the village could remember a spring like it, and the old men who sat by the bridge said so often.\n\
        When the water reached the lower gardens, the schoolmaster sent the children home with their books.\n\
        They carried them on their heads, laughing, as though the flood had been arranged to please them.\n\
        By evening the mill had stopped, and the miller walked up and down his yard with a lantern in his hand.";

    fn check(kind: &'static Kind, text: &str) -> Verdict {
        let Work::Each(mut step) = kind.configure(toml::Table::new()).unwrap().work else { panic!("not a filter") };
        step.prepare(&Setting { recipe_dir: std::path::Path::new("."), seed: 0 }).unwrap();
        step.apply(&mut Document::new("id", text, "source"), &mut Notes::default())
    }

    #[test]
    fn plain_prose_passes_every_filter() {
        for kind in FILTERS {
            assert_eq!(check(kind, PROSE), Verdict::Keep, "{}", kind.name);
        }
    }

    #[test]
    fn every_filter_survives_any_text() {
        for kind in FILTERS {
            for text in ["", " ", "\n\n\n", "…", "\u{301}", "😀", "a", &"字".repeat(1000), &"{".repeat(50)] {
                check(kind, text);
            }
        }
    }

    #[test]
    fn reasons_start_with_the_filters_name_or_family() {
        for kind in FILTERS {
            let family = kind.name.split('_').next().unwrap();
            if let Verdict::Drop(reason) = check(kind, "lorem ipsum") {
                assert!(reason.starts_with(family), "{reason}");
            }
        }
    }
}
