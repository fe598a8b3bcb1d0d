//! Damaged copies of valid files: every one is read to an end, without a panic that gets out and without filling the memory.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::path::Path;

use cupola_records::read_records;

/// Damaged copies per file; `CUPOLA_MUTATIONS` sets another number for a longer search.
const COPIES: u64 = 150;

/// One of every format and packing.
const FILES: &[&str] = &[
    "malformed/parquet/valid.parquet",
    "malformed/gzip/valid.jsonl.gz",
    "malformed/zstd/valid.jsonl.zst",
    "malformed/jsonl/bom.jsonl",
    "malformed/csv/embedded_newlines_crlf.csv",
    "malformed/warc/single_member.warc.gz",
    "malformed/warc/bad_http.warc.gz",
    "formats/rows.jsonl.bz2",
    "formats/rows.jsonl.xz",
    "formats/archive.zip",
    "formats/bzip2.zip",
    "formats/gnu.tar.gz",
    "formats/pax.tar.xz",
    "formats/evil.tar",
    "formats/table.arrows",
    "formats/table.lz4.feather",
    "formats/table.zstd.feather",
    "formats/table.uncompressed.feather",
    "formats/box.mbox",
    "formats/one.eml",
    "formats/letter.docx",
    "formats/book.epub",
    "formats/columns.pdf",
    #[cfg(feature = "sqlite")]
    "formats/base.sqlite",
];

struct Random(u64);

impl Random {
    /// Uniform below `n` (xorshift; Marsaglia 2003).
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Some bytes changed (half of the time near the end, where Parquet keeps its description), or a piece cut out.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let length = bytes.len();
        let at = if random.below(2) == 0 { random.below(length) } else { length - 1 - random.below(length.min(1000)) };
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = 0xFF,
            2 => bytes[at] = random.below(256) as u8,
            _ => drop(bytes.drain(at..(at + 1 + random.below(20)).min(length))),
        }
    }
}

#[test]
fn damaged_files_are_read_to_an_end() {
    let copies = std::env::var("CUPOLA_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(COPIES);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut wrong = Vec::new();
    let scratch = tempfile::tempdir().unwrap();
    // The Parquet reader's own panics are caught by ours; their messages would only fill the test's output.
    std::panic::set_hook(Box::new(|_| {}));
    for file in FILES {
        let valid = std::fs::read(folder.join(file)).unwrap();
        let path = scratch.path().join(Path::new(file).file_name().unwrap());
        let started = std::time::Instant::now();
        for seed in 1..=copies {
            let mut bytes = valid.clone();
            damage(&mut bytes, &mut Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            std::fs::write(&path, &bytes).unwrap();
            let results = read_records(&path).map_or(0, |records| records.take(1001).count());
            if results > 1000 {
                wrong.push(format!("{file}, seed {seed}: more records than were ever there"));
            }
        }
        // A copy takes some milliseconds; one that hangs takes for ever.
        let each = started.elapsed().as_secs_f64() / copies as f64;
        if each > 2.0 {
            wrong.push(format!("{file}: {each:.1} s for a copy"));
        }
    }
    let _ = std::panic::take_hook();
    assert!(wrong.is_empty(), "{wrong:?}");
}
