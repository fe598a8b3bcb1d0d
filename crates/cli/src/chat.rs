//! `cupola chat`: a conversation in the terminal, or line by line from a pipe.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use cupola_artifact::{Context, Error, Result, unknown_name};
use cupola_generate::{Engine, EngineOptions, Event, FinishReason, Request, SamplingParams, Usage};
use cupola_serve::{Backend, catch_interrupts, model_name, resolve_model};
use cupola_tokenizer::Message;
use rustyline::error::ReadlineError;

use crate::args::ChatArgs;
use crate::out;

const HELP: &str = "\
/reset                  begin a new conversation
/system TEXT            tell the model something before the conversation; no TEXT: nothing
/set                    show the settings
/set NAME VALUE         change one: temperature, top_p, top_k, max_tokens, seed (`none`: random)
/help                   this list
/quit                   end (also Ctrl-D)
Ctrl-C stops the current answer.";

const COMMANDS: [&str; 5] = ["/reset", "/system", "/set", "/help", "/quit"];
const SETTINGS: [&str; 5] = ["temperature", "top_p", "top_k", "max_tokens", "seed"];

/// `cupola chat`.
pub fn run(args: &ChatArgs) -> Result<()> {
    let (model, _) = resolve_model(&args.model)?;
    let engine = Engine::load(&model, args.device.name(), &EngineOptions { max_batch: 1, ..EngineOptions::default() })?;
    let params = SamplingParams {
        temperature: args.temperature,
        top_p: args.top_p,
        max_tokens: args.max_tokens,
        seed: args.seed,
        ..SamplingParams::default()
    };
    let mut chat = Chat::new(&engine, params, args.system.clone());
    if std::io::stdin().is_terminal() {
        interactive(&mut chat, &model_name(&model))
    } else {
        piped(&mut chat, std::io::stdin().lock())
    }
}

/// Reads lines at a prompt; errors are shown and the conversation goes on.
fn interactive(chat: &mut Chat<'_>, name: &str) -> Result<()> {
    chat.stop = catch_interrupts()?;
    let mut editor = rustyline::DefaultEditor::new().context(|| "opening the terminal".into())?;
    out::say(&format!("{name}: {}; /help lists the commands", chat.mode()));
    loop {
        match editor.readline("> ") {
            Ok(line) => {
                // A line that cannot be remembered can still be answered.
                let _ = editor.add_history_entry(line.as_str());
                match chat.line(&line, &mut std::io::stdout().lock()) {
                    Ok(Next::Quit) => return Ok(()),
                    Ok(Next::Said(text)) => out::say(&text),
                    Ok(Next::Answered(facts)) => out::say(&dim(&facts)),
                    Ok(Next::Nothing) => {}
                    Err(error) => out::report(&error),
                }
            }
            Err(ReadlineError::Interrupted) => out::say("Ctrl-D or /quit ends the conversation"),
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(Error::failed("reading from the terminal").with_source(error)),
        }
    }
}

/// Answers each line of a pipe on standard output; all else goes to standard error. The first error ends it.
fn piped(chat: &mut Chat<'_>, input: impl BufRead) -> Result<()> {
    for line in input.lines() {
        let line = line.context(|| "reading standard input".into())?;
        match chat.line(&line, &mut std::io::stdout().lock())? {
            Next::Quit => return Ok(()),
            Next::Said(text) | Next::Answered(text) => out::note(&text),
            Next::Nothing => {}
        }
    }
    Ok(())
}

/// Grey, where the terminal takes colours.
fn dim(text: &str) -> String {
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if colours { format!("\x1b[2m{text}\x1b[0m") } else { text.into() }
}

/// What a line led to.
#[derive(Debug, PartialEq)]
enum Next {
    Nothing,
    Said(String),
    Answered(String),
    Quit,
}

/// A conversation.
struct Chat<'a> {
    backend: &'a dyn Backend,
    params: SamplingParams,
    system: Option<String>,
    messages: Vec<Message>,
    /// Set from outside to end the current answer.
    stop: Arc<AtomicBool>,
}

impl<'a> Chat<'a> {
    fn new(backend: &'a dyn Backend, params: SamplingParams, system: Option<String>) -> Self {
        Self { backend, params, system, messages: Vec::new(), stop: Arc::default() }
    }

    fn mode(&self) -> &'static str {
        if self.has_template() { "say something" } else { "this model has no chat template and continues your text" }
    }

    fn has_template(&self) -> bool {
        self.backend.tokenizer().chat_template().is_some()
    }

    /// Obeys a command or answers.
    fn line(&mut self, line: &str, out: &mut dyn Write) -> Result<Next> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(Next::Nothing);
        }
        if !line.starts_with('/') {
            return self.answer(line, out).map(Next::Answered);
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "/quit" => return Ok(Next::Quit),
            "/help" => return Ok(Next::Said(HELP.into())),
            "/reset" => self.messages.clear(),
            "/system" => {
                self.system = Some(rest.to_owned()).filter(|text| !text.is_empty());
                self.messages.clear();
            }
            "/set" if rest.is_empty() => return Ok(Next::Said(self.settings())),
            "/set" => {
                let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                self.set(name, value.trim())?;
                return Ok(Next::Said(self.settings()));
            }
            _ => return Err(unknown_name(&format!("unknown command `{command}`"), command, "command", &COMMANDS)),
        }
        Ok(Next::Said("a new conversation begins".into()))
    }

    fn settings(&self) -> String {
        let SamplingParams { temperature, top_p, top_k, max_tokens, seed, .. } = &self.params;
        let seed = seed.map_or_else(|| "none".into(), |seed| seed.to_string());
        format!("temperature {temperature}, top_p {top_p}, top_k {top_k}, max_tokens {max_tokens}, seed {seed}")
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let params = &mut self.params;
        let done = match name {
            "temperature" => put(&mut params.temperature, value, |t| (0.0..=2.0).contains(t)),
            "top_p" => put(&mut params.top_p, value, |p| (0.0..=1.0).contains(p)),
            "top_k" => put(&mut params.top_k, value, |_| true),
            "max_tokens" => put(&mut params.max_tokens, value, |n| *n > 0),
            "seed" if value == "none" => {
                params.seed = None;
                true
            }
            "seed" => value.parse().map(|seed| params.seed = Some(seed)).is_ok(),
            _ => return Err(unknown_name(&format!("unknown setting `{name}`"), name, "setting", &SETTINGS)),
        };
        if done { Ok(()) } else { Err(Error::usage(format!("`{name}` cannot be `{value}`"))) }
    }

    /// Streams an answer to `out` and returns its figures.
    fn answer(&mut self, text: &str, out: &mut dyn Write) -> Result<String> {
        if !self.has_template() {
            let prompt = self.backend.tokenizer().encode(text)?;
            return Ok(self.speak(prompt, out)?.1);
        }
        self.messages.push(Message::new("user", text));
        match self.fitting_prompt().and_then(|prompt| self.speak(prompt, out)) {
            Ok((answer, facts)) => {
                self.messages.push(Message::new("assistant", answer));
                Ok(facts)
            }
            Err(error) => {
                // What was not answered was not said.
                self.messages.pop();
                Err(error)
            }
        }
    }

    /// The conversation's tokens; the oldest messages leave when there is no room for an answer.
    fn fitting_prompt(&mut self) -> Result<Vec<u32>> {
        let room = self.backend.max_seq_len();
        let answer = self.params.max_tokens.min(room / 4);
        loop {
            let system = self.system.iter().map(|text| Message::new("system", text.as_str()));
            let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
            let tokens = self.backend.tokenizer().encode_chat(&messages, true)?;
            if tokens.len() + answer <= room || self.messages.len() <= 1 {
                return Ok(tokens);
            }
            // A question and its answer leave together.
            self.messages.drain(..2.min(self.messages.len() - 1));
        }
    }

    fn speak(&self, prompt: Vec<u32>, out: &mut dyn Write) -> Result<(String, String)> {
        self.stop.store(false, Ordering::SeqCst);
        let (sender, events) = channel();
        let stop = self.stop.clone();
        let sink = Box::new(move |event| !stop.load(Ordering::SeqCst) && sender.send(event).is_ok());
        self.backend.submit(Request { prompt, params: self.params.clone() }, sink)?;
        let mut answer = String::new();
        let end = self.listen(&events, &mut answer, out);
        if !answer.ends_with('\n') {
            // A reader that went away shows when the next answer is written.
            let _ = writeln!(out);
        }
        let facts = match end? {
            Some((reason, usage)) => describe(reason, &usage),
            None => "stopped".into(),
        };
        Ok((answer, facts))
    }

    /// Passes text on until the end; nothing when the answer was stopped.
    fn listen(
        &self,
        events: &Receiver<Event>,
        answer: &mut String,
        out: &mut dyn Write,
    ) -> Result<Option<(FinishReason, Usage)>> {
        loop {
            match events.recv_timeout(Duration::from_millis(50)) {
                Ok(Event::Token(_)) => {}
                Ok(Event::Text(text)) => {
                    write!(out, "{}", printable(&text))
                        .and_then(|()| out.flush())
                        .context(|| "writing the answer".into())?;
                    answer.push_str(&text);
                }
                Ok(Event::Done(FinishReason::Cancelled, _)) => return Ok(None),
                Ok(Event::Done(reason, usage)) => return Ok(Some((reason, usage))),
                Ok(Event::Failed(message)) => return Err(Error::failed(message)),
                Err(_) if self.stop.load(Ordering::SeqCst) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::failed("the generation engine has stopped"));
                }
            }
        }
    }
}

/// Takes a value if it can be read and is allowed.
fn put<T: std::str::FromStr>(setting: &mut T, text: &str, allowed: impl Fn(&T) -> bool) -> bool {
    let value = text.parse().ok().filter(allowed);
    let done = value.is_some();
    if let Some(value) = value {
        *setting = value;
    }
    done
}

/// Text without the control characters with which a model could command the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

fn describe(reason: FinishReason, usage: &Usage) -> String {
    let tokens = usage.completion_tokens;
    let after_first = usage.total_seconds - usage.first_token_seconds;
    let mut text = format!("{tokens} tokens, first after {:.2} s", usage.first_token_seconds);
    if tokens > 1 && after_first > 0.0 {
        text += &format!(", then {:.1} tokens/s", (tokens - 1) as f64 / after_first);
    }
    if reason == FinishReason::Length {
        text += ", cut off at the longest answer";
    }
    text
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
