//! Encoding and training, measured; one JSON line per figure with `name` and `value`:
//! `cargo run --release -p cupola-tokenizer --example bench_tokenizer -- encode TOKENIZER TEXTS [seconds]` or
//! `… -- train VOCAB_SIZE OUT TEXTS`. TEXTS is a file of JSON lines with `text`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement")]

use std::path::Path;
use std::time::Instant;

use cupola_records::read_records;
use cupola_tokenizer::{SpecialTokens, Tokenizer, TokenizerKind, TrainConfig, train};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["encode", tokenizer, texts] => encode(tokenizer, texts, 2.0),
        ["encode", tokenizer, texts, seconds] => encode(tokenizer, texts, seconds.parse().unwrap()),
        ["train", vocab_size, out, texts] => train_on(vocab_size.parse().unwrap(), out, texts),
        _ => panic!("see the first lines of the source"),
    }
}

fn texts_of(path: &str) -> Vec<String> {
    let text = |record: cupola_artifact::Result<cupola_records::Record>| {
        record.unwrap().value["text"].as_str().unwrap().to_owned()
    };
    read_records(Path::new(path)).unwrap().map(text).collect()
}

/// Processor time of this process, seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in ticks of 10 ms.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn line(name: &str, value: f64) {
    println!("{}", serde_json::json!({ "name": name, "value": value }));
}

/// Megabytes in a second of processor time, on one thread and on all.
fn encode(tokenizer: &str, texts: &str, seconds: f64) {
    let (tokenizer, texts) = (Tokenizer::load(Path::new(tokenizer)).unwrap(), texts_of(texts));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let bytes: usize = texts.iter().map(|t| t.len()).sum();
    let repeat = |run: &dyn Fn() -> usize| {
        let (started, cpu, mut rounds, mut tokens) = (Instant::now(), cpu_seconds(), 0, 0);
        while rounds == 0 || started.elapsed().as_secs_f64() < seconds {
            tokens = run();
            rounds += 1;
        }
        let moved = rounds as f64 * bytes as f64 / 1e6;
        (moved / (cpu_seconds() - cpu), moved / started.elapsed().as_secs_f64(), tokens)
    };
    let (one, _, tokens) = repeat(&|| {
        let mut ids = Vec::new();
        let count = |text: &&str| {
            ids.clear();
            tokenizer.encode_into(text, &mut ids).unwrap();
            ids.len()
        };
        texts.iter().map(count).sum()
    });
    let (all, wall, _) = repeat(&|| tokenizer.encode_batch(&texts).unwrap().iter().map(Vec::len).sum());
    line("encode, one thread", one);
    line("encode, all threads", all);
    line("encode, all threads, by the clock", wall);
    line("tokens", tokens as f64);
}

/// Seconds of processor time for a vocabulary, and the most memory that was held.
fn train_on(vocab_size: usize, out: &str, texts: &str) {
    let texts = texts_of(texts);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let config = TrainConfig {
        kind: TokenizerKind::Bpe(SpecialTokens::default()),
        vocab_size,
        min_frequency: 2,
        character_coverage: 1.0,
        chat_template: None,
    };
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let tokenizer = train(&texts, &config).unwrap();
    line("train", cpu_seconds() - cpu);
    line("train, by the clock", started.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line("train, memory", peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0);
    tokenizer.save(Path::new(out)).unwrap();
}
