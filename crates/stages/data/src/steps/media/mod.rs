//! Pictures and recordings listed beside the text that names them.

mod find;
mod header;

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use cupola_artifact::{Error, Result, sha256_hex};
use cupola_records::{Archive, Document};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use url::Url;

use crate::step::{Each, Kind, Notes, Setting, Verdict};

use find::{Medium, references};
use header::header;

/// The step.
pub const MEDIA: Kind = Kind::each::<Media>(
    "media",
    "lists the images and audio that documents name, with hash, type and size, in the fields `images` and `audio`",
);

/// Endings of files that belong to a text file of the same name, as captions do.
const ENDINGS: &[&str] = &["png", "jpg", "jpeg", "gif", "webp", "bmp", "wav", "flac", "mp3", "ogg", "opus"];

/// Reads the files that documents name, to their ends for the hash and no further than their headers for what they are. They are
/// named by Markdown and HTML, by the fields `images` and `audio` (a path, an address, an object with `path` or `url`, or a
/// list of those), by lying beside a text file of the same name, or in a book or a Word document. This step comes before one
/// that takes markup away.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// Where paths start from, relative to the recipe; the folder of the document's file if not said. No path leads out of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Larger files are left out, bytes.
    pub max_bytes: u64,
    /// Whether documents that list nothing in the end are dropped.
    pub require: bool,
    #[serde(skip)]
    recipe_dir: PathBuf,
}

impl Default for Media {
    fn default() -> Self {
        Self { root: None, max_bytes: 64 << 20, require: false, recipe_dir: PathBuf::new() }
    }
}

/// Where a document's relative references lead.
enum Base {
    /// To files of a folder.
    Folder(PathBuf),
    /// To members of an archive, which is called so.
    Archive(String, Box<Archive>),
    /// To other addresses.
    Address(Url),
    /// Nowhere.
    Nowhere,
}

/// What a document lists.
#[derive(Default)]
struct Listed {
    images: Vec<Value>,
    audio: Vec<Value>,
    seen: BTreeSet<String>,
}

impl Listed {
    fn add(&mut self, medium: Medium, item: Map<String, Value>) {
        let name = item.get("path").or_else(|| item.get("url")).map(Value::to_string).unwrap_or_default();
        if self.seen.insert(name) {
            match medium {
                Medium::Image => &mut self.images,
                Medium::Audio => &mut self.audio,
            }
            .push(item.into());
        }
    }
}

impl Each for Media {
    fn validate(&self) -> Result<()> {
        match self.max_bytes {
            1..=0x4000_0000 => Ok(()),
            other => Err(Error::usage(format!("`max_bytes` of `media` is {other}, not from 1 to 1 GiB"))),
        }
    }

    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        self.recipe_dir = setting.recipe_dir.to_path_buf();
        Ok(())
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let mut base = self.base(document);
        let mut listed = Listed::default();
        for (medium, reference, known) in named(document) {
            if let Some((medium, item)) = self.look(&mut base, medium, &reference, known, notes) {
                listed.add(medium, item);
            }
        }
        for (medium, item) in self.beside(document, &mut base, notes) {
            listed.add(medium, item);
        }
        for (name, items) in [("images", listed.images), ("audio", listed.audio)] {
            notes.count(name, items.len() as u64);
            document.fields.remove(name);
            if !items.is_empty() {
                document.fields.insert(name.to_owned(), items.into());
            }
        }
        let none = !document.fields.contains_key("images") && !document.fields.contains_key("audio");
        if self.require && none { Verdict::Drop("no_media") } else { Verdict::Keep }
    }
}

/// An entry of a list, and of which.
type Item = (Medium, Map<String, Value>);

/// What a document's fields and markup name, with what the fields say of it besides.
fn named(document: &Document) -> Vec<(Medium, String, Map<String, Value>)> {
    let mut all = Vec::new();
    for (field, medium) in [("images", Medium::Image), ("audio", Medium::Audio)] {
        let several = match document.fields.get(field) {
            Some(Value::Array(items)) => items.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        for item in several {
            let text = |name: &str| item.get(name).and_then(Value::as_str);
            let reference = item.as_str().or(text("path")).or(text("url"));
            if let Some(reference) = reference {
                let mut known = item.as_object().cloned().unwrap_or_default();
                ["path", "url"].into_iter().for_each(|name| drop(known.remove(name)));
                all.push((medium, reference.to_owned(), known));
            }
        }
    }
    let markup = [document.text.as_str(), document.field("html").unwrap_or_default()];
    let found = markup.into_iter().flat_map(references);
    all.extend(found.map(|(medium, reference)| (medium, reference, Map::new())));
    all
}

impl Media {
    fn base(&self, document: &Document) -> Base {
        if let Some(root) = &self.root {
            return Base::Folder(self.recipe_dir.join(root));
        }
        let address = document.field("url").or(Some(document.source.as_str()));
        if let Some(address) = address.and_then(|address| Url::parse(address).ok())
            && matches!(address.scheme(), "http" | "https")
        {
            return Base::Address(address);
        }
        let file = self.recipe_dir.join(&document.source);
        let open = |name: &str| {
            let archive = Archive::open(&self.recipe_dir.join(name)).ok();
            archive.map_or(Base::Nowhere, |archive| Base::Archive(name.to_owned(), Box::new(archive)))
        };
        match (file.extension().and_then(|ending| ending.to_str()), file.parent()) {
            (Some("epub" | "docx"), _) if file.is_file() => open(&document.source),
            (_, Some(folder)) if file.is_file() => Base::Folder(folder.to_path_buf()),
            // A member of an archive has its neighbours there.
            _ => document.source.split_once('!').map_or(Base::Nowhere, |(archive, _)| open(archive)),
        }
    }

    /// Looks at what a reference leads to.
    fn look(
        &self,
        base: &mut Base,
        medium: Medium,
        reference: &str,
        known: Map<String, Value>,
        notes: &mut Notes,
    ) -> Option<Item> {
        if reference.starts_with("data:") {
            notes.count("inline", 1);
            return None;
        }
        let address = match base {
            Base::Address(base) => base.join(reference).ok(),
            _ => Url::parse(reference).ok(),
        };
        if let Some(address) = address.filter(|address| matches!(address.scheme(), "http" | "https")) {
            notes.count("addresses", 1);
            let mut item = known;
            item.insert("url".to_owned(), address.as_str().into());
            return Some((medium, item));
        }
        // Books name their pictures from their chapters' folders.
        let Some(inside) = inside(reference, matches!(base, Base::Archive(..))) else {
            notes.count("outside", 1);
            return None;
        };
        match base {
            Base::Folder(folder) => self.file(&folder.join(inside), known, notes),
            Base::Archive(name, archive) => match member(archive, &inside) {
                Some(member) => self.member(name, archive, &member, known, notes),
                None => counted(notes, "missing"),
            },
            Base::Address(_) | Base::Nowhere => counted(notes, "missing"),
        }
    }

    /// What lies beside a text file under its name, and what a Word document holds.
    fn beside(&self, document: &Document, base: &mut Base, notes: &mut Notes) -> Vec<Item> {
        let file = self.recipe_dir.join(&document.source);
        match base {
            Base::Archive(name, archive) if name.ends_with(".docx") => {
                let held = |member: &String| member.starts_with("word/media/") && !member.ends_with('/');
                let members: Vec<String> = archive.names().filter(held).collect();
                members.iter().filter_map(|member| self.member(name, archive, member, Map::new(), notes)).collect()
            }
            Base::Folder(_) if file.extension().is_some_and(|ending| ending == "txt" || ending == "md") => {
                let there = ENDINGS.iter().map(|ending| file.with_extension(ending)).filter(|path| path.is_file());
                there.filter_map(|path| self.file(&path, Map::new(), notes)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn file(&self, path: &Path, known: Map<String, Value>, notes: &mut Notes) -> Option<Item> {
        let length = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            _ => return counted(notes, "missing"),
        };
        if length > self.max_bytes {
            return counted(notes, "too_large");
        }
        let name = path.strip_prefix(&self.recipe_dir).unwrap_or(path).display().to_string().replace('\\', "/");
        match std::fs::read(path) {
            Ok(bytes) => described(name, &bytes, known, notes),
            Err(_) => counted(notes, "broken"),
        }
    }

    fn member(
        &self,
        archive_name: &str,
        archive: &mut Archive,
        name: &str,
        known: Map<String, Value>,
        notes: &mut Notes,
    ) -> Option<Item> {
        match archive.read(name, self.max_bytes as usize) {
            Ok(Some(bytes)) => described(format!("{archive_name}!{name}"), &bytes, known, notes),
            Ok(None) | Err(_) => counted(notes, "broken"),
        }
    }
}

fn counted(notes: &mut Notes, what: &str) -> Option<Item> {
    notes.count(what, 1);
    None
}

/// A relative reference as a path that leads nowhere else; steps up are left out where `up` says so.
fn inside(reference: &str, up: bool) -> Option<PathBuf> {
    let plain = reference.split(['?', '#']).next().unwrap_or_default();
    let mut path = PathBuf::new();
    for part in Path::new(plain).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir if up || path.pop() => {}
            _ => return None,
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}

/// The member of that name, else the only one whose name ends so.
fn member(archive: &Archive, inside: &Path) -> Option<String> {
    let wanted = inside.display().to_string().replace('\\', "/");
    let ends = |name: &String| name.strip_suffix(wanted.as_str()).is_some_and(|before| before.ends_with('/'));
    let mut similar = archive.names().filter(ends);
    match (archive.names().find(|name| *name == wanted), similar.next(), similar.next()) {
        (Some(name), _, _) | (None, Some(name), None) => Some(name),
        _ => None,
    }
}

/// What is listed of a file; nothing of one whose header says nothing.
fn described(path: String, bytes: &[u8], known: Map<String, Value>, notes: &mut Notes) -> Option<Item> {
    let Some(header) = header(bytes) else { return counted(notes, "broken") };
    let mut item = known;
    let mut say = |name: &str, value: Value| drop(item.insert(name.to_owned(), value));
    say("path", path.into());
    say("sha256", sha256_hex(bytes).into());
    say("bytes", bytes.len().into());
    say("media_type", header.media_type.into());
    if let Some((width, height)) = header.size {
        say("width", width.into());
        say("height", height.into());
    }
    if let Some(seconds) = header.seconds {
        say("seconds", json!((seconds * 1e3).round() / 1e3));
    }
    let medium = if header.size.is_some() { Medium::Image } else { Medium::Audio };
    Some((medium, item))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
