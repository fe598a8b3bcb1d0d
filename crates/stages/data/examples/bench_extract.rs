//! Takes the content out of pages and measures the time of the processor.
//!
//!     cargo run --release -p cupola-data --example bench_extract -- pages.jsonl texts.jsonl [rounds] [settings in TOML]
//!
//! `pages.jsonl` has records with `id` and `html`, all in memory before the clock starts. The texts are written with their
//! `id`, their fields and the step's verdict; on the standard output come `pages` and `megabytes` per second of one core, as JSON.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use cupola_artifact::{Context, Error, Result, read_text};
use cupola_data::{Each, Notes, STEPS, Verdict, Work, by_name};
use cupola_records::{Document, read_records};
use serde_json::json;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pages, texts, rest @ ..] = arguments.as_slice() else {
        return Err(Error::usage("two arguments are needed: the pages and where the texts go"));
    };
    let rounds: usize =
        rest.first().map_or("1", String::as_str).parse().context(|| "the rounds are no number".to_owned())?;
    let settings = rest.get(1).map_or("", String::as_str);
    let settings = toml::from_str(settings).context(|| format!("`{settings}` is no TOML"))?;
    let Work::Each(step) = by_name(STEPS, "extract")?.configure(settings)?.work else {
        return Err(Error::failed("the step looks at several documents"));
    };
    let documents = read(Path::new(pages))?;
    let bytes: usize = documents.iter().filter_map(|d| d.field("html")).map(str::len).sum();
    let mut seconds = f64::INFINITY;
    let mut done = Vec::new();
    for _ in 0..rounds.max(1) {
        let batch = documents.clone();
        let start = Clock::start();
        done = batch.into_iter().map(|document| extract(step.as_ref(), document)).collect();
        seconds = seconds.min(start.seconds());
    }
    let mut out = String::new();
    for (document, verdict) in &done {
        let row = json!({"id": document.id, "text": document.text, "fields": document.fields, "verdict": format!("{verdict:?}")});
        out.push_str(&format!("{row}\n"));
    }
    std::fs::write(texts, out).context(|| format!("cannot write {texts}"))?;
    for (name, value) in [("pages", documents.len() as f64), ("megabytes", bytes as f64 / 1e6)] {
        let row = json!({"name": name, "value": value / seconds});
        writeln!(std::io::stdout(), "{row}").context(|| "cannot write".to_owned())?;
    }
    Ok(())
}

fn extract(step: &dyn Each, mut document: Document) -> (Document, Verdict) {
    let verdict = step.apply(&mut document, &mut Notes::default());
    (document, verdict)
}

fn read(path: &Path) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for record in read_records(path)? {
        let mut record = record?;
        let mut document = Document::new(record.value["id"].as_str().unwrap_or_default(), "", "");
        document.fields.insert("html".to_owned(), record.value["html"].take());
        documents.push(document);
    }
    Ok(documents)
}

/// Seconds of the processor in this thread where the system tells them (Linux), else of the clock on the wall.
struct Clock {
    wall: Instant,
    processor: Option<u64>,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), processor: nanoseconds() }
    }

    fn seconds(&self) -> f64 {
        match (self.processor, nanoseconds()) {
            (Some(start), Some(end)) => (end - start) as f64 / 1e9,
            _ => self.wall.elapsed().as_secs_f64(),
        }
    }
}

fn nanoseconds() -> Option<u64> {
    read_text(Path::new("/proc/thread-self/schedstat")).ok()?.split_whitespace().next()?.parse().ok()
}
