//! Every shipped recipe reads; a full run reaches what its `expected.json` says.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    assert!(!found.is_empty());
    found
}

fn expected(recipe: &Path) -> Map<String, Value> {
    let text = fs::read(recipe.join("expected.json")).unwrap();
    let mut all: Map<String, Value> = serde_json::from_slice(&text).unwrap();
    all.remove("what");
    all
}

/// What is wrong with a figure, if anything.
fn complaint(figure: Option<f64>, bounds: &Value) -> Option<String> {
    let Some(figure) = figure else { return Some("is missing".into()) };
    let (most, least) = (bounds["at_most"].as_f64(), bounds["at_least"].as_f64());
    assert!(most.or(least).is_some(), "a bound says `at_most` or `at_least`: {bounds}");
    let holds = most.is_none_or(|b| figure <= b) && least.is_none_or(|b| figure >= b);
    (!holds).then(|| format!("is {figure}, expected {bounds}"))
}

#[test]
fn bounds_are_checked() {
    let bounds = serde_json::json!({"at_most": 2.0});
    assert!(complaint(Some(1.5), &bounds).is_none());
    assert!(complaint(Some(2.5), &bounds).is_some());
    assert!(complaint(None, &bounds).is_some());
}

#[test]
fn every_recipe_can_be_planned_and_expects_something_of_its_own_stages() {
    for recipe in recipes() {
        let output =
            Command::new(env!("CARGO_BIN_EXE_cupola")).arg("plan").arg(recipe.join("recipe.toml")).output().unwrap();
        assert!(output.status.success(), "{}: {}", recipe.display(), String::from_utf8_lossy(&output.stderr));
        let plan = String::from_utf8_lossy(&output.stdout).into_owned();
        for stage in expected(&recipe).keys() {
            assert!(plan.contains(stage.as_str()), "{} has no stage {stage}", recipe.display());
        }
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
fn a_full_run_reaches_what_is_expected() {
    if std::env::var_os("CUPOLA_FULL_RECIPES").is_none() {
        eprintln!("skipped: full recipes run when CUPOLA_FULL_RECIPES is set (minutes each)");
        return;
    }
    for recipe in recipes() {
        let out = tempfile::tempdir().unwrap();
        let run = Command::new(env!("CARGO_BIN_EXE_cupola"))
            .arg("run")
            .arg(recipe.join("recipe.toml"))
            .arg("--out")
            .arg(out.path())
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        for (stage, figures) in expected(&recipe) {
            let manifest = fs::read(out.path().join(&stage).join("manifest.json")).unwrap();
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            for (name, bounds) in figures.as_object().unwrap() {
                let problem = complaint(manifest["report"]["metrics"][name].as_f64(), bounds);
                assert!(problem.is_none(), "{stage}: {name} {}", problem.unwrap());
            }
        }
    }
}
