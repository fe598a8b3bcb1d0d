//! The table of steps in `docs/data.md` is made from the list; `CUPOLA_WRITE_DOCS=1` writes it.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::fmt::Write as _;
use std::path::Path;

use cupola_data::STEPS;
use serde_json::Value;

const START: &str = "<!-- steps -->\n";
const END: &str = "<!-- end of steps -->";

fn table() -> String {
    let mut out = String::from("| step | what it does | settings |\n|---|---|---|\n");
    for kind in STEPS {
        let settings: Vec<String> = kind.defaults().as_object().unwrap().iter().map(setting).collect();
        writeln!(out, "| `{}` | {} | {} |", kind.name, kind.about, settings.join(", ")).unwrap();
    }
    out
}

fn setting((name, value): (&String, &Value)) -> String {
    let value = value.to_string();
    // Long tables (patterns, stop words) stand in the code.
    let value = if value.len() > 60 { format!("{}…", value.chars().take(50).collect::<String>()) } else { value };
    format!("`{name} = {}`", value.replace('|', "\\|").replace('`', "'"))
}

#[test]
fn the_table_of_steps_is_that_of_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/data.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let start = page.find(START).unwrap() + START.len();
    let end = page.find(END).unwrap();
    if std::env::var_os("CUPOLA_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{}{}{}", &page[..start], table(), &page[end..])).unwrap();
        return;
    }
    assert!(page[start..end] == table(), "docs/data.md is not up to date: run this test with CUPOLA_WRITE_DOCS=1");
}
