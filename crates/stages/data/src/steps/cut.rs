//! Removing parts of a text.

use std::ops::Range;

use cupola_records::Document;

use crate::step::{Notes, Verdict};

/// Removes these ranges of bytes, which may overlap and come in any order, and counts them and their bytes under `name`; ends
/// inside a character are moved so that it stays. Drops a document of which nothing is left.
pub fn cut(
    document: &mut Document,
    ranges: impl IntoIterator<Item = Range<usize>>,
    name: &'static str,
    notes: &mut Notes,
) -> Verdict {
    let text = &document.text;
    let mut ranges: Vec<Range<usize>> = ranges.into_iter().collect();
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let (mut kept, mut from, mut parts) = (String::with_capacity(text.len()), 0, 0);
    for range in &ranges {
        let (start, end) = (text.ceil_char_boundary(range.start), text.floor_char_boundary(range.end));
        if end > from.max(start) {
            kept.push_str(text.get(from..start).unwrap_or_default());
            parts += u64::from(start >= from);
            from = end;
        }
    }
    kept.push_str(&text[from..]);
    notes.count(name, parts);
    notes.count(&format!("{name}_bytes"), (text.len() - kept.len()) as u64);
    document.text = kept;
    if document.text.trim().is_empty() { Verdict::Drop(name) } else { Verdict::Keep }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_any_order_that_overlap_are_cut_once() {
        let mut notes = Notes::default();
        let mut document = Document::new("id", "0123456789éa", "source");
        // The last one begins inside the é.
        assert_eq!(cut(&mut document, [7..9, 2..5, 4..6, 3..4, 11..13], "part", &mut notes), Verdict::Keep);
        assert_eq!(document.text, "0169é");
        assert_eq!(notes.counts()["part"], 3);
        assert_eq!(notes.counts()["part_bytes"], 7);
    }

    #[test]
    fn a_document_of_which_nothing_is_left_is_dropped() {
        let mut document = Document::new("id", "all of it\n", "source");
        assert_eq!(cut(&mut document, Some(0..9), "part", &mut Notes::default()), Verdict::Drop("part"));
        let mut document = Document::new("id", "all of it", "source");
        assert_eq!(cut(&mut document, Some(3..900), "part", &mut Notes::default()), Verdict::Keep);
        assert_eq!(document.text, "all");
    }
}
