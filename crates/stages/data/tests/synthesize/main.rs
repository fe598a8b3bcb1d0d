//! Documents made by a model: what comes of every answer and of every trouble with the server. No network but this machine's.
#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

#[path = "../bed/mod.rs"]
mod bed;

use std::collections::HashMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cupola_artifact::stage::Report;
use cupola_artifact::{Error, Result};
use cupola_data::{Wanted, browse};
use cupola_records::{Document, Split, read_documents};
use serde_json::{Value, json};

use bed::run_stage as run_on;
use cupola_testkit::chat_server::{Reply, Request, Server};

/// A variable that cargo sets for each test, as a key; and what it holds.
const KEY: (&str, &str) = ("CARGO_PKG_NAME", "cupola-data");

/// A folder with documents `d0` … that name rivers, and what was made of them by a step with these settings.
struct Bed {
    dir: tempfile::TempDir,
    server: Server,
}

const RIVERS: [&str; 8] = ["Danube", "Rhine", "Oder", "Elbe", "Weser", "Isar", "Spree", "Havel"];

fn text(i: usize) -> String {
    format!("The {} flows through country number {i}, past mills and meadows.", RIVERS[i % RIVERS.len()])
}

impl Bed {
    fn new(documents: usize, reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let line = |i| format!("{}\n", json!({"id": format!("d{i}"), "text": text(i), "license": "CC0-1.0"}));
        fs::write(dir.path().join("a.jsonl"), (0..documents).map(line).collect::<String>()).unwrap();
        Self { dir, server: Server::new(reply) }
    }

    fn config(&self, step: &str, further: &str) -> String {
        format!(
            "sources = [\"*.jsonl\"]\nsplit = \"position\"\nvalidation_fraction = 0.0\nkeep_dropped = \"all\"\nmax_broken = 1.0\n\
             steps = [{{ step = \"synthesize\", api = \"{}\", model = \"tiny\", backoff_s = 0.01, {step} }}{further}]",
            self.server.address
        )
    }

    fn run(&self, step: &str) -> Result<Report> {
        run_on(self.dir.path(), "out", 2, &self.config(step, ""))
    }

    fn documents(&self) -> Vec<Document> {
        read_documents(&self.dir.path().join("out"), Split::Train).unwrap()
    }

    fn ids(&self) -> Vec<String> {
        self.documents().into_iter().map(|document| document.id).collect()
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir.path().join("out/report.json")).unwrap()).unwrap()
    }

    fn dropped(&self, reason: &str) -> Vec<(String, String)> {
        let wanted = Wanted { reason: Some(reason.into()), ..Wanted::default() };
        let seen = browse(&self.dir.path().join("out"), &wanted).unwrap().map(|seen| seen.unwrap());
        seen.map(|seen| (seen.id, seen.text)).collect()
    }
}

/// Which document a request is about.
fn about(request: &Request) -> usize {
    RIVERS.iter().position(|river| request.asked().contains(river)).unwrap()
}

/// Two pairs about the document, one with a quotation that does not stand in it.
fn pairs(request: &Request) -> Reply {
    let (i, river) = (about(request), RIVERS[about(request)]);
    let pairs = json!([
        {"question": format!("What does the {river} flow past?"), "answer": "Mills.", "quote": "past mills and meadows"},
        {"question": format!("How long is the {river}?"), "answer": format!("{i}00 km."), "quote": "a hundred kilometres"},
    ]);
    Reply::says(&format!("Here they are:\n```json\n{pairs}\n```"))
}

fn adds_up(tally: &Value) -> bool {
    let count = |value: &Value, unit: &str| value[unit].as_u64().unwrap_or(0);
    ["documents", "bytes"].iter().all(|unit| {
        let dropped: u64 = tally["dropped"].as_object().unwrap().values().map(|c| count(c, unit)).sum();
        count(&tally["read"], unit) + count(&tally["made"], unit) == count(&tally["kept"], unit) + dropped
    })
}

#[test]
fn pairs_carry_messages_and_provenance_and_stand_in_the_document() {
    let bed = Bed::new(3, pairs);
    bed.run(&format!("task = \"instructions\", key_env = \"{}\", n = 2, seed = 7, extra = {{ top_p = 0.5 }}", KEY.0))
        .unwrap();
    let documents = bed.documents();
    assert_eq!(bed.ids(), ["d0#instructions-1", "d1#instructions-1", "d2#instructions-1"]);
    let fields = &documents[1].fields;
    assert_eq!(fields["messages"][0], json!({"role": "user", "content": "What does the Rhine flow past?"}));
    assert_eq!(fields["messages"][1], json!({"role": "assistant", "content": "Mills."}));
    assert_eq!(documents[1].text, "What does the Rhine flow past?\n\nMills.");
    assert_eq!((&fields["synthetic"], &fields["license"]), (&json!(true), &json!("CC0-1.0")));
    assert_eq!(fields["made_from"]["id"], "d1");
    assert_eq!(fields["made_from"]["sha256"], cupola_artifact::sha256_hex(text(1).as_bytes()));
    let host = bed.server.address.trim_start_matches("http://");
    assert_eq!(fields["made_by"], json!({"model": "tiny-1", "api": host}));
    assert_eq!(fields["prompt_hash"].as_str().unwrap().len(), 64);
    let with = json!({"task": "instructions", "temperature": 0.7, "max_tokens": 1024, "seed": 7, "asked_as": "tiny",
        "extra": {"top_p": 0.5}});
    assert_eq!(fields["made_with"], with);

    let report = bed.report();
    assert!(adds_up(&report["total"]), "{report:#}");
    assert_eq!(report["total"]["made"]["documents"], 6);
    assert_eq!(report["total"]["dropped"]["synthesize_original"]["documents"], 3);
    assert_eq!(report["total"]["dropped"]["synthesize_not_grounded"]["documents"], 3);
    assert_eq!(report["steps"][0]["notes"]["completion_tokens"], 15);

    let seen = bed.server.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|r| r.path == "/v1/chat/completions" && r.authorization == format!("Bearer {}", KEY.1)));
    let body = &seen[0].body;
    let wanted =
        [("model", json!("tiny")), ("temperature", json!(0.7)), ("max_tokens", json!(1024)), ("seed", json!(7))];
    wanted.iter().for_each(|(name, value)| assert_eq!(&body[*name], value));
    assert_eq!(body["top_p"], 0.5);
}

#[test]
fn neither_key_nor_prompt_is_told_anywhere() {
    let bed = Bed::new(6, |request| match about(request) {
        0 => Reply::status(400, &json!({"error": {"message": format!("bad: {}", request.prompt())}}).to_string()),
        1 => Reply::status(
            400,
            &json!({"error": {"message": format!("your key {}", request.authorization)}}).to_string(),
        ),
        _ => Reply::says("A river."),
    });
    let prompt = "Whisper what you think of this: {{ text }}";
    bed.run(&format!("prompt = \"{prompt}\", key_env = \"{}\"", KEY.0)).unwrap();
    assert_eq!(bed.documents().len(), 4);
    let aside = bed.dropped("set_aside");
    assert!(
        aside[0].1.contains("status 400") && !aside[0].1.contains("Whisper") && !aside[1].1.contains(KEY.1),
        "{aside:?}"
    );
    for entry in fs::read_dir(bed.dir.path().join("out")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let bytes = zstd::stream::decode_all(bytes.as_slice()).unwrap_or(bytes);
        let told = String::from_utf8_lossy(&bytes);
        assert!(!told.contains("Whisper") && !told.contains(KEY.1), "{told}");
    }
}

#[test]
fn a_server_that_fails_twice_and_then_answers_is_asked_again() {
    let failed = Mutex::new(HashMap::new());
    let bed = Bed::new(4, move |request| {
        let mut failed = failed.lock().unwrap();
        let times = failed.entry(about(request)).or_insert(0);
        *times += 1;
        match *times {
            1 => Reply::status(503, "<html>busy</html>"),
            2 => Reply::status(200, "no JSON"),
            _ => Reply::says("<think>hm</think>Short."),
        }
    });
    bed.run("task = \"summary\"").unwrap();
    assert_eq!(bed.ids(), ["d0#summary-1", "d1#summary-1", "d2#summary-1", "d3#summary-1"]);
    assert_eq!((bed.documents()[0].text.as_str(), bed.server.seen().len()), ("Short.", 12));
}

#[test]
fn a_server_that_asks_to_wait_is_left_alone_that_long() {
    let first = AtomicBool::new(true);
    let began = Instant::now();
    let bed = Bed::new(2, move |_| match first.swap(false, Ordering::SeqCst) {
        true => Reply { headers: "retry-after: 1\r\n".into(), ..Reply::status(429, "{}") },
        false => Reply::says("Short."),
    });
    bed.run("task = \"summary\", concurrency = 1").unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!((bed.documents().len(), bed.server.seen().len()), (2, 3));
}

#[test]
fn a_document_whose_answer_never_comes_is_set_aside() {
    let bed = Bed::new(6, |request| Reply::says("Short.").after(if about(request) == 2 { 3000 } else { 0 }));
    let began = Instant::now();
    bed.run("task = \"summary\", timeout_s = 0.5, retries = 1").unwrap();
    assert!(began.elapsed() < Duration::from_millis(2900), "{:?}", began.elapsed());
    assert_eq!(bed.ids(), ["d0", "d1", "d3", "d4", "d5"].map(|id| format!("{id}#summary-1")));
    let aside = bed.dropped("set_aside");
    assert!(
        aside[0].0 == "d2" && aside[0].1.contains("within 0.5 seconds") && aside[0].1.contains("2 attempts"),
        "{aside:?}"
    );
    assert!(adds_up(&bed.report()["total"]));
}

#[test]
fn an_answer_that_cannot_be_read_is_asked_for_once_more_and_then_set_aside() {
    let bed = Bed::new(3, |request| match about(request) {
        0 => Reply::says("I would rather not."),
        1 if !request.prompt().contains("cannot be used") => Reply::says("[{\"question\": \"unfinished"),
        _ => pairs(request),
    });
    bed.run("task = \"instructions\"").unwrap();
    assert_eq!(bed.ids(), ["d1#instructions-1", "d2#instructions-1"]);
    assert_eq!(bed.server.seen().len(), 5);
    let report = bed.report();
    assert_eq!(report["steps"][0]["notes"]["answers_not_understood"], 3);
    assert_eq!(report["total"]["dropped"]["set_aside"]["documents"], 1);
    assert!(bed.dropped("set_aside")[0].1.contains("holds no pair"), "{:?}", bed.dropped("set_aside"));
    assert!(adds_up(&report["total"]));
}

#[test]
fn a_refused_key_stops_the_run_and_what_was_answered_is_not_asked_again() {
    let open = std::sync::Arc::new(AtomicBool::new(false));
    let opened = std::sync::Arc::clone(&open);
    let bed = Bed::new(8, move |request| match request.number < 3 || opened.load(Ordering::SeqCst) {
        true => Reply::says(&format!("A summary of {}.", about(request))),
        false => {
            Reply::status(401, &json!({"error": {"message": format!("no: {}", request.authorization)}}).to_string())
        }
    });
    let step = format!("task = \"summary\", key_env = \"{}\", concurrency = 1", KEY.0);
    let error: Error = bed.run(&step).unwrap_err();
    let told = format!("{} {}", error.chain(), error.hint().unwrap());
    assert!(
        told.contains("refused the key (status 401)") && told.contains(KEY.0) && told.contains("goes on"),
        "{told}"
    );
    assert!(!told.contains(KEY.1), "{told}");
    assert_eq!(bed.server.seen().len(), 4);

    open.store(true, Ordering::SeqCst);
    // How it is asked may change in between.
    bed.run(&step.replace("concurrency = 1", "concurrency = 4")).unwrap();
    assert_eq!(bed.server.seen().len(), 4 + 5);
    let texts: Vec<String> = bed.documents().into_iter().map(|d| d.text).collect();
    assert_eq!(texts, (0..8).map(|i| format!("A summary of {i}.")).collect::<Vec<_>>());

    // Parts that are made again are made of the answers that are there.
    let before = fs::read(bed.dir.path().join("out/train.jsonl.zst")).unwrap();
    for pass in ["pass-0", "pass-1"] {
        fs::remove_dir_all(bed.dir.path().join("out.work").join(pass)).unwrap();
    }
    bed.run(&step).unwrap();
    assert!(fs::read(bed.dir.path().join("out/train.jsonl.zst")).unwrap() == before);
    assert_eq!(bed.server.seen().len(), 9);
}

#[test]
fn the_result_does_not_depend_on_which_answer_comes_first_nor_on_parts_and_threads() {
    let bed = Bed::new(0, |request| {
        let number = request.asked().split_whitespace().next().unwrap().parse::<u64>().unwrap();
        Reply::says(&format!("one about {number}\ntwo")).after(97 * number % 60)
    });
    // Files of several parts, of which the model sees the beginning.
    for file in 0..3 {
        let filler = "and the river went on ".repeat(25_000);
        let line = |i: usize| {
            format!("{}\n", json!({"id": format!("{file}-{i}"), "text": format!("{} {filler}", 100 * file + i)}))
        };
        fs::write(bed.dir.path().join(format!("{file}.jsonl")), (0..25).map(line).collect::<String>()).unwrap();
    }
    let step = "prompt = \"{{ text }}\", max_chars = 40, keep_original = true";
    let config =
        |concurrency: usize| bed.config(&format!("{step}, concurrency = {concurrency}"), ", \"exact_duplicates\"");
    run_on(bed.dir.path(), "out", 1, &config(1)).unwrap();
    run_on(bed.dir.path(), "many", 4, &config(16)).unwrap();
    for file in ["train.jsonl.zst", "report.json", "dropped.jsonl.zst"] {
        let read = |out: &str| fs::read(bed.dir.path().join(out).join(file)).unwrap();
        assert!(read("out") == read("many"), "{file}");
    }
    let ids = bed.ids();
    assert_eq!(ids[..4], ["0-0", "0-0#text-1", "0-1", "0-1#text-1"]);
    assert_eq!((ids.len(), bed.server.seen().len()), (150, 150));
    assert!(adds_up(&bed.report()["total"]));
}

#[test]
fn a_judge_keeps_what_is_good_enough_and_leaves_its_score() {
    let bed = Bed::new(4, |request| Reply::says(&format!("{{\"reason\": \"so\", \"score\": {}}}", 1 + about(request))));
    bed.run("task = \"judge\", min_score = 3").unwrap();
    assert_eq!(bed.ids(), ["d2", "d3"]);
    let fields = &bed.documents()[1].fields;
    assert_eq!((&fields["judge_score"], &fields["judge_score_by"]["model"]), (&json!(4.0), &json!("tiny-1")));
    assert!(fields.get("synthetic").is_none());
    assert_eq!(bed.dropped("judge_low_score").len(), 2);
    assert_eq!(bed.server.seen()[0].body["temperature"], 0.0);
    assert_eq!(bed.report()["steps"][0]["notes"]["scored_4"], 1);
}

#[test]
fn what_was_made_goes_through_the_next_steps_and_is_judged_and_deduplicated() {
    let bed = Bed::new(3, |request| match request.asked().contains("Judge") {
        true => Reply::says(if request.asked().contains("Oder") { "1" } else { "5" }),
        false => Reply::says(&format!("1. The same for all.\n2. About the {}.", RIVERS[about(request)])),
    });
    let judge = format!(
        ", \"exact_duplicates\", {{ step = \"synthesize\", api = \"{}\", model = \"tiny\", task = \"judge\" }}",
        bed.server.address
    );
    let config = bed.config("task = \"list\", prompt = \"{{ text }}\"", &judge);
    run_on(bed.dir.path(), "out", 2, &config).unwrap();
    assert_eq!(bed.ids(), ["d0#list-1", "d0#list-2", "d1#list-2"]);
    let report = bed.report();
    assert_eq!(report["total"]["dropped"]["exact_duplicate"]["documents"], 2);
    assert_eq!(report["total"]["dropped"]["judge_low_score"]["documents"], 1);
    assert!(adds_up(&report["total"]));
}

#[test]
fn what_was_made_of_a_document_is_held_out_with_it() {
    let bed = Bed::new(0, |request| Reply::says(&format!("Anew: {}", request.asked().len())));
    let line = |i: usize| format!("{}\n", json!({"id": format!("d{i}"), "text": format!("{} {i}", text(i))}));
    fs::write(bed.dir.path().join("a.jsonl"), (0..60).map(line).collect::<String>()).unwrap();
    let config = bed.config("task = \"paraphrase\", keep_original = true", "");
    let config = config.replace("split = \"position\"\nvalidation_fraction = 0.0", "validation_fraction = 0.3");
    run_on(bed.dir.path(), "out", 2, &config).unwrap();
    for split in [Split::Train, Split::Validation] {
        let documents = read_documents(&bed.dir.path().join("out"), split).unwrap();
        assert!(documents.len() > 10 && documents.len().is_multiple_of(2));
        documents.chunks(2).for_each(|pair| assert_eq!(pair[1].id, format!("{}#paraphrase-1", pair[0].id)));
    }
}

#[test]
fn an_original_stays_where_nothing_could_be_made_of_it() {
    let bed = Bed::new(3, |request| Reply::says(if about(request) == 1 { "" } else { "Short." }));
    bed.run("task = \"summary\", keep_original = true").unwrap();
    assert_eq!(bed.ids(), ["d0", "d0#summary-1", "d1", "d2", "d2#summary-1"]);
    assert_eq!(bed.report()["total"]["dropped"]["set_aside"]["documents"], 1);
    assert!(adds_up(&bed.report()["total"]));
}

#[test]
fn a_server_that_is_not_there_or_answers_nobody_stops_the_run() {
    let bed = Bed::new(6, |_| Reply::status(500, "{}"));
    let error = bed.run("task = \"summary\", retries = 1, concurrency = 2").unwrap_err();
    assert!(
        error.chain().contains("no request is answered any more") && error.chain().contains("status 500"),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("goes on"));

    let config = bed.config("task = \"summary\", retries = 1", "").replace(&bed.server.address, "http://127.0.0.1:1");
    let error = run_on(bed.dir.path(), "none", 2, &config).unwrap_err();
    assert!(error.chain().contains("127.0.0.1:1 cannot be reached"), "{}", error.chain());

    let nothing = Bed::new(1, |_| Reply::status(404, "{}"));
    let error = nothing.run("task = \"summary\"").unwrap_err();
    assert!(error.chain().contains("status 404") && error.hint().unwrap().contains("`model`"), "{error:?}");
}

#[test]
fn a_key_that_is_not_set_is_an_error_before_anything_is_asked() {
    let bed = Bed::new(1, pairs);
    let error = bed.run("task = \"summary\", key_env = \"CUPOLA_NO_SUCH_KEY\"").unwrap_err();
    assert!(error.chain().contains("CUPOLA_NO_SUCH_KEY") && error.hint().unwrap().contains("export"), "{error:?}");
    assert_eq!(bed.server.seen().len(), 0);
}

/// Set `CUPOLA_SYNTHESIZE_API` to a server's base address (and `CUPOLA_SYNTHESIZE_MODEL`) to ask it, e.g. one that
/// `cupola serve` started.
#[test]
fn a_server_of_the_users_is_understood() {
    let Ok(api) = std::env::var("CUPOLA_SYNTHESIZE_API") else {
        #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
        {
            eprintln!("skipped: CUPOLA_SYNTHESIZE_API is not set");
        }
        return;
    };
    let model = std::env::var("CUPOLA_SYNTHESIZE_MODEL").unwrap();
    let bed = Bed::new(4, |_| Reply::status(500, ""));
    let config = bed.config("prompt = \"Say something about this: {{ text }}\", max_tokens = 100", "");
    let config = config.replace("\"tiny\"", &format!("\"{model}\"")).replace(&bed.server.address, &api);
    let report = run_on(bed.dir.path(), "out", 2, &config).unwrap();
    assert!(report.metrics["documents_made"].as_u64().unwrap() > 0, "{:?}", report.metrics);
    assert!(report.metrics["synthesize.completion_tokens"].as_u64().unwrap() > 0);
}
