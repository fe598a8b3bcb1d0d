//! Every broken or tricky file in `tests/malformed`: how many good records, how many errors, and what they say.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::io::Write;
use std::path::{Path, PathBuf};

use cupola_records::read_records;

/// File, good records, errors (among them one from opening the file), words that must be in some error.
const EXPECTED: &[(&str, usize, usize, &[&str])] = &[
    ("gzip/valid.jsonl.gz", 200, 0, &[]),
    ("gzip/multi_member.jsonl.gz", 200, 0, &[]),
    // What was complete before the damage is kept; the damage is one error, and the stream ends.
    ("gzip/truncated.jsonl.gz", 95, 1, &["unexpected end", "after line 95"]),
    ("gzip/crc_mismatch.jsonl.gz", 200, 1, &["crc_mismatch.jsonl.gz"]),
    ("gzip/trailing_garbage.jsonl.gz", 200, 1, &["after line 200", "gzip"]),
    ("gzip/zeros_10mb.gz", 0, 1, &["binary"]),
    ("gzip/not_gzip.jsonl.gz", 0, 1, &["not a gzip file"]),
    ("gzip/empty.jsonl.gz", 0, 1, &["empty"]),
    ("zstd/valid.jsonl.zst", 200, 0, &[]),
    ("zstd/two_frames.jsonl.zst", 200, 0, &[]),
    ("zstd/truncated.jsonl.zst", 0, 1, &["unexpected end"]),
    ("zstd/checksum_mismatch.jsonl.zst", 200, 1, &["checksum"]),
    ("jsonl/broken_lines.jsonl", 20, 9, &["line 6", "not a JSON object", "hint"]),
    ("jsonl/nul_bytes.jsonl", 11, 2, &["line 6"]),
    ("jsonl/bom.jsonl", 5, 0, &[]),
    ("jsonl/utf16le.jsonl", 0, 1, &["UTF-16LE", "byte offset 0"]),
    ("jsonl/invalid_utf8.jsonl", 6, 5, &["invalid UTF-8 at byte offset", "0xE9", "line 4"]),
    ("jsonl/lone_surrogate_escape.jsonl", 3, 1, &["line 2"]),
    ("jsonl/empty.jsonl", 0, 0, &[]),
    ("jsonl/duplicate_keys.jsonl", 3, 0, &[]),
    ("jsonl/crlf_no_final_newline.jsonl", 5, 0, &[]),
    ("jsonl/deep_nesting.jsonl", 2, 1, &["line 2", "recursion"]),
    ("jsonl/wrong_types.jsonl", 6, 0, &[]),
    ("jsonl/huge_numbers.jsonl", 2, 2, &["line 2", "line 3"]),
    ("parquet/valid.parquet", 200, 0, &[]),
    ("parquet/truncated.parquet", 0, 1, &["footer"]),
    ("parquet/bad_footer_length.parquet", 0, 1, &["footer"]),
    ("parquet/magic_only.parquet", 0, 1, &["footer"]),
    // The first of four row groups is lost, the others are read.
    ("parquet/corrupt_page.parquet", 150, 1, &["row group 0"]),
    ("csv/ragged.csv", 4, 2, &["line 3: the row has 2 fields", "line 4: the row has 5 fields"]),
    ("csv/unclosed_quote.csv", 1, 1, &["line 3", "quote never closed"]),
    ("csv/embedded_newlines_crlf.csv", 2, 0, &[]),
    ("csv/semicolon_bom.csv", 2, 0, &[]),
    // Each gzip member is a record: the broken ones do not take the next with them.
    ("warc/broken_record.warc.gz", 3, 3, &["record 2", "Content-Length", "record 3", "record 4", "begins with"]),
    ("warc/truncated.warc.gz", 4, 1, &["unexpected end"]),
    ("warc/single_member.warc.gz", 5, 0, &[]),
    ("warc/bad_http.warc.gz", 2, 1, &["record 2", "no HTTP status line"]),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed")
}

/// Good records, and the errors with their hints.
fn read(path: &Path) -> (usize, Vec<String>) {
    let text = |e: cupola_artifact::Error| format!("{} [hint: {}]", e.chain(), e.hint().unwrap_or_default());
    let (mut good, mut errors) = (0, Vec::new());
    match read_records(path) {
        Err(e) => errors.push(text(e)),
        Ok(records) => {
            for record in records {
                match record {
                    Ok(record) => {
                        assert!(record.value.is_object() && record.line > 0);
                        good += 1;
                    }
                    Err(e) => errors.push(text(e)),
                }
                assert!(good + errors.len() < 1_000_000, "{} does not end", path.display());
            }
        }
    }
    (good, errors)
}

#[test]
fn every_malformed_file_gives_its_good_records_and_errors() {
    let mut wrong = Vec::new();
    for (file, good, errors, words) in EXPECTED {
        let found = read(&folder().join(file));
        let all = found.1.join("\n");
        let names_file = found.1.iter().all(|e| e.contains(file));
        if found.0 != *good || found.1.len() != *errors || !names_file || !words.iter().all(|w| all.contains(w)) {
            wrong.push(format!(
                "{file}: {} good (expected {good}), errors (expected {errors}): {:#?}",
                found.0, found.1
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_flipped_byte_in_a_gzip_stream_is_noticed() {
    let (_, errors) = read(&folder().join("gzip/flipped_byte.jsonl.gz"));
    assert!(!errors.is_empty());
}

#[test]
fn the_table_names_every_file_in_the_folder() {
    for kind in ["gzip", "zstd", "jsonl", "parquet", "csv", "warc"] {
        for entry in std::fs::read_dir(folder().join(kind)).unwrap() {
            let name = format!("{kind}/{}", entry.unwrap().file_name().to_string_lossy());
            let known = name == "gzip/flipped_byte.jsonl.gz" || EXPECTED.iter().any(|(file, ..)| *file == name);
            assert!(known, "{name}");
        }
    }
}

/// The whole collection that these files are from, larger ones too; `CUPOLA_DATA` says where it is.
#[test]
fn as_many_records_are_good_as_the_collection_says() {
    let Some(data) = std::env::var_os("CUPOLA_DATA") else {
        #[expect(clippy::print_stderr, reason = "says that nothing was tested")]
        return eprintln!("skipped: CUPOLA_DATA is not set");
    };
    let folder = Path::new(&data).join("malformed");
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for row in read_records(&folder.join("EXPECTED.csv")).unwrap() {
        let row = row.unwrap().value;
        let (file, expected) = (row["file"].as_str().unwrap(), row["good_records"].as_str().unwrap());
        let ours = ["gzip/", "zstd/", "jsonl/", "csv/", "parquet/", "warc/"].iter().any(|kind| file.starts_with(kind));
        if !ours {
            continue;
        }
        checked += 1;
        let (good, errors) = read(&folder.join(file));
        let broken = row["expected_behaviour"].as_str().unwrap().starts_with("error");
        if expected.parse().is_ok_and(|expected: usize| good != expected) || (broken && errors.is_empty() && good > 0) {
            wrong.push(format!("{file}: {good} good, expected {expected}: {errors:?}"));
        }
    }
    assert!(checked >= 39, "{checked}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn of_a_repeated_key_the_last_value_wins() {
    let record = read_records(&folder().join("jsonl/duplicate_keys.jsonl")).unwrap().next().unwrap().unwrap();
    assert_eq!(record.value["text"], "second");
}

#[test]
fn a_line_of_two_megabytes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.jsonl");
    let long = "long line ".repeat(200_000);
    std::fs::write(&path, format!("{{\"text\": \"a\"}}\n{{\"text\": \"{long}\"}}\n{{\"text\": \"b\"}}\n")).unwrap();
    assert_eq!(read(&path), (3, vec![]));
}

#[test]
fn a_decompression_bomb_is_refused_before_it_fills_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.jsonl.zst");
    let mut encoder = zstd::stream::write::Encoder::new(std::fs::File::create(&path).unwrap(), 1).unwrap();
    for _ in 0..400 {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
    }
    encoder.finish().unwrap();
    let (good, errors) = read(&path);
    assert_eq!(good, 0);
    assert!(errors.iter().any(|e| e.contains("decompression bomb")), "{errors:?}");
}

#[test]
fn a_compressed_file_without_the_extension_is_read_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for (from, to) in
        [("gzip/valid.jsonl.gz", "a.jsonl"), ("zstd/valid.jsonl.zst", "b.jsonl"), ("parquet/valid.parquet", "c.jsonl")]
    {
        let path = dir.path().join(to);
        std::fs::copy(folder().join(from), &path).unwrap();
        assert_eq!(read(&path), (200, vec![]), "{from}");
    }
}

#[test]
fn text_is_one_record_without_its_byte_order_mark() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    std::fs::write(&path, "\u{FEFF}one\ntwo\n").unwrap();
    let record = read_records(&path).unwrap().next().unwrap().unwrap();
    assert_eq!(record.value["text"], "one\ntwo\n");
}

#[test]
fn text_that_is_not_utf8_names_the_byte_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    std::fs::write(&path, b"\xEF\xBB\xBFone\ncaf\xE9\n").unwrap();
    let (good, errors) = read(&path);
    assert_eq!(good, 0);
    assert!(errors[0].contains("line 2") && errors[0].contains("byte offset 10 (0xE9)"), "{errors:?}");
}

#[test]
fn a_missing_file_hints_at_the_nearest_name() {
    let (_, errors) = read(&folder().join("jsonl/bmo.jsonl"));
    assert!(errors[0].contains("did you mean") && errors[0].contains("bom.jsonl"), "{errors:?}");
}
