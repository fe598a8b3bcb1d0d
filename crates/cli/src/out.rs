//! Standard output and standard error; a reader that goes away is no error.

use std::io::Write;

use cupola_artifact::{Error, human_count};

/// Prints a result to standard output.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
}

/// Prints a remark to standard error.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Operations a second for people: `340 GFLOP/s`.
pub fn flop_rate(rate: f64) -> String {
    let count = human_count(rate);
    let number = count.trim_end_matches(|c: char| c.is_alphabetic());
    format!("{number} {}FLOP/s", &count[number.len()..])
}

/// Prints an error with its causes and the way out.
pub fn report(error: &Error) {
    note(&describe(error));
}

/// `error:`, then a line for each cause, then `hint:`.
pub fn describe(error: &Error) -> String {
    let mut text = format!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!("\ncause: {inner}"));
        cause = inner.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\nhint: {hint}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_space_before_their_unit() {
        assert_eq!((flop_rate(3.4e11), flop_rate(12.0)), ("340 GFLOP/s".into(), "12 FLOP/s".into()));
    }

    #[test]
    fn error_shows_causes_and_hint() {
        let error = Error::failed("no room").with_hint("make some").wrap("cannot save").wrap("the stage failed");
        assert_eq!(describe(&error), "error: the stage failed\ncause: cannot save\ncause: no room\nhint: make some");
    }
}
