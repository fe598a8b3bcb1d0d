//! A data run that is killed goes on where it was, and writes the same bytes.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Enough text that a run takes a second or more.
const DOCUMENTS: usize = 24_000;

fn corpus(dir: &Path) {
    let mut state = 3_u64;
    let mut lines = String::new();
    for i in 0..DOCUMENTS {
        lines += &format!("{{\"id\":\"{i}\",\"text\":\"");
        for _ in 0..250 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            lines += &format!("w{} ", (state >> 33) % 9000);
        }
        lines += "\"}\n";
    }
    fs::write(dir.join("corpus.jsonl"), lines).unwrap();
}

fn command(dir: &Path, out: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cupola"));
    command.current_dir(dir).args(["data", "corpus.jsonl", "--out", out]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Descriptions of complete parts.
fn parts(work: &Path) -> usize {
    fs::read_dir(work.join("pass-0")).map_or(0, |entries| {
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "json")).count()
    })
}

#[test]
fn a_killed_data_run_goes_on_and_writes_the_same() {
    let dir = tempfile::tempdir().unwrap();
    corpus(dir.path());
    assert!(command(dir.path(), "whole").status().unwrap().success());

    let mut child = command(dir.path(), "cut").spawn().unwrap();
    let work = dir.path().join("cut/.work/data.corpus/work");
    let start = Instant::now();
    while parts(&work) == 0 {
        assert!(
            child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(120),
            "no part was written"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let written = parts(&work);
    assert!(written >= 1 && !dir.path().join("cut/data.corpus").exists());
    assert!(command(dir.path(), "cut").status().unwrap().success());
    for file in ["train.jsonl.zst", "validation.jsonl.zst", "report.json", "report.html"] {
        let read = |out: &str| fs::read(dir.path().join(out).join("data.corpus").join(file)).unwrap();
        assert!(read("whole") == read("cut"), "{file}");
    }
    assert!(!dir.path().join("cut/.work/data.corpus").exists());
}
