//! The tables of steps and of kinds of personal data in `docs/data.md` are made from the lists; `CUPOLA_WRITE_DOCS=1` writes them.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::fmt::Write as _;
use std::path::Path;

use cupola_data::{STEPS, privacy_kinds};
use serde_json::Value;

fn table() -> String {
    let mut out = String::from("| step | what it does | settings |\n|---|---|---|\n");
    for kind in STEPS {
        let settings: Vec<String> = kind.defaults().as_object().unwrap().iter().map(setting).collect();
        writeln!(out, "| `{}` | {} | {} |", kind.name, kind.about, settings.join(", ")).unwrap();
    }
    out
}

fn kinds() -> String {
    let mut out = String::from("| kind | |\n|---|---|\n");
    privacy_kinds().for_each(|(name, about)| writeln!(out, "| `{name}` | {about} |").unwrap());
    out
}

fn setting((name, value): (&String, &Value)) -> String {
    let value = value.to_string();
    // Long tables (patterns, stop words) stand in the code.
    let value = if value.len() > 60 { format!("{}…", value.chars().take(50).collect::<String>()) } else { value };
    format!("`{name} = {}`", value.replace('|', "\\|").replace('`', "'"))
}

#[test]
fn the_tables_are_those_of_the_lists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/data.md");
    let mut page = std::fs::read_to_string(&path).unwrap();
    for (name, table) in [("steps", table()), ("privacy", kinds())] {
        let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let start = page.find(&start).unwrap() + start.len();
        let end = page.find(&end).unwrap();
        if std::env::var_os("CUPOLA_WRITE_DOCS").is_some() {
            page.replace_range(start..end, &table);
        }
        let there = page.get(start..end).unwrap_or_default();
        assert!(
            std::env::var_os("CUPOLA_WRITE_DOCS").is_some() || there == table,
            "{name} in docs/data.md is not up to date: run this test with CUPOLA_WRITE_DOCS=1"
        );
    }
    if std::env::var_os("CUPOLA_WRITE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
}
