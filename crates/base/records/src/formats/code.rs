//! Source code: a file is a record with its path and its language; and whole trees of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Result};
use serde_json::json;

use super::text::read_text;
use super::{Format, Stream};
use crate::content::{Content, Skipped};
use crate::{MAX_RECORD_BYTES, Record};

/// Languages by extension.
const LANGUAGES: &[(&str, &[&str])] = &[
    ("Ada", &["adb", "ads"]),
    ("Assembly", &["s", "asm"]),
    ("C", &["c", "h"]),
    ("C#", &["cs"]),
    ("C++", &["cpp", "cc", "cxx", "hpp", "hh", "hxx"]),
    ("CMake", &["cmake"]),
    ("CSS", &["css", "scss", "less"]),
    ("CUDA", &["cu", "cuh"]),
    ("Clojure", &["clj", "cljs"]),
    ("Dart", &["dart"]),
    ("Elixir", &["ex", "exs"]),
    ("Erlang", &["erl", "hrl"]),
    ("F#", &["fs", "fsx"]),
    ("Fortran", &["f90", "f95", "f03", "f"]),
    ("Go", &["go"]),
    ("Groovy", &["groovy", "gradle"]),
    ("HTML", &["html", "htm"]),
    ("Haskell", &["hs"]),
    ("JSON", &["json"]),
    ("Java", &["java"]),
    ("JavaScript", &["js", "mjs", "cjs", "jsx"]),
    ("Julia", &["jl"]),
    ("Kotlin", &["kt", "kts"]),
    ("Lean", &["lean"]),
    ("Lisp", &["lisp", "el", "scm", "rkt"]),
    ("Lua", &["lua"]),
    ("Makefile", &["mk"]),
    ("Markdown", &["md"]),
    ("MATLAB", &["m"]),
    ("Nix", &["nix"]),
    ("OCaml", &["ml", "mli"]),
    ("PHP", &["php"]),
    ("Pascal", &["pas"]),
    ("Perl", &["pl", "pm"]),
    ("PowerShell", &["ps1"]),
    ("Prolog", &["pro"]),
    ("Protocol Buffers", &["proto"]),
    ("Python", &["py", "pyi"]),
    ("R", &["r"]),
    ("Ruby", &["rb"]),
    ("Rust", &["rs"]),
    ("SQL", &["sql"]),
    ("Scala", &["scala"]),
    ("Shell", &["sh", "bash", "zsh"]),
    ("Swift", &["swift"]),
    ("TOML", &["toml"]),
    ("TeX", &["tex"]),
    ("Text", &["txt", "rst"]),
    ("TypeScript", &["ts", "tsx"]),
    ("Verilog", &["v", "sv"]),
    ("VHDL", &["vhd", "vhdl"]),
    ("XML", &["xml"]),
    ("YAML", &["yaml", "yml"]),
    ("Zig", &["zig"]),
];

/// Files known by their whole name.
const BY_NAME: &[(&str, &str)] = &[
    ("makefile", "Makefile"),
    ("gnumakefile", "Makefile"),
    ("dockerfile", "Dockerfile"),
    ("cmakelists.txt", "CMake"),
    ("justfile", "Just"),
    ("rakefile", "Ruby"),
    ("gemfile", "Ruby"),
];

pub(crate) const FORMAT: Format = Format {
    name: "source code",
    extensions: &[
        "adb", "ads", "s", "asm", "c", "h", "cs", "cpp", "cc", "cxx", "hpp", "hh", "hxx", "cmake", "css", "scss",
        "less", "cu", "cuh", "clj", "cljs", "dart", "ex", "exs", "erl", "hrl", "fs", "fsx", "f90", "f95", "f03", "f",
        "go", "groovy", "gradle", "hs", "java", "js", "mjs", "cjs", "jsx", "jl", "kt", "kts", "lean", "lisp", "el",
        "scm", "rkt", "lua", "mk", "m", "nix", "ml", "mli", "php", "pas", "pl", "pm", "ps1", "pro", "proto", "py",
        "pyi", "r", "rb", "rs", "sql", "scala", "sh", "bash", "zsh", "swift", "toml", "tex", "rst", "ts", "tsx", "v",
        "sv", "vhd", "vhdl", "xml", "yaml", "yml", "zig",
    ],
    // A folder of documents may hold a script; a tree of code is asked for as such.
    searched: false,
    fits: |_| true,
    is_surely: |_| false,
    open: |content| {
        let path = content.path.display().to_string();
        Ok(Box::new(std::iter::once_with(move || record(content, &path))) as Stream)
    },
};

/// The language that a file's name says it is in.
fn language(path: &str) -> Option<&'static str> {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path).to_lowercase();
    if let Some((_, language)) = BY_NAME.iter().find(|(known, _)| *known == name) {
        return Some(language);
    }
    let (_, extension) = name.rsplit_once('.')?;
    LANGUAGES.iter().find(|(_, extensions)| extensions.contains(&extension)).map(|(language, _)| *language)
}

fn record(content: Content, shown: &str) -> Result<Record> {
    let path = content.path.clone();
    let decoded = read_text(content)?;
    let value = json!({ "text": decoded.text, "path": shown, "language": language(shown).unwrap_or("unknown") });
    Ok(Record { source: path, line: 1, value })
}

/// Every file of a tree whose language is known, in the order of their paths; what is hidden, binary or huge is left out
/// and counted.
pub(crate) fn tree(folder: &Path, skipped: Skipped) -> Result<Stream> {
    let mut files = BTreeSet::new();
    walk(folder, &mut files)?;
    let folder = folder.to_path_buf();
    Ok(Box::new(files.into_iter().filter_map(move |path| file(&folder, &path, &skipped).transpose())))
}

fn walk(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let cannot = || format!("cannot read the folder {}", folder.display());
    for entry in std::fs::read_dir(folder).context(cannot)? {
        let entry = entry.context(cannot)?;
        let kind = entry.file_type().context(cannot)?;
        // Links are not followed: they lead out of the tree, or to what is read anyway.
        if entry.file_name().to_string_lossy().starts_with('.') || kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.insert(entry.path());
        }
    }
    Ok(())
}

fn file(folder: &Path, path: &Path, skipped: &Skipped) -> Result<Option<Record>> {
    let shown = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().replace('\\', "/");
    if language(&shown).is_none() {
        skipped.count("no_known_language");
        return Ok(None);
    }
    let bytes = path.metadata().context(|| format!("cannot read {}", path.display()))?.len();
    if bytes > MAX_RECORD_BYTES as u64 {
        skipped.count("too_large");
        return Ok(None);
    }
    let content = Content::of_file(path, skipped.clone())?;
    if content.packing.is_some() || content.head.contains(&0) {
        skipped.count("binary");
        return Ok(None);
    }
    match record(content, &shown) {
        Ok(record) => Ok(Some(record)),
        Err(_) => {
            skipped.count("encoding_unknown");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_extension_of_code_has_a_language() {
        for extension in FORMAT.extensions {
            assert!(language(&format!("a.{extension}")).is_some(), "{extension}");
        }
    }

    #[test]
    fn no_extension_of_a_language_is_named_twice() {
        let all: Vec<&str> = LANGUAGES.iter().flat_map(|(_, extensions)| extensions.iter().copied()).collect();
        let unique: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), unique.len());
    }
}
