//! What a server has answered, on disk: a run that is cut off does not ask twice.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cupola_artifact::{Context, Result};
use cupola_client::Answer;
use serde::{Deserialize, Serialize};

use crate::pipeline::read_exact_at;

#[derive(Serialize, Deserialize)]
struct Line {
    /// The first half of the request's SHA-256, in hexadecimal digits.
    request: String,
    answer: Answer,
}

/// A file of answers, one on each line; some 50 bytes of memory for each.
pub struct Answers {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    file: File,
    end: u64,
    /// Where the lines are and how long: by the request.
    lines: HashMap<u128, (u64, u32)>,
}

impl Answers {
    /// Opens the file in a folder, which is made if it is not there. A line that was cut off is removed.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("answers.jsonl");
        let cannot = || format!("cannot use {}", path.display());
        std::fs::create_dir_all(dir).context(cannot)?;
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).context(cannot)?;
        let (mut lines, mut end) = (HashMap::new(), 0);
        let (mut reader, mut line) = (BufReader::new(&file), Vec::new());
        while reader.read_until(b'\n', &mut line).context(cannot)? > 0 {
            if line.last() != Some(&b'\n') {
                break;
            }
            if let Ok(Line { request, .. }) = serde_json::from_slice(&line)
                && let Ok(request) = u128::from_str_radix(&request, 16)
                && let Ok(length) = u32::try_from(line.len())
            {
                lines.insert(request, (end, length));
            }
            end += line.len() as u64;
            line.clear();
        }
        drop(reader);
        file.set_len(end).context(cannot)?;
        Ok(Self { state: Mutex::new(State { file, end, lines }), path })
    }

    /// The answer to a request, if it was given before.
    pub fn get(&self, request: u128) -> Result<Option<Answer>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, length)) = state.lines.get(&request).copied() else { return Ok(None) };
        let cannot = || format!("cannot read {}", self.path.display());
        let mut line = vec![0; length as usize];
        read_exact_at(&state.file, &mut line, at).context(cannot)?;
        drop(state);
        serde_json::from_slice::<Line>(&line).map(|line| Some(line.answer)).context(cannot)
    }

    /// Keeps an answer.
    pub fn put(&self, request: u128, answer: &Answer) -> Result<()> {
        let line = Line { request: format!("{request:032x}"), answer: answer.clone() };
        let cannot = || format!("cannot write {}", self.path.display());
        let mut line = serde_json::to_vec(&line).context(cannot)?;
        line.push(b'\n');
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.file.write_all(&line).context(cannot)?;
        let at = state.end;
        state.end += line.len() as u64;
        if let Ok(length) = u32::try_from(line.len()) {
            state.lines.insert(request, (at, length));
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_again_and_a_torn_line_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let answer = |text: &str| Answer { text: text.into(), prompt_tokens: 3, ..Answer::default() };
        let answers = Answers::open(dir.path()).unwrap();
        answers.put(1, &answer("one\n\"é\"")).unwrap();
        answers.put(u128::MAX, &answer("two")).unwrap();
        assert_eq!(answers.get(1).unwrap().unwrap(), answer("one\n\"é\""));
        drop(answers);
        let path = dir.path().join("answers.jsonl");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"request\": \"0005\", \"ans").unwrap();
        let answers = Answers::open(dir.path()).unwrap();
        assert_eq!(answers.get(5).unwrap(), None);
        answers.put(6, &answer("six")).unwrap();
        drop(answers);
        let answers = Answers::open(dir.path()).unwrap();
        assert_eq!(answers.get(u128::MAX).unwrap().unwrap(), answer("two"));
        assert_eq!(answers.get(6).unwrap().unwrap(), answer("six"));
    }
}
