//! Recipes: TOML files whose sections `[kind.name]` are the stages of a run, in file order.

use std::path::{Path, PathBuf};

use cupola_artifact::stage::Stage;
use cupola_artifact::{Error, Result, nearest, parse_toml_text, read_text, syntax_error, unknown_name};
use toml::{Table, Value};

/// The keys outside any section.
const TOP_LEVEL: [&str; 4] = ["name", "seed", "device", "out"];

/// A recipe.
#[derive(Debug)]
pub struct Recipe {
    /// What the run is called.
    pub name: String,
    /// Where all randomness starts.
    pub seed: u64,
    /// The device, if the recipe names one.
    pub device: Option<String>,
    /// The folder for the artifacts, if the recipe names one.
    pub out: Option<PathBuf>,
    /// The folder that relative paths start from.
    pub dir: PathBuf,
    /// The stages in file order.
    pub sections: Vec<Section>,
}

/// A section `[kind.name]`.
#[derive(Clone, Debug)]
pub struct Section {
    /// The stage kind.
    pub kind: String,
    /// The stage's name.
    pub name: String,
    /// The settings.
    pub table: Table,
}

impl Section {
    /// `kind.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.kind, self.name)
    }
}

impl Recipe {
    /// Reads a recipe (or the one in a folder), changes the settings that `sets` names, and checks the sections' kinds.
    pub fn load(path: &Path, sets: &[String], stages: &[&dyn Stage]) -> Result<Self> {
        let path = if path.is_dir() { path.join("recipe.toml") } else { path.to_path_buf() };
        let text = read_text(&path).map_err(|e| {
            let missing = !path.exists();
            if missing { e.with_hint("name a recipe, e.g. recipes/quickstart/recipe.toml") } else { e }
        })?;
        let origin = path.display().to_string();
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let stem = match (path.file_stem(), absolute.parent().and_then(Path::file_name)) {
            (Some(stem), Some(folder)) if stem == "recipe" => folder,
            (Some(stem), _) => stem,
            (None, _) => "recipe".as_ref(),
        };
        let dir = match path.parent() {
            Some(dir) if dir != Path::new("") => dir.to_path_buf(),
            _ => PathBuf::from("."),
        };
        Self::parse(&origin, &text, &stem.to_string_lossy(), dir, sets, stages)
    }

    /// Reads a recipe's text.
    pub fn parse(
        origin: &str,
        text: &str,
        default_name: &str,
        dir: PathBuf,
        sets: &[String],
        stages: &[&dyn Stage],
    ) -> Result<Self> {
        let kinds: Vec<&str> = stages.iter().map(|stage| stage.kind()).collect();
        let table = parse_toml_text(origin, text)?;
        let mut recipe =
            Self { name: default_name.to_string(), seed: 0, device: None, out: None, dir, sections: Vec::new() };
        for (key, value) in table {
            if TOP_LEVEL.contains(&key.as_str()) {
                recipe.set_top_level(&key, value)?;
            } else if kinds.contains(&key.as_str()) {
                recipe.add_sections(&key, value)?;
            } else {
                let known: Vec<&str> = kinds.iter().chain(&TOP_LEVEL).copied().collect();
                let what = if value.is_table() { "stage kind" } else { "key" };
                let known = if value.is_table() { &kinds } else { &known };
                return Err(unknown_name(&format!("{origin}: unknown {what} `{key}`"), &key, what, known));
            }
        }
        let positions = section_positions(origin, text)?;
        recipe.sections.sort_by_key(|section| {
            positions.iter().find(|(kind, name, _)| (kind, name) == (&section.kind, &section.name)).map(|found| found.2)
        });
        if recipe.sections.is_empty() {
            return Err(Error::usage(format!("{origin} has no stages"))
                .with_hint("add a section like [data.corpus] with `sources = [\"corpus.txt\"]`"));
        }
        sets.iter().try_for_each(|set| recipe.set(set))?;
        Ok(recipe)
    }

    /// A recipe of one stage.
    pub fn single(section: Section, sets: &[String]) -> Result<Self> {
        let name = section.kind.clone();
        let prefix = format!("{}.", section.full_name());
        let mut recipe =
            Self { name, seed: 0, device: None, out: None, dir: PathBuf::from("."), sections: vec![section] };
        for set in sets {
            let key = set.split('=').next().unwrap_or_default();
            let complete = key.starts_with(&prefix) || TOP_LEVEL.contains(&key.trim());
            recipe.set(&if complete { set.clone() } else { format!("{prefix}{set}") })?;
        }
        Ok(recipe)
    }

    fn set_top_level(&mut self, key: &str, value: Value) -> Result<()> {
        let wrong = |expected: &str, value: &Value| {
            Error::usage(format!("`{key}` must be {expected}, not {}", value.type_str()))
        };
        match (key, value) {
            ("seed", Value::Integer(seed)) => {
                self.seed = u64::try_from(seed).map_err(|_| Error::usage("`seed` must not be negative"))?;
            }
            ("seed", value) => return Err(wrong("a whole number", &value)),
            ("name", Value::String(name)) => {
                check_name(&name, "name")?;
                self.name = name;
            }
            ("device", Value::String(device)) => self.device = Some(device),
            ("out", Value::String(out)) => self.out = Some(out.into()),
            (_, value) => return Err(wrong("a text", &value)),
        }
        Ok(())
    }

    fn add_sections(&mut self, kind: &str, value: Value) -> Result<()> {
        let unnamed = || {
            Error::usage(format!("[{kind}] has no name"))
                .with_hint(format!("write [{kind}.NAME], e.g. [{kind}.first], so that later stages can refer to it"))
        };
        let Value::Table(sections) = value else { return Err(unnamed()) };
        for (name, value) in sections {
            let Value::Table(table) = value else { return Err(unnamed()) };
            check_name(&name, &format!("the name of [{kind}.{name}]"))?;
            self.sections.push(Section { kind: kind.to_string(), name, table });
        }
        Ok(())
    }

    /// Changes a setting: `kind.name.key=value`, or a top-level `key=value`.
    fn set(&mut self, set: &str) -> Result<()> {
        let form = "write --set KIND.NAME.KEY=VALUE, e.g. --set pretrain.base.depth=4";
        let Some((path, value)) = set.split_once('=') else {
            return Err(Error::usage(format!("--set {set}: there is no `=`")).with_hint(form));
        };
        let value = parse_value(value);
        let keys: Vec<&str> = path.trim().split('.').map(str::trim).collect();
        let [kind, name, middle @ .., last] = keys.as_slice() else {
            return match keys.as_slice() {
                [key] if TOP_LEVEL.contains(key) => self.set_top_level(key, value),
                _ => Err(Error::usage(format!("--set {set}: `{path}` names no setting of a stage")).with_hint(form)),
            };
        };
        let known: Vec<String> = self.sections.iter().map(Section::full_name).collect();
        let Some(section) = self.sections.iter_mut().find(|s| s.kind == *kind && s.name == *name) else {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let word = format!("{kind}.{name}");
            return Err(unknown_name(&format!("--set {set}: unknown stage `{word}`"), &word, "stage", &known));
        };
        let mut table = &mut section.table;
        for key in middle {
            let entry = table.entry((*key).to_string()).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().ok_or_else(|| Error::usage(format!("--set {set}: `{key}` has no parts")))?;
        }
        table.insert((*last).to_string(), value);
        Ok(())
    }

    /// Finds a stage by `kind.name`, by its name, or by its kind where there is only one.
    pub fn find(&self, word: &str) -> Result<usize> {
        let matches = |test: &dyn Fn(&Section) -> bool| -> Vec<usize> {
            (0..self.sections.len()).filter(|i| test(&self.sections[*i])).collect()
        };
        for found in [matches(&|s| s.full_name() == word), matches(&|s| s.name == word), matches(&|s| s.kind == word)] {
            match found.as_slice() {
                [] => {}
                [one] => return Ok(*one),
                several => {
                    let names: Vec<String> = several.iter().map(|i| self.sections[*i].full_name()).collect();
                    return Err(Error::usage(format!("`{word}` could be {}", names.join(" or ")))
                        .with_hint(format!("write {}", names[0])));
                }
            }
        }
        let full: Vec<String> = self.sections.iter().map(Section::full_name).collect();
        let near = nearest(word, self.sections.iter().map(|s| s.name.as_str()))
            .or_else(|| nearest(word, full.iter().map(String::as_str)));
        let error = Error::usage(format!("the recipe has no stage `{word}`"));
        Err(match near {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error.with_hint(format!("its stages are {}", full.join(", "))),
        })
    }
}

/// A value as TOML writes it, else the text itself.
fn parse_value(text: &str) -> Value {
    let parsed: Option<Table> = format!("value = {text}").parse().ok();
    match parsed {
        Some(mut table) if table.len() == 1 => table.remove("value"),
        _ => None,
    }
    .unwrap_or_else(|| Value::String(text.to_string()))
}

/// Names become folders.
fn check_name(name: &str, what: &str) -> Result<()> {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    if !name.is_empty() && name.chars().all(fine) {
        return Ok(());
    }
    Err(Error::usage(format!("{what}: `{name}` cannot be a name"))
        .with_hint("use letters, digits, `-` and `_`; artifacts are folders of that name"))
}

/// Where each section begins; the plain table keeps the order only among the sections of a kind.
fn section_positions(origin: &str, text: &str) -> Result<Vec<(String, String, usize)>> {
    let table = toml::de::DeTable::parse(text).map_err(|e| syntax_error(origin, text, &e))?;
    let mut positions = Vec::new();
    for (kind, value) in table.get_ref() {
        if let toml::de::DeValue::Table(sections) = value.get_ref() {
            for name in sections.keys() {
                positions.push((kind.get_ref().to_string(), name.get_ref().to_string(), name.span().start));
            }
        }
    }
    Ok(positions)
}
