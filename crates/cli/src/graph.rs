//! From sections to stages that know what they need.

use std::path::{Path, PathBuf};

use cupola_artifact::stage::{Configured, Input, Stage};
use cupola_artifact::{Error, Manifest, Result, is_artifact, nearest, unknown_name};

use crate::recipe::{Recipe, Section};

/// A stage of a recipe with its settings read and its references resolved.
pub struct Node {
    /// The stage kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The version of its artifact's layout.
    pub format_version: u32,
    /// Whether the device matters to it.
    pub uses_device: bool,
    /// Its settings.
    pub configured: Box<dyn Configured>,
    /// What it needs, in the order of its references.
    pub links: Vec<Link>,
}

/// A resolved reference.
pub struct Link {
    /// The setting's name.
    pub key: String,
    /// What the recipe says.
    pub reference: String,
    /// What it means.
    pub target: Target,
}

/// What a reference means.
pub enum Target {
    /// An earlier stage, by its place in the graph.
    Stage(usize),
    /// An artifact of another run.
    Artifact {
        /// Its folder.
        path: PathBuf,
        /// The stage kind that made it.
        kind: String,
        /// Its name in the recipe that made it.
        name: String,
    },
    /// A file or folder.
    Path(PathBuf),
}

/// The stages of a recipe, each after those it needs.
pub struct Graph {
    /// The stages in order.
    pub nodes: Vec<Node>,
}

impl Node {
    /// `kind.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.kind, self.name)
    }
}

impl Graph {
    /// Reads every section and resolves every reference.
    pub fn build(recipe: &Recipe, stages: &[&dyn Stage]) -> Result<Self> {
        let mut configured = Vec::new();
        for section in &recipe.sections {
            let kinds: Vec<&str> = stages.iter().map(|stage| stage.kind()).collect();
            let stage = stages.iter().find(|stage| stage.kind() == section.kind).ok_or_else(|| {
                let message = format!("unknown stage kind `{}`", section.kind);
                unknown_name(&message, &section.kind, "stage kind", &kinds)
            })?;
            let settings = stage.configure(section.table.clone()).map_err(|e| e.reword(|m| placed(m, section)))?;
            configured.push((stage, settings));
        }
        let references: Vec<Vec<String>> =
            configured.iter().map(|(_, c)| c.references().into_iter().map(|r| r.value).collect()).collect();
        let resolver = Resolver { sections: &recipe.sections, references: &references, dir: &recipe.dir };
        let mut nodes = Vec::new();
        for (at, (stage, configured)) in configured.into_iter().enumerate() {
            let mut links = Vec::new();
            for reference in configured.references() {
                for target in resolver.resolve(at, reference.key, &reference.value)? {
                    links.push(Link { key: reference.key.into(), reference: reference.value.clone(), target });
                }
            }
            nodes.push(Node {
                kind: recipe.sections[at].kind.clone(),
                name: recipe.sections[at].name.clone(),
                format_version: stage.format_version(),
                uses_device: stage.uses_device(),
                configured,
                links,
            });
        }
        Ok(Self { nodes })
    }

    /// Which stages depend on one, itself included.
    pub fn dependents(&self, start: usize) -> Vec<bool> {
        let mut found = vec![false; self.nodes.len()];
        found[start] = true;
        for at in start + 1..self.nodes.len() {
            found[at] = self.nodes[at].links.iter().any(|link| matches!(link.target, Target::Stage(i) if found[i]));
        }
        found
    }

    /// A stage's inputs as it sees them; `artifact` tells where a stage's artifact is.
    pub fn inputs(&self, at: usize, artifact: impl Fn(&Node) -> PathBuf) -> Vec<Input> {
        let links = &self.nodes[at].links;
        // Artifacts go by their names, but two of the same name (of different runs) by their paths.
        let is_alone = |name: &str| links.iter().filter(|link| self.name_of(link) == Some(name)).count() == 1;
        let input = |link: &Link| {
            let (path, kind) = match &link.target {
                Target::Stage(i) => (artifact(&self.nodes[*i]), Some(self.nodes[*i].kind.clone())),
                Target::Artifact { path, kind, .. } => (path.clone(), Some(kind.clone())),
                Target::Path(path) => (path.clone(), None),
            };
            let name = self.name_of(link).filter(|name| is_alone(name)).unwrap_or(&link.reference);
            Input { key: link.key.clone(), reference: name.to_string(), path, kind }
        };
        links.iter().map(input).collect()
    }

    /// The name of the artifact that a reference means.
    fn name_of<'a>(&'a self, link: &'a Link) -> Option<&'a str> {
        match &link.target {
            Target::Stage(i) => Some(&self.nodes[*i].name),
            Target::Artifact { name, .. } => Some(name),
            Target::Path(_) => None,
        }
    }
}

/// A stage knows its kind only: its messages get the section's full name.
fn placed(message: &str, section: &Section) -> String {
    let full = section.full_name();
    let text = message
        .replace(&format!("[{}.", section.kind), &format!("[{full}."))
        .replace(&format!("[{}]", section.kind), &format!("[{full}]"));
    if text.contains(&full) { text } else { format!("[{full}]: {text}") }
}

struct Resolver<'a> {
    sections: &'a [Section],
    references: &'a [Vec<String>],
    dir: &'a Path,
}

impl Resolver<'_> {
    /// The name of an earlier stage, else a path from the recipe's folder, else a pattern for files.
    fn resolve(&self, at: usize, key: &str, value: &str) -> Result<Vec<Target>> {
        let named = |section: &Section| section.full_name() == value || section.name == value;
        let earlier: Vec<usize> = (0..at).filter(|i| named(&self.sections[*i])).collect();
        match earlier.as_slice() {
            [one] => return Ok(vec![Target::Stage(*one)]),
            [] => {}
            several => {
                let names: Vec<String> = several.iter().map(|i| self.sections[*i].full_name()).collect();
                let message = format!("{}: `{value}` could be {}", self.place(at, key), names.join(" or "));
                return Err(Error::usage(message).with_hint(format!("write {key} = \"{}\"", names[0])));
            }
        }
        let path = self.dir.join(value);
        if path.exists() {
            if !is_artifact(&path) {
                return Ok(vec![Target::Path(path)]);
            }
            let manifest = Manifest::read(&path)?;
            return Ok(vec![Target::Artifact { path, kind: manifest.kind, name: manifest.name }]);
        }
        let files = matching_files(value, self.dir)?;
        if !files.is_empty() {
            return Ok(files.into_iter().map(Target::Path).collect());
        }
        Err(self.unresolved(at, key, value))
    }

    fn place(&self, at: usize, key: &str) -> String {
        format!("`{key}` in [{}]", self.sections[at].full_name())
    }

    fn unresolved(&self, at: usize, key: &str, value: &str) -> Error {
        let place = self.place(at, key);
        let own = self.sections[at].full_name();
        let is = |section: &Section| section.full_name() == value || section.name == value;
        if let Some(later) = (at..self.sections.len()).find(|i| is(&self.sections[*i])) {
            let other = self.sections[later].full_name();
            if later == at {
                return Error::usage(format!("{place} names the stage itself")).with_hint("name an earlier stage");
            }
            if self.needs(later, at, &mut vec![false; self.sections.len()]) {
                return Error::usage(format!("{place} names {other}, which itself needs {own}: they form a circle"))
                    .with_hint("one of them must start from something else");
            }
            return Error::usage(format!("{place} names {other}, which comes later"))
                .with_hint(format!("move [{other}] above [{own}]"));
        }
        let what = if is_pattern(value) { "matches no file and is no stage" } else { "is neither a stage nor a path" };
        let error = Error::usage(format!("{place}: `{value}` {what} (looked in {})", self.dir.display()));
        let files: Vec<String> = neighbours(&self.dir.join(value), value);
        let names = self.sections[..at].iter().map(|section| section.name.as_str());
        match nearest(value, names.chain(files.iter().map(String::as_str))) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None if at == 0 => error.with_hint("relative paths start from the recipe's folder"),
            None => {
                let names: Vec<&str> = self.sections[..at].iter().map(|section| section.name.as_str()).collect();
                error.with_hint(format!(
                    "the earlier stages are {}; paths start from the recipe's folder",
                    names.join(", ")
                ))
            }
        }
    }

    /// Whether a stage needs another, directly or not.
    fn needs(&self, at: usize, other: usize, seen: &mut Vec<bool>) -> bool {
        if std::mem::replace(&mut seen[at], true) {
            return false;
        }
        self.references[at].iter().any(|value| {
            let found = self.sections.iter().position(|s| s.full_name() == *value || s.name == *value);
            found.is_some_and(|i| i == other || self.needs(i, other, seen))
        })
    }
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The files that a pattern like `corpus/*.txt` matches, sorted.
fn matching_files(pattern: &str, dir: &Path) -> Result<Vec<PathBuf>> {
    if !is_pattern(pattern) {
        return Ok(Vec::new());
    }
    let full = if Path::new(pattern).is_absolute() {
        pattern.to_string()
    } else {
        format!("{}/{pattern}", glob::Pattern::escape(&dir.to_string_lossy()))
    };
    let options = glob::MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..glob::MatchOptions::default()
    };
    let paths = glob::glob_with(&full, options)
        .map_err(|e| Error::usage(format!("`{pattern}` is not a valid pattern")).with_source(e))?;
    let mut files: Vec<PathBuf> = paths.flatten().filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

/// What lies beside a path that does not exist, written as the path was.
fn neighbours(path: &Path, written: &str) -> Vec<String> {
    let Some(entries) = path.parent().and_then(|parent| std::fs::read_dir(parent).ok()) else { return Vec::new() };
    let prefix = written.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let mut names: Vec<String> =
        entries.flatten().map(|entry| format!("{prefix}{}", entry.file_name().display())).collect();
    names.sort();
    names
}
