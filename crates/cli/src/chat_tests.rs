#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use cupola_generate::{Sink, Stats};
use cupola_testkit::tiny_tokenizer_files;
use cupola_tokenizer::Tokenizer;

use super::*;

/// Answers with the number of tokens it was given, and remembers the prompts.
struct Counter {
    tokenizer: Tokenizer,
    prompts: Mutex<Vec<String>>,
    /// What Ctrl-C sets.
    stop: Arc<AtomicBool>,
}

impl Counter {
    fn new(template: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        tiny_tokenizer_files(dir.path());
        std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
        if template {
            let template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}";
            std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        }
        Self { tokenizer: Tokenizer::load(dir.path()).unwrap(), prompts: Mutex::default(), stop: Arc::default() }
    }

    fn prompts(&self) -> Vec<String> {
        self.prompts.lock().unwrap().clone()
    }
}

impl Backend for Counter {
    fn submit(&self, request: Request, mut sink: Sink) -> Result<()> {
        let prompt = self.tokenizer.decode(&request.prompt)?;
        if prompt.contains("FAIL") {
            return Err(Error::failed("the queue is full"));
        }
        if prompt.contains("HANG") {
            let stop = self.stop.clone();
            std::thread::spawn(move || {
                sink(Event::Text("a".into()));
                std::thread::sleep(Duration::from_millis(20));
                stop.store(true, Ordering::SeqCst);
                while sink(Event::Text("b".into())) {}
            });
            return Ok(());
        }
        self.prompts.lock().unwrap().push(prompt);
        let usage = Usage { prompt_tokens: 1, completion_tokens: 3, first_token_seconds: 0.5, total_seconds: 1.5 };
        for event in [Event::Text("a\x1b[2Jb".into()), Event::Done(FinishReason::Stop, usage)] {
            sink(event);
        }
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_seq_len(&self) -> usize {
        40
    }
}

fn chat(backend: &Counter) -> Chat<'_> {
    Chat::new(backend, SamplingParams { max_tokens: 8, ..SamplingParams::default() }, None)
}

#[test]
fn answers_carry_the_conversation_and_their_speed() {
    let backend = Counter::new(true);
    let mut chat = chat(&backend);
    let mut out = Vec::new();
    let next = chat.line("one", &mut out).unwrap();
    assert_eq!(next, Next::Answered("3 tokens, first after 0.50 s, then 2.0 tokens/s".into()));
    chat.line("two", &mut out).unwrap();
    assert_eq!(backend.prompts(), ["u:one;", "u:one;a:a\x1b[2Jb;u:two;"]);
    assert_eq!(String::from_utf8(out).unwrap(), "a[2Jb\na[2Jb\n", "control characters stay out of the terminal");
}

#[test]
fn oldest_messages_leave_when_there_is_no_room() {
    let backend = Counter::new(true);
    let mut chat = chat(&backend);
    chat.system = Some("be".into());
    for text in ["one", "two", "three"] {
        chat.line(text, &mut Vec::new()).unwrap();
    }
    let prompts = backend.prompts();
    assert_eq!(prompts.last().unwrap(), "s:be;u:two;a:a\x1b[2Jb;u:three;");
}

#[test]
fn failed_question_is_forgotten() {
    let backend = Counter::new(true);
    let mut chat = chat(&backend);
    assert!(chat.line("FAIL", &mut Vec::new()).is_err());
    chat.line("one", &mut Vec::new()).unwrap();
    assert_eq!(backend.prompts(), ["u:one;"]);
}

#[test]
fn model_without_a_template_continues_each_line() {
    let backend = Counter::new(false);
    let mut chat = chat(&backend);
    for text in ["one", "two"] {
        chat.line(text, &mut Vec::new()).unwrap();
    }
    assert_eq!(backend.prompts(), ["one", "two"]);
}

#[test]
fn commands_change_settings_and_unknown_ones_suggest_the_nearest() {
    let backend = Counter::new(true);
    let mut chat = chat(&backend);
    let mut line = |text: &str| chat.line(text, &mut Vec::new());
    let settings = line("/set temperature 0.25").unwrap();
    assert!(matches!(settings, Next::Said(text) if text.starts_with("temperature 0.25,")));
    line("/set seed 7").unwrap();
    assert!(matches!(line("/set").unwrap(), Next::Said(text) if text.ends_with("seed 7")));
    line("/set seed none").unwrap();
    for wrong in
        ["/set temperature hot", "/set temperature -1", "/set temperature NaN", "/set max_tokens 0", "/set top_p"]
    {
        assert!(line(wrong).unwrap_err().to_string().contains("cannot be"), "{wrong}");
    }
    assert_eq!(line("/set temprature 1").unwrap_err().hint(), Some("did you mean `temperature`?"));
    assert_eq!(line("/rest").unwrap_err().hint(), Some("did you mean `/reset`?"));
    assert!(matches!(line("/help").unwrap(), Next::Said(_)));
    line("/system be brief").unwrap();
    line("hi").unwrap();
    line("/reset").unwrap();
    line("ho").unwrap();
    assert_eq!(line("/quit").unwrap(), Next::Quit);
    assert_eq!(backend.prompts(), ["s:be brief;u:hi;", "s:be brief;u:ho;"]);
}

#[test]
fn a_pipe_is_answered_line_by_line_until_quit() {
    let backend = Counter::new(true);
    piped(&mut chat(&backend), &b"one\n\n/reset\ntwo\n/quit\nthree\n"[..]).unwrap();
    assert_eq!(backend.prompts(), ["u:one;", "u:two;"]);
}

#[test]
fn interrupt_ends_the_answer_and_not_the_conversation() {
    let backend = Counter::new(true);
    let mut chat = chat(&backend);
    chat.stop = backend.stop.clone();
    let mut out = Vec::new();
    assert_eq!(chat.line("HANG", &mut out).unwrap(), Next::Answered("stopped".into()));
    assert_eq!(out, b"a\n");
    chat.line("/reset", &mut out).unwrap();
    chat.line("one", &mut out).unwrap();
    assert_eq!(backend.prompts(), ["u:one;"]);
}
