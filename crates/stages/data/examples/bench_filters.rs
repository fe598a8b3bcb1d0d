//! The quality filters on documents of a file, for `bench/data`.
//!
//!     bench_filters FILE SECONDS      megabytes in a second of processor time, at least SECONDS for each row
//!     bench_filters FILE verdicts     each document's verdicts, a JSON line each
//!
//! FILE has records with `id` and `text`.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use cupola_artifact::{Context, Error, Result};
use cupola_data::{Each, Notes, STEPS, Setting, Verdict, Work, by_name};
use cupola_records::{Document, read_records};
use serde_json::{Map, Value, json};

const NAMES: [&str; 4] = ["gopher_repetition", "gopher_quality", "c4", "fineweb"];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, what] = args.as_slice() else { return Err(Error::usage("usage: bench_filters FILE SECONDS|verdicts")) };
    let documents: Vec<Document> = read_records(Path::new(file))?
        .map(|record| {
            let value = record?.value;
            let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            Ok(Document::new(field("id"), field("text"), file))
        })
        .collect::<Result<_>>()?;
    let steps = NAMES.map(|name| (name, step(name)));
    let steps: Vec<(&str, Box<dyn Each>)> =
        steps.into_iter().map(|(name, step)| step.map(|step| (name, step))).collect::<Result<_>>()?;
    match what.parse::<f64>() {
        Ok(seconds) => measure(&documents, &steps, seconds),
        Err(_) => verdicts(&documents, &steps),
    }
    .context(|| "cannot print the results".to_owned())
}

/// A step with its default settings, ready.
fn step(name: &str) -> Result<Box<dyn Each>> {
    let Work::Each(mut step) = by_name(STEPS, name)?.configure(toml::Table::new())?.work else {
        return Err(Error::failed(format!("`{name}` compares documents")));
    };
    step.prepare(&Setting { recipe_dir: Path::new("."), seed: 0 })?;
    Ok(step)
}

fn measure(documents: &[Document], steps: &[(&str, Box<dyn Each>)], seconds: f64) -> std::io::Result<()> {
    let megabytes = documents.iter().map(|document| document.text.len()).sum::<usize>() as f64 / 1e6;
    let alone = steps.iter().map(|(name, step)| (*name, vec![&**step]));
    let together = ("all", steps.iter().map(|(_, step)| &**step).collect());
    for (name, steps) in alone.chain([together]) {
        let (start, mut passes) = (Clock::start(), 0.0);
        while start.seconds() < seconds {
            passes += 1.0;
            for document in documents {
                judge(document, &steps);
            }
        }
        let line = json!({ "name": name, "value": passes * megabytes / start.seconds() });
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}

/// Every step on the document as it came.
fn judge(document: &Document, steps: &[&dyn Each]) -> Vec<(Verdict, Document)> {
    let judged = steps.iter().map(|step| {
        let mut document = document.clone();
        (step.apply(&mut document, &mut Notes::default()), document)
    });
    judged.collect()
}

fn verdicts(documents: &[Document], steps: &[(&str, Box<dyn Each>)]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let steps: Vec<&dyn Each> = steps.iter().map(|(_, step)| &**step).collect();
    for document in documents {
        let mut line = Map::from_iter([("id".to_owned(), Value::from(document.id.clone()))]);
        for (name, (verdict, after)) in NAMES.iter().zip(judge(document, &steps)) {
            let told = match verdict {
                Verdict::Keep => "keep".to_owned(),
                Verdict::Drop(reason) => reason.to_owned(),
                Verdict::SetAside(error) => error,
            };
            line.insert((*name).to_owned(), told.into());
            if *name == "c4" {
                line.insert("c4_text".to_owned(), after.text.into());
            }
        }
        writeln!(out, "{}", Value::Object(line))?;
    }
    Ok(())
}

/// This thread's processor time where the system tells it, else the time that passes.
struct Clock {
    cpu: Option<u64>,
    wall: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { cpu: Self::nanoseconds(), wall: Instant::now() }
    }

    fn nanoseconds() -> Option<u64> {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        told.split_whitespace().next()?.parse().ok()
    }

    fn seconds(&self) -> f64 {
        match (self.cpu, Self::nanoseconds()) {
            (Some(before), Some(now)) => (now - before) as f64 / 1e9,
            _ => self.wall.elapsed().as_secs_f64(),
        }
    }
}
