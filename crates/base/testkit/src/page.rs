//! Tables of the manual that are made from lists in the code.

use std::path::Path;

/// Compares tables in a page of `docs/` with what the lists say; `CUPOLA_WRITE_DOCS=1` writes them instead. A table stands
/// between `<!-- name -->` and `<!-- end of name -->`.
///
/// # Panics
/// A table that is not up to date, a page without a table's marks.
pub fn check_tables(page: &str, tables: &[(&str, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs").join(page);
    let mut text = std::fs::read_to_string(&path).unwrap();
    let write = std::env::var_os("CUPOLA_WRITE_DOCS").is_some();
    for (name, table) in tables {
        let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let place = |mark: &str| text.find(mark).unwrap_or_else(|| panic!("docs/{page} has no {mark}"));
        let (from, to) = (place(&start) + start.len(), place(&end));
        if write {
            text.replace_range(from..to, table);
        }
        let there = text.get(from..to).unwrap_or_default();
        assert!(
            write || there == table,
            "{name} in docs/{page} is not up to date: run this test with CUPOLA_WRITE_DOCS=1"
        );
    }
    if write {
        std::fs::write(&path, text).unwrap();
    }
}
