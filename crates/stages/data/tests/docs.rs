//! The tables of steps and of kinds of personal data in `docs/data.md` are made from the lists; `CUPOLA_WRITE_DOCS=1` writes them.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::fmt::Write as _;

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
    cupola_testkit::check_tables("data.md", &[("steps", table()), ("privacy", kinds())]);
}
