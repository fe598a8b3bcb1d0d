//! The tables of `docs/align.md` are made from the lists; `CUPOLA_WRITE_DOCS=1` writes them.

use std::fmt::Write as _;

use cupola_align::{algorithm, doctor, loss, policy, reward, unpaired};

fn table<'a>(head: &str, rows: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut out = format!("| {head} | |\n|---|---|\n");
    for (name, about) in rows {
        let _ = writeln!(out, "| `{name}` | {} |", about.replace('|', "\\|"));
    }
    out
}

#[test]
fn the_tables_are_those_of_the_lists() {
    let algorithms = table("algorithm", algorithm::ALL.iter().map(|a| (a.name(), a.about().to_owned())));
    let of_pairs = loss::ALL.iter().map(|loss| {
        let defaults = loss.defaults();
        let number = |key: &&str| match *key {
            "beta" => Some(format!("`beta = {}`", defaults.beta)),
            "label_smoothing" => Some(format!("`label_smoothing = {}`", defaults.label_smoothing)),
            "gamma" => Some(format!("`gamma = {}`", defaults.gamma)),
            "alpha" => Some(format!("`alpha = {}`", defaults.alpha)),
            "tau" => Some(format!("`tau = {}`", defaults.tau)),
            "nll_weight" => Some(format!("`nll_weight = {}`", defaults.nll_weight)),
            "divergence" => Some("`divergence`".to_owned()),
            _ => None,
        };
        let settings: Vec<String> = loss.keys().iter().filter_map(number).collect();
        let settings = if settings.is_empty() { String::new() } else { format!("; {}", settings.join(", ")) };
        (loss.name(), format!("{}{settings}", loss.about()))
    });
    let of_pairs = table("loss", of_pairs);
    let of_singles = table("loss", unpaired::ALL.iter().map(|loss| (loss.name(), loss.about().to_owned())));
    let own = table("loss", policy::ALL.iter().map(|loss| (loss.name(), loss.about().to_owned())));
    let rewards = table("kind", reward::ALL.iter().map(|kind| (kind.name(), kind.about().to_owned())));
    let checks = doctor::ALL.iter().map(|check| (check.name, format!("{}: {}", check.about, check.advice)));
    let checks = table("check", checks);
    cupola_testkit::check_tables(
        "align.md",
        &[
            ("algorithms", algorithms),
            ("losses on pairs", of_pairs),
            ("losses on single answers", of_singles),
            ("losses on own answers", own),
            ("rewards", rewards),
            ("checks", checks),
        ],
    );
}
