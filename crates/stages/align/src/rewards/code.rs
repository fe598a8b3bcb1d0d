//! 1 for a program that passes its tests.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cupola_artifact::{Context, Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::reward::{Answered, Kind, Making, Reward, Settings, settings, text_of};
use crate::stage::KIND;

/// Runs an answer's Python program with the tests of its record.
pub struct Code;

/// Its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Running {
    /// The record's field with the tests, statements that fail where the program is wrong.
    field: String,
    /// Seconds of processor time for a program with its tests; twice that by the clock.
    seconds: u64,
    /// Memory that it may take, MiB.
    memory: u64,
    /// The interpreter.
    python: String,
}

impl Default for Running {
    fn default() -> Self {
        Self { field: "tests".into(), seconds: 5, memory: 512, python: "python3".into() }
    }
}

impl Kind for Code {
    fn name(&self) -> &'static str {
        "code"
    }

    fn about(&self) -> &'static str {
        "1 where the answer's Python program passes the record's tests, run without network and with limits"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Settings>> {
        let running: Running = settings(self.name(), table)?;
        match running.seconds == 0 || running.memory < 32 {
            true => Err(Error::usage(format!(
                "a reward of kind `code` in [{KIND}] must have `seconds` of at least 1 and `memory` of at least 32"
            ))),
            false => Ok(Box::new(running)),
        }
    }
}

impl Settings for Running {
    fn effective(&self) -> Value {
        json!(self)
    }

    fn make(&self, _: &Making<'_>) -> Result<Box<dyn Reward>> {
        // Whether the fence holds is seen before any answer runs: one that passes, one that is to be stopped.
        let passes = self.passes("x = 1", "assert x == 1")?;
        let stopped = self.passes("import socket\nsocket.create_connection(('127.0.0.1', 9), 1)", "")?;
        if !passes {
            return Err(Error::failed(format!("`{}` does not run a program in the sandbox", self.python)).with_hint(
                "programs run by `unshare --user --net --map-root-user` and `prlimit` (util-linux); both must work for this user",
            ));
        }
        match stopped {
            true => Err(Error::failed("the sandbox does not keep programs from the network")),
            false => Ok(Box::new(self.clone())),
        }
    }
}

/// The program in an answer: what stands between fences, or all of it.
fn program(text: &str) -> &str {
    let Some((_, rest)) = text.split_once("```") else { return text };
    let rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    rest.split_once("```").map_or(rest, |(code, _)| code)
}

impl Running {
    /// Whether a program and its tests end well. It has no network, an empty folder, its limits, and no environment.
    fn passes(&self, code: &str, tests: &str) -> Result<bool> {
        let folder = std::env::temp_dir().join(format!("cupola-code-{}-{:x}", std::process::id(), unique()));
        std::fs::create_dir_all(&folder).context(|| format!("cannot create {}", folder.display()))?;
        let limits = [
            format!("--cpu={}", self.seconds),
            format!("--as={}", self.memory << 20),
            "--fsize=1048576".to_owned(),
            "--nproc=64".to_owned(),
            "--core=0".to_owned(),
        ];
        let started = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "prlimit"])
            .args(limits)
            .args(["--", &self.python, "-I", "-S", "-"])
            .current_dir(&folder)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let outcome = started
            .context(|| "cannot start `unshare`, which keeps programs from the network".into())
            .map_err(|e| e.with_hint("install util-linux, or leave the reward of kind `code` out"))
            .and_then(|mut child| {
                // Said after the last test: a program that leaves before it cannot know what to say.
                let word = format!("{:x}", std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), code));
                if let Some(mut input) = child.stdin.take() {
                    // A program that does not read to its end has failed, which its status says.
                    let _ = write!(input, "{code}\n\n{tests}\nprint({word:?})\n");
                }
                let told = child.stdout.take().map(|out| std::thread::spawn(move || last_of(out)));
                let deadline = Instant::now() + Duration::from_secs(2 * self.seconds);
                loop {
                    match child.try_wait().context(|| "cannot wait for a program".into())? {
                        Some(status) => {
                            let told = told.and_then(|told| told.join().ok()).unwrap_or_default();
                            return Ok(status.success() && told.trim_ascii_end().ends_with(word.as_bytes()));
                        }
                        None if Instant::now() > deadline => {
                            child.kill().and_then(|()| child.wait()).context(|| "cannot stop a program".into())?;
                            return Ok(false);
                        }
                        None => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
        std::fs::remove_dir_all(&folder).context(|| format!("cannot remove {}", folder.display()))?;
        outcome
    }
}

/// The last bytes of what a program says, which may be much.
fn last_of(mut out: impl Read) -> Vec<u8> {
    const KEPT: usize = 256;
    let (mut last, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = out.read(&mut piece) {
        last.extend_from_slice(&piece[..n]);
        last.drain(..last.len().saturating_sub(KEPT));
    }
    last
}

/// A number that no other call gives.
fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Reward for Running {
    fn score(&self, answers: &[Answered<'_>]) -> Result<Vec<Option<f64>>> {
        let one = |answered: &Answered<'_>| {
            let passes = self.passes(program(answered.text), text_of(answered.record, &self.field)?)?;
            Ok(Some(f64::from(u8::from(passes))))
        };
        answers.par_iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a failing test should panic, a skipped one say so")]

    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_program_is_found_between_fences() {
        assert_eq!(program("x = 1"), "x = 1");
        assert_eq!(program("Here:\n```python\nx = 1\n```\nDone."), "x = 1\n");
        assert_eq!(program("```\nx = 1"), "x = 1");
        assert_eq!(program("```"), "");
    }

    #[test]
    fn programs_are_judged_by_their_tests_and_held_in_their_limits() {
        let settings = Code.configure("seconds = 1\nmemory = 256".parse().unwrap()).unwrap();
        let device = Device::flex();
        let reward = match settings.make(&Making { inputs: &[], device: &device }) {
            Ok(reward) => reward,
            Err(error) => {
                eprintln!("skipped: {}", error.chain());
                return;
            }
        };
        let record = json!({"tests": "assert double(4) == 8\nassert double(-1) == -2"});
        let answered = |text| Answered { prompt: &[], text, tokens: 1, ended: true, record: &record };
        let answers = [
            "```python\ndef double(x):\n    return 2 * x\n```",
            "def double(x):\n    return x * x",
            "def double(x):\n    while True: pass",
            "def double(x):\n    return len(bytearray(10**9)) and 2 * x",
            "def double(x:",
            "import os\nos._exit(0)",
        ];
        let scores = reward.score(&answers.map(answered)).unwrap();
        // Who leaves before the tests has not passed them.
        assert_eq!(scores, [Some(1.0), Some(0.0), Some(0.0), Some(0.0), Some(0.0), Some(0.0)]);
        let bare = json!({});
        let error = reward.score(&[Answered { record: &bare, ..answered("x") }]).unwrap_err();
        assert!(error.to_string().contains("`tests`"), "{error}");
        assert!(Code.configure("seconds = 0".parse().unwrap()).is_err());
    }
}
