//! Filters by lists of words, domains and addresses.

pub mod c4_bad_words;
mod phrases;
pub mod url_filter;
pub mod word_list;

use std::path::Path;

use cupola_artifact::{Error, Result, read_text};

/// The entries of a list file: a line each, without the space around them; empty lines and, where `comments`, lines that begin
/// with `#` are no entries.
fn read_list(recipe_dir: &Path, file: &str, comments: bool) -> Result<Vec<String>> {
    let text = read_text(&recipe_dir.join(file))?;
    let entries: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !(line.is_empty() || comments && line.starts_with('#')))
        .map(str::to_owned)
        .collect();
    if entries.is_empty() {
        return Err(Error::failed(format!("the list {file} has no entry")).with_hint("it should have one a line"));
    }
    Ok(entries)
}

/// All entries of some list files.
fn read_lists(recipe_dir: &Path, files: &[String], comments: bool) -> Result<Vec<String>> {
    let lists = files.iter().map(|file| read_list(recipe_dir, file, comments)).collect::<Result<Vec<_>>>()?;
    Ok(lists.into_iter().flatten().collect())
}
