//! Texts in the encodings of the time before UTF-8.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::path::Path;

use cupola_records::read_records;
use sha2::{Digest, Sha256};

/// File, characters, and the beginning of the SHA-256 of its text in UTF-8, as Python's codecs decode it.
const DECLARATIONS: &[(&str, usize, &str)] = &[
    ("Russian_Russky-Cyrillic.txt", 9999, "4d0635ae1bc3e404"),
    ("Ukrainian-Cyrillic.txt", 9999, "939115b4da49faf1"),
    ("Japanese_Nihongo-SJIS.txt", 4500, "2c6a707395d51467"),
    ("Japanese_Nihongo-EUC.txt", 4501, "033ece78a8d18cea"),
    ("Japanese_Nihongo-JIS.txt", 4462, "ee2f6e8172ff567a"),
    ("Chinese_Mandarin-GB2312.txt", 5694, "ad0ea4d45afd232b"),
    ("Chinese_Mandarin-HZ.txt", 2976, "5501fd3db80866a7"),
    ("Greek_Ellinika-Greek.txt", 9999, "fd69a0714ba7f7d6"),
    ("Polish_Polski-Latin2.txt", 9999, "a6d5b30c68525ff4"),
    ("Hungarian_Magyar-Latin2.txt", 9999, "5dd329057e1a3d35"),
    ("German_Deutsch-Latin1.txt", 9999, "cdf26cb76889367d"),
    ("French_Francais-Latin1.txt", 9999, "e77f8617f6d1ac0b"),
    ("Turkish_Turkce-Turkish.txt", 9999, "43e3bdcb056f1af8"),
    ("Hebrew_Ivrit-Hebrew.txt", 7418, "f015a27ae6b27e88"),
    ("Arabic_Alarabia-Arabic.txt", 7726, "35eeba6070c57119"),
    ("Hungarian_Magyar-Unicode.txt", 4998, "da2c68193bc051bb"),
];

#[test]
fn sixteen_files_in_fourteen_encodings_are_decoded_from_their_bytes_alone() {
    let Some(data) = std::env::var_os("CUPOLA_DATA") else {
        #[expect(clippy::print_stderr, reason = "says that nothing was tested")]
        return eprintln!("skipped: CUPOLA_DATA is not set");
    };
    let folder = Path::new(&data).join("langid/legacy_encodings");
    let mut wrong = Vec::new();
    for (file, characters, expected) in DECLARATIONS {
        let record = match read_records(&folder.join(file)).unwrap().next().unwrap() {
            Ok(record) => record,
            Err(e) => {
                wrong.push(format!("{file}: {}", e.chain()));
                continue;
            }
        };
        let text = record.value["text"].as_str().unwrap();
        let hash: String = Sha256::digest(text.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect();
        if hash != *expected {
            let found = text.chars().count();
            wrong.push(format!("{file}: {} with {found} characters, not {characters}", record.value["encoding"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn read(bytes: &[u8], name: &str) -> Result<serde_json::Value, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read_records(&path).map_err(|e| e.chain())?.next().unwrap().map(|r| r.value).map_err(|e| e.chain())
}

#[test]
fn bytes_that_show_too_little_are_an_error_and_not_a_guess() {
    for unclear in [
        &b"caf\xE9\n"[..],
        b"\x89PNG\r\n\x1A\n\xFF\xFE\xFA\xF0\x90\x80\x01\x02\xFF\xFF\xFF\xFE\xFE\xFE\xFE\xFE\xFE\xFE",
    ] {
        assert!(read(unclear, "a.txt").unwrap_err().contains("invalid UTF-8"), "{unclear:?}");
    }
}

#[test]
fn a_page_says_its_encoding_itself() {
    let page = read(
        b"<html><head><meta http-equiv=Content-Type content='text/html; charset=koi8-r'></head>\xC4\xC1",
        "a.html",
    );
    let page = page.unwrap();
    assert!(page["html"].as_str().unwrap().ends_with("да"), "{page}");
    assert_eq!(page["encoding"], "KOI8-R");
}

#[test]
fn a_table_in_another_encoding_is_decoded_as_it_is_read() {
    let mut utf16 = vec![0xFF, 0xFE];
    let text: String = std::iter::once("a,b\n".to_owned()).chain((0..20_000).map(|i| format!("{i},ж\n"))).collect();
    utf16.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    std::fs::write(&path, utf16).unwrap();
    let rows: Vec<_> = read_records(&path).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 20_000);
    assert_eq!(rows[19_999].value, serde_json::json!({ "a": "19999", "b": "ж", "encoding": "UTF-16LE" }));
}
