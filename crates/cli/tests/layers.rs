//! The layer rule, checked on the manifests and the sources: `base <- model <- engine <- stages <- cli`.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The folders below `crates/`, lowest first.
const LAYERS: [&str; 5] = ["base", "model", "engine", "stages", "cli"];
const STAGES: usize = 3;
/// The one stage that crates of its own layer and of the layer below may use.
const SHARED_STAGE: &str = "cupola-tokenizer";
/// Stages that know no tensors, and what they must not reach.
const WITHOUT_TENSORS: [&str; 2] = ["cupola-data", SHARED_STAGE];
const TENSORS: [&str; 3] = ["burn", "cupola-ops", "cupola-nn"];
/// Serves tests alone.
const FOR_TESTS: &str = "cupola-testkit";
/// The only crate with `unsafe`.
const WITH_UNSAFE: &str = "cupola-kernels";

/// A crate of the workspace.
#[derive(Clone, Debug, Default)]
struct Package {
    name: String,
    dir: PathBuf,
    layer: usize,
    /// Normal and build dependencies, those of single platforms included.
    needs: BTreeSet<String>,
    needs_for_tests: BTreeSet<String>,
    /// Whether it takes over the workspace's lints.
    shares_lints: bool,
}

impl Package {
    fn read(dir: &Path, layer: usize) -> Self {
        let text = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
        let manifest: Table = text.parse().unwrap();
        let mut package = Self { dir: dir.to_path_buf(), layer, ..Self::parse(&manifest) };
        let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
        for platform in platforms.filter_map(Value::as_table) {
            let more = Self::parse(platform);
            package.needs.extend(more.needs);
            package.needs_for_tests.extend(more.needs_for_tests);
        }
        package
    }

    fn parse(manifest: &Table) -> Self {
        let entry = |table: &str, key: &str| manifest.get(table).and_then(|table| table.get(key)).cloned();
        let names = |table: &str| -> BTreeSet<String> {
            let entries = manifest.get(table).and_then(Value::as_table).into_iter().flatten();
            // A renamed dependency says its real name in `package`.
            let name = |(key, value): (&String, &Value)| {
                value.get("package").and_then(Value::as_str).unwrap_or(key).to_owned()
            };
            entries.map(name).collect()
        };
        Self {
            name: entry("package", "name").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default(),
            needs: names("dependencies").union(&names("build-dependencies")).cloned().collect(),
            needs_for_tests: names("dev-dependencies"),
            shares_lints: entry("lints", "workspace") == Some(Value::Boolean(true)),
            ..Self::default()
        }
    }
}

/// Everything that is wrong with the arrows between the crates, in sentences.
fn faults(packages: &[Package]) -> Vec<String> {
    let by_name: BTreeMap<&str, &Package> = packages.iter().map(|p| (p.name.as_str(), p)).collect();
    let mut found = Vec::new();
    for package in packages {
        let name = &package.name;
        if package.needs.contains(FOR_TESTS) {
            found.push(format!("{name} needs {FOR_TESTS} outside its tests"));
        }
        for needed in package.needs.union(&package.needs_for_tests) {
            let Some(other) = by_name.get(needed.as_str()).filter(|other| other.name != FOR_TESTS) else { continue };
            if !may_point(package, other) {
                let (from, to) = (LAYERS[package.layer], LAYERS[other.layer]);
                found.push(format!("{name} ({from}) must not need {needed} ({to})"));
            }
        }
        let reached = reach(package, &by_name);
        if reached.contains(name.as_str()) {
            found.push(format!("{name} needs itself by way of others"));
        }
        if WITHOUT_TENSORS.contains(&name.as_str()) {
            let tensors = TENSORS.iter().filter(|tensor| reached.contains(*tensor));
            found.extend(tensors.map(|tensor| format!("{name} must know no tensors, but reaches {tensor}")));
        }
        if name != WITH_UNSAFE && !package.shares_lints {
            found.push(format!("{name} does not take over the workspace's lints"));
        }
    }
    found
}

/// Whether a crate may need another.
fn may_point(from: &Package, to: &Package) -> bool {
    match () {
        () if to.layer < from.layer => true,
        () if to.name == SHARED_STAGE => from.layer + 1 >= STAGES,
        () => to.layer == from.layer && from.layer < STAGES,
    }
}

/// All that a crate needs, directly or not.
fn reach<'a>(package: &'a Package, by_name: &BTreeMap<&str, &'a Package>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = package.needs.iter().map(String::as_str).collect();
    while let Some(name) = open.pop() {
        if reached.insert(name)
            && let Some(next) = by_name.get(name)
        {
            open.extend(next.needs.iter().map(String::as_str));
        }
    }
    reached
}

/// The line of the first `unsafe`, or lint attribute about it, in a source text; comments and strings do not count.
fn first_unsafe(source: &str) -> Option<usize> {
    let code = blank_out(source);
    let words = |line: &str| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| matches!(word, "unsafe" | "unsafe_code"))
    };
    code.lines().position(words).map(|line| line + 1)
}

/// The text without its comments and literals; line ends stay.
fn blank_out(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let length = literal(rest, out.chars().next_back());
        if length == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().filter(|c| *c == '\n'));
            out.push(' ');
            rest = &rest[length..];
        }
    }
    out
}

/// The length of the comment or literal that `text` begins with; 0 when it begins with code.
fn literal(text: &str, before: Option<char>) -> usize {
    let inside_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    if !inside_word && let Some(raw) = text.strip_prefix('b').unwrap_or(text).strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let start = text.len() - raw.len() + hashes + 1;
            let end = format!("\"{}", "#".repeat(hashes));
            return text[start..].find(&end).map_or(text.len(), |at| start + at + end.len());
        }
    }
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    // `'a'` and `'\n'` are characters, `'a` is a lifetime.
    let mut after = text.chars().skip(1);
    match (text.starts_with('\''), after.next(), after.next()) {
        (true, Some('\\'), _) | (true, Some(_), Some('\'')) => quoted(text, '\''),
        _ => 0,
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        let step = match rest {
            [b'/', b'*', ..] => (1, 2),
            [b'*', b'/', ..] => (-1, 2),
            _ => (0, 1),
        };
        depth = depth.wrapping_add_signed(step.0);
        at += step.1;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn crates_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn packages() -> Vec<Package> {
    let mut found = Vec::new();
    for (layer, name) in LAYERS.iter().enumerate() {
        let dir = crates_dir().join(name);
        if dir.join("Cargo.toml").is_file() {
            found.push(Package::read(&dir, layer));
            continue;
        }
        let folders = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        found.extend(folders.filter(|d| d.join("Cargo.toml").is_file()).map(|d| Package::read(&d, layer)));
    }
    found
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn arrows_point_one_way() {
    let packages = packages();
    assert!(packages.len() > 15, "only {} crates were found", packages.len());
    for name in [SHARED_STAGE, FOR_TESTS, WITH_UNSAFE].iter().chain(&WITHOUT_TENSORS) {
        assert!(packages.iter().any(|p| p.name == *name), "{name} is gone: this test has to learn its new name");
    }
    let faults = faults(&packages);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_crate_belongs_to_a_layer() {
    let names: BTreeSet<String> =
        std::fs::read_dir(crates_dir()).unwrap().map(|e| e.unwrap().file_name().display().to_string()).collect();
    assert_eq!(names, LAYERS.map(String::from).into_iter().collect());
}

#[test]
fn only_the_kernels_are_unsafe() {
    for package in packages().iter().filter(|p| p.name != WITH_UNSAFE) {
        let mut files = Vec::new();
        sources(&package.dir, &mut files);
        for file in files {
            let line = first_unsafe(&std::fs::read_to_string(&file).unwrap());
            assert_eq!(
                line,
                None,
                "{}:{}: `unsafe` belongs in {WITH_UNSAFE}",
                file.display(),
                line.unwrap_or_default()
            );
        }
    }
}

#[test]
fn every_wrong_arrow_is_found() {
    let package = |name: &str, layer: &str, needs: &[&str]| Package {
        name: name.into(),
        layer: LAYERS.iter().position(|l| *l == layer).unwrap(),
        needs: needs.iter().map(|n| (*n).into()).collect(),
        shares_lints: true,
        ..Package::default()
    };
    let right = [
        package("cupola-artifact", "base", &["serde"]),
        package("cupola-testkit", "base", &["cupola-artifact"]),
        package("cupola-ops", "base", &["burn", "cupola-artifact"]),
        package("cupola-nn", "model", &["burn", "cupola-ops"]),
        package("cupola-arch", "model", &["cupola-nn"]),
        package("cupola-generate", "engine", &["cupola-arch", "cupola-tokenizer"]),
        package("cupola-data", "stages", &["cupola-artifact"]),
        package("cupola-tokenizer", "stages", &["cupola-artifact"]),
        package("cupola-eval", "stages", &["cupola-generate", "cupola-tokenizer"]),
        package("cupola", "cli", &["cupola-eval", "cupola-data"]),
    ];
    assert_eq!(faults(&right), Vec::<String>::new());
    for (name, needed, fault) in [
        ("cupola-artifact", "cupola-nn", "cupola-artifact (base) must not need cupola-nn (model)"),
        ("cupola-nn", "cupola-generate", "cupola-nn (model) must not need cupola-generate (engine)"),
        ("cupola-nn", "cupola-tokenizer", "cupola-nn (model) must not need cupola-tokenizer (stages)"),
        ("cupola-generate", "cupola-data", "cupola-generate (engine) must not need cupola-data (stages)"),
        ("cupola-eval", "cupola-data", "cupola-eval (stages) must not need cupola-data (stages)"),
        ("cupola-eval", "cupola", "cupola-eval (stages) must not need cupola (cli)"),
        ("cupola-artifact", "cupola-ops", "cupola-ops needs itself by way of others"),
        ("cupola-tokenizer", "cupola-ops", "cupola-tokenizer must know no tensors, but reaches burn"),
        ("cupola-data", "burn", "cupola-data must know no tensors, but reaches burn"),
        ("cupola-eval", "cupola-testkit", "cupola-eval needs cupola-testkit outside its tests"),
    ] {
        let mut wrong = right.clone();
        wrong.iter_mut().find(|p| p.name == name).unwrap().needs.insert(needed.into());
        let found = faults(&wrong);
        assert!(found.iter().any(|f| f == fault), "{name} -> {needed} gives {found:?}");
    }
    let mut wrong = right;
    wrong[6].needs_for_tests.extend(["cupola-eval".into(), "cupola-testkit".into()]);
    wrong[7].shares_lints = false;
    let expected = [
        "cupola-data (stages) must not need cupola-eval (stages)",
        "cupola-tokenizer does not take over the workspace's lints",
    ];
    assert_eq!(faults(&wrong), expected);
}

#[test]
fn manifests_are_read_whole() {
    let text = "[package]\nname = 'a'\n[dependencies]\nx = '1'\nalias = { package = 'y', version = '1' }\n\
                [build-dependencies]\nz = '1'\n[dev-dependencies]\nt.workspace = true\n[lints]\nworkspace = true\n";
    let package = Package::parse(&text.parse().unwrap());
    assert_eq!(package.name, "a");
    assert_eq!(package.needs.iter().collect::<Vec<_>>(), ["x", "y", "z"]);
    assert_eq!(package.needs_for_tests.iter().collect::<Vec<_>>(), ["t"]);
    assert!(package.shares_lints);
}

#[test]
fn unsafe_is_found_in_code_and_nowhere_else() {
    for (source, line) in [
        ("fn f() {\n    unsafe { g() }\n}", Some(2)),
        ("let c = '\"'; let d = '\\''; unsafe {}", Some(1)),
        ("fn f<'a>(x: &'a str) {}\nunsafe fn g() {}", Some(2)),
        ("/* a /* b */ c */ unsafe {}", Some(1)),
        ("#![allow(unsafe_code)]", Some(1)),
        ("// unsafe\nlet x = \"unsafe \\\" unsafe\";", None),
        ("let x = r#\"unsafe \" unsafe\"#; /* unsafe\n */", None),
        ("let unsafer = is_unsafe;", None),
    ] {
        assert_eq!(first_unsafe(source), line, "{source}");
    }
}
