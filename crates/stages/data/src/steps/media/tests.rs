#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::io::Write;

use super::*;

const GIF: &[u8] = b"GIF89a\x80\x02\xe0\x01 picture";

fn wav() -> Vec<u8> {
    let format = [[1, 0, 1, 0, 0x40, 0x1f, 0, 0].as_slice(), &8000_u32.to_le_bytes(), &[1, 0, 8, 0]].concat();
    let chunk = |name: &[u8], data: &[u8]| [name, &(data.len() as u32).to_le_bytes(), data].concat();
    [b"RIFF\0\0\0\0WAVE".as_slice(), &chunk(b"fmt ", &format), &chunk(b"data", &[128; 2000])].concat()
}

/// A folder with `sub/cat.gif`, `sub/cry.wav` and files that are none.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("sub")).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("sub/cat.gif", GIF);
    write("sub/cry.wav", &wav());
    write("sub/broken.png", b"\x89PNG\r\n\x1a\nno header");
    write("secret.gif", GIF);
    dir
}

fn step(dir: &Path, settings: &str) -> Media {
    let mut step: Media = toml::from_str(settings).unwrap();
    step.validate().unwrap();
    step.prepare(&Setting { recipe_dir: dir, seed: 0 }).unwrap();
    step
}

/// What a document lists in the end, and what was counted.
fn listed(dir: &Path, settings: &str, mut document: Document) -> (Document, Notes) {
    let mut notes = Notes::default();
    let verdict = step(dir, settings).apply(&mut document, &mut notes);
    let none = !document.fields.contains_key("images") && !document.fields.contains_key("audio");
    assert_eq!(verdict == Verdict::Drop("no_media"), none && settings.contains("require"));
    (document, notes)
}

fn paths(document: &Document, field: &str) -> Vec<String> {
    let name = |item: &Value| item.get("path").or(item.get("url")).unwrap().as_str().unwrap().to_owned();
    document.fields.get(field).map_or(Vec::new(), |items| items.as_array().unwrap().iter().map(name).collect())
}

#[test]
fn what_markup_names_is_listed_with_hash_type_and_size() {
    let dir = folder();
    std::fs::write(dir.path().join("sub/page.html"), "").unwrap();
    let text = "![cat](cat.gif) ![gone](gone.png) ![b](broken.png) ![out](../secret.gif) ![abs](/etc/passwd) ![d](data:image/gif;x)";
    let mut document = Document::new("a", text, "sub/page.html");
    document
        .fields
        .insert("html".into(), "<img src='cat.gif#x'><audio src=cry.wav></audio><img src=https://h/p.png>".into());
    let (document, notes) = listed(dir.path(), "require = true", document);
    let image = &document.fields["images"][0];
    assert_eq!(
        (&image["width"], &image["height"], &image["media_type"]),
        (&640.into(), &480.into(), &"image/gif".into())
    );
    assert_eq!((&image["sha256"], &image["bytes"]), (&sha256_hex(GIF).into(), &GIF.len().into()));
    assert_eq!(paths(&document, "images"), ["sub/cat.gif", "https://h/p.png"]);
    assert_eq!(document.fields["audio"][0]["seconds"], 0.25);
    let counts: Vec<(&str, u64)> = notes.counts().iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let want =
        [("addresses", 1), ("audio", 1), ("broken", 1), ("images", 2), ("inline", 1), ("missing", 1), ("outside", 2)];
    assert_eq!(counts, want);
}

#[test]
fn fields_are_completed_and_what_else_they_say_is_kept() {
    let dir = folder();
    std::fs::write(dir.path().join("a.jsonl"), "").unwrap();
    let mut document = Document::new("a", "text", "a.jsonl");
    document.fields.insert("images".into(), json!([{"path": "cat.gif", "caption": "a cat"}, "gone.gif", 7, "cry.wav"]));
    document.fields.insert("audio".into(), "cry.wav".into());
    let (document, notes) = listed(dir.path(), "root = 'sub'", document);
    assert_eq!(paths(&document, "images"), ["sub/cat.gif"]);
    assert_eq!(document.fields["images"][0]["caption"], "a cat");
    // A recording among the pictures is a recording.
    assert_eq!(paths(&document, "audio"), ["sub/cry.wav"]);
    assert_eq!(notes.counts()["missing"], 1);
    // Once more it stays as it is.
    let (again, _) = listed(dir.path(), "", document.clone());
    assert_eq!(paths(&again, "images"), ["sub/cat.gif"]);
    let (small, notes) = listed(
        dir.path(),
        "root = 'sub'\nmax_bytes = 10\nrequire = true",
        Document::new("a", "![](cat.gif)", "a.jsonl"),
    );
    assert!(small.fields.is_empty() && notes.counts()["too_large"] == 1);
}

#[test]
fn a_crawled_page_names_addresses_and_captions_lie_beside_their_pictures() {
    let dir = folder();
    let mut page = Document::new("a", "![](img/a.png) ![](//cdn/x.jpg)", "crawl:https://site/#1");
    page.fields.insert("url".into(), "https://site/b/c.html".into());
    let (page, _) = listed(dir.path(), "", page);
    assert_eq!(paths(&page, "images"), ["https://site/b/img/a.png", "https://cdn/x.jpg"]);
    for name in ["cat.txt", "cry.txt"] {
        std::fs::write(dir.path().join("sub").join(name), "words").unwrap();
    }
    assert_eq!(paths(&listed(dir.path(), "", Document::new("a", "a cat", "sub/cat.txt")).0, "images"), ["sub/cat.gif"]);
    assert_eq!(paths(&listed(dir.path(), "", Document::new("a", "miau", "sub/cry.txt")).0, "audio"), ["sub/cry.wav"]);
}

#[test]
fn books_and_word_documents_hold_their_pictures() {
    let dir = tempfile::tempdir().unwrap();
    for (name, member) in [("book.epub", "OEBPS/images/cat.gif"), ("letter.docx", "word/media/image1.gif")] {
        let file = std::fs::File::create(dir.path().join(name)).unwrap();
        let mut zip = Stored { file, directory: Vec::new(), count: 0, at: 0 };
        zip.add("mimetype", b"x");
        zip.add(member, GIF);
        zip.finish();
    }
    let mut book = Document::new("a", "", "book.epub");
    book.fields.insert("html".into(), "<img src='../images/cat.gif'><img src=../images/dog.gif>".into());
    let (book, notes) = listed(dir.path(), "", book);
    assert_eq!(paths(&book, "images"), ["book.epub!OEBPS/images/cat.gif"]);
    assert_eq!(notes.counts()["missing"], 1);
    let (letter, _) = listed(dir.path(), "", Document::new("a", "Dear", "letter.docx"));
    assert_eq!(paths(&letter, "images"), ["letter.docx!word/media/image1.gif"]);
}

/// Writes a zip archive without compression.
struct Stored {
    file: std::fs::File,
    directory: Vec<u8>,
    count: u16,
    at: u32,
}

impl Stored {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        let length = bytes.len() as u32;
        let mut common = [20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0].to_vec();
        [crc.sum(), length, length].into_iter().for_each(|word| common.extend(word.to_le_bytes()));
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        let local = [b"PK\x03\x04", common.as_slice(), name.as_bytes(), bytes].concat();
        self.directory.extend(
            [b"PK\x01\x02\x14\0", common.as_slice(), &[0; 10], &self.at.to_le_bytes(), name.as_bytes()].concat(),
        );
        self.file.write_all(&local).unwrap();
        (self.at, self.count) = (self.at + local.len() as u32, self.count + 1);
    }

    fn finish(mut self) {
        let count = self.count.to_le_bytes();
        let length = (self.directory.len() as u32).to_le_bytes();
        let end = [b"PK\x05\x06\0\0\0\0", count.as_slice(), &count, &length, &self.at.to_le_bytes(), &[0, 0]].concat();
        self.file.write_all(&[self.directory.as_slice(), &end].concat()).unwrap();
    }
}
