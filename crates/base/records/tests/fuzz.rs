//! The fuzz target's function over seeds that are damaged at random, for a while: what CI can do without a fuzzer. `fuzz/` goes on
//! for hours; `CUPOLA_FUZZ_SECONDS` sets another time here.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cupola_records::read_named_by_first_byte;

/// The longest seed: longer ones cost more than they find.
const LONGEST: u64 = 64 << 10;

/// Memory that the process may hold in the end, bytes.
#[cfg(target_os = "linux")]
const MEMORY: u64 = 1 << 30;

fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut waiting: Vec<PathBuf> = ["formats", "malformed"].iter().map(|name| folder.join(name)).collect();
    let mut seeds: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.metadata().unwrap().len() <= LONGEST {
            seeds.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    seeds.sort();
    seeds.into_iter().map(|(_, bytes)| bytes).collect()
}

struct Random(u64);

impl Random {
    /// Uniform below `n` (xorshift; Marsaglia 2003).
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// A seed with bytes changed, cut out, doubled or taken from another seed, under a name of any format.
fn damaged(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..random.below(5) {
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(64)).min(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 0x7F, 0x80, 0xFF][random.below(4)],
            2 => drop(bytes.drain(at.min(end)..end)),
            3 => drop(bytes.splice(at..at, bytes[at.min(end)..end].to_vec())),
            4 => bytes.truncate(at),
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let piece = &other[from..(from + random.below(256)).min(other.len())];
                drop(bytes.splice(at..at, piece.iter().copied()));
            }
        }
    }
    bytes.insert(0, random.below(256) as u8);
    bytes
}

#[test]
fn whatever_is_read_ends_in_records_or_errors() {
    let seconds = std::env::var("CUPOLA_FUZZ_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2.0);
    let seeds = seeds();
    assert!(seeds.len() > 40);
    // Panics of other libraries that the readers turn into errors; one that gets out fails the test.
    std::panic::set_hook(Box::new(|_| {}));
    let mut wrong = Vec::new();
    let (started, mut runs, mut records) = (Instant::now(), 0_u64, 0);
    while started.elapsed() < Duration::from_secs_f64(seconds) || runs < 300 {
        runs += 1;
        let mut random = Random(runs.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let bytes = damaged(&seeds, &mut random);
        let clock = Instant::now();
        match std::panic::catch_unwind(|| read_named_by_first_byte(&bytes)) {
            Ok(ended) => records += ended.records,
            Err(_) => wrong.push(format!("run {runs}: a panic got out")),
        }
        if clock.elapsed() > Duration::from_secs(10) {
            wrong.push(format!("run {runs}: {:?}", clock.elapsed()));
        }
    }
    let _ = std::panic::take_hook();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(records > 0, "nothing was read in {runs} runs");
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
        assert!(peak.parse::<u64>().unwrap() << 10 < MEMORY, "{peak} kB");
    }
}
