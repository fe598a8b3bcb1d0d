//! Damaged copies of valid files: every one is read to an end, without a panic that gets out and without filling the memory.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::path::Path;

use cupola_records::read_records;

/// Damaged copies per file; `CUPOLA_MUTATIONS` sets another number for a longer search.
const COPIES: u64 = 150;

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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed");
    let mut wrong = Vec::new();
    let scratch = tempfile::tempdir().unwrap();
    // The Parquet reader's own panics are caught by ours; their messages would only fill the test's output.
    std::panic::set_hook(Box::new(|_| {}));
    for file in ["parquet/valid.parquet", "gzip/valid.jsonl.gz", "zstd/valid.jsonl.zst", "jsonl/bom.jsonl"] {
        let valid = std::fs::read(folder.join(file)).unwrap();
        let path = scratch.path().join(Path::new(file).file_name().unwrap());
        for seed in 1..=copies {
            let mut bytes = valid.clone();
            damage(&mut bytes, &mut Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            std::fs::write(&path, &bytes).unwrap();
            let results = read_records(&path).map_or(0, |records| records.take(1001).count());
            if results > 1000 {
                wrong.push(format!("{file}, seed {seed}: more records than were ever there"));
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(wrong.is_empty(), "{wrong:?}");
}
