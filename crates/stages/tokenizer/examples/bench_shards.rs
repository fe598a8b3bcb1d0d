//! From documents to packed shards, measured; one JSON line per figure with `name` and `value`:
//! `cargo run --release -p cupola-tokenizer --example bench_shards -- TOKENIZER DOCUMENTS OUT [LENGTH]`. DOCUMENTS is a file
//! of any kind that records are read from, with `text`; OUT is a folder that is made.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cupola_artifact::Result;
use cupola_records::{Document, Record, read_records};
use cupola_tokenizer::Tokenizer;
use cupola_tokenizer::pack::{Arrange, PackConfig, Sequences, Shards, Shuffle, arrange, write_shards};
use serde_json::Value;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [tokenizer, documents, out] = [0, 1, 2].map(|i| Path::new(&args[i]));
    let length = args.get(3).map_or(2048, |n| n.parse().unwrap());
    let tokenizer = Tokenizer::load(tokenizer).unwrap();
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let documents = read_records(documents).unwrap().map(document);
    let info = write_shards(documents, &tokenizer, &PackConfig::default(), 0, out).unwrap();
    let written = cpu_seconds() - cpu;
    let shards = Arc::new(Shards::open(out).unwrap());
    let rows = out.join("rows");
    let count = arrange(&shards, &Arrange { length, ..Arrange::default() }, &rows).unwrap();
    let (spent, clock) = (cpu_seconds() - cpu, started.elapsed().as_secs_f64());
    let megabytes = info.text_bytes as f64 / 1e6;
    line("shards, packed", megabytes / spent);
    line("shards, packed, by the clock", megabytes / clock);
    line("shards", megabytes / written);
    line("memory", memory());
    line("full", info.tokens as f64 / (count * u64::from(length)) as f64);
    let sequences = Sequences::open(&rows, shards).unwrap();
    let (order, cpu, mut read) = (Shuffle::new(count, 256, 1), cpu_seconds(), 0);
    for i in 0..count {
        read += sequences.get(order.at(i), 0).unwrap().ends.last().unwrap();
    }
    assert_eq!(read as u64, info.tokens);
    line("rows read in random order", info.tokens as f64 / 1e6 / (cpu_seconds() - cpu).max(0.01));
}

fn document(record: Result<Record>) -> Result<Document> {
    let record = record?;
    let id = record.line.to_string();
    match record.value {
        Value::Object(mut fields) => match fields.remove("text") {
            Some(Value::String(text)) => Ok(Document::new(id, text, record.source.to_string_lossy())),
            _ => panic!("a record without text"),
        },
        _ => panic!("no object"),
    }
}

fn line(name: &str, value: f64) {
    println!("{}", serde_json::json!({ "name": name, "value": value }));
}

/// Processor time of this process, seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in ticks of 10 ms.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// The most memory that was held, bytes.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}
