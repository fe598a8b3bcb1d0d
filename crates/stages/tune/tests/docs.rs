//! The tables in `docs/tune.md` are made from the lists of tasks and adapters; `CUPOLA_WRITE_DOCS=1` writes them.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::fmt::Write as _;

use cupola_arch::mergeable;
use cupola_nn::adapters::{ALL, AdapterConfig, AdapterKind};
use serde_json::{Map, Value};

fn methods() -> String {
    let mut out = String::from("| method | PEFT's `peft_type` | what it does | merged | lr |\n|---|---|---|---|---|\n");
    writeln!(out, "| `full` | – | trains all parameters | – | 1 |").unwrap();
    for kind in ALL {
        let merged = mergeable(&AdapterConfig::new(*kind, Map::new()).unwrap());
        let (name, peft, about) = (kind.name(), kind.peft_type(), kind.about());
        let merged = if merged { "yes" } else { "no" };
        writeln!(out, "| `{name}` | `{peft}` | {about} | {merged} | {} |", kind.lr_factor()).unwrap();
    }
    out
}

/// A setting, its meaning, and its default for each method that has it.
type Row = (&'static str, &'static str, Vec<(String, String)>);

/// A row for each setting with a meaning of its own, and the methods that have it with their defaults.
fn settings() -> String {
    let mut rows: Vec<Row> = vec![];
    for kind in ALL {
        for field in kind.fields() {
            let default = (shown(&kind.defaults()[field.name]), kind_name(*kind));
            match rows.iter_mut().find(|(name, about, _)| (*name, *about) == (field.name, field.about)) {
                Some((_, _, defaults)) => defaults.push(default),
                None => rows.push((field.name, field.about, vec![default])),
            }
        }
    }
    let mut out = String::from("| setting | meaning | default: methods |\n|---|---|---|\n");
    for (name, about, defaults) in rows {
        let mut grouped: Vec<(String, Vec<String>)> = vec![];
        for (default, kind) in defaults {
            match grouped.iter_mut().find(|(known, _)| *known == default) {
                Some((_, kinds)) => kinds.push(kind),
                None => grouped.push((default, vec![kind])),
            }
        }
        let told: Vec<String> =
            grouped.iter().map(|(default, kinds)| format!("{default}: {}", kinds.join(", "))).collect();
        writeln!(out, "| `{name}` | {about} | {} |", told.join("; ")).unwrap();
    }
    out
}

fn kind_name(kind: &dyn AdapterKind) -> String {
    format!("`{}`", kind.name())
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not set".into(),
        Value::Object(map) if map.is_empty() => "none".into(),
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or_else(String::new, |x| (x as f32).to_string())
        }
        other => format!("`{other}`"),
    }
}

#[test]
fn the_tables_are_those_of_the_lists() {
    let row = |task: &&dyn cupola_tune::task::TuneTask| format!("| `{}` | {} |\n", task.name(), task.about());
    let rows: String = cupola_tune::task::ALL.iter().map(row).collect();
    let tasks = format!("| task | what is learned |\n|---|---|\n{rows}");
    cupola_testkit::check_tables(
        "tune.md",
        &[("tasks", tasks), ("methods", methods()), ("adapter settings", settings())],
    );
}
