//! The one error type: what went wrong, why, and the way out.

use std::error::Error as StdError;
use std::fmt;

/// Whose fault an error is; it decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A wrong recipe, flag, or setting: exit status 2.
    Usage,
    /// Everything that fails while running: exit status 1.
    Failed,
}

/// An error with a message that names the operation and both sides, an optional cause and an optional hint.
#[derive(Debug)]
pub struct Error {
    class: Class,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A wrong recipe, flag or setting (exit status 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self { class: Class::Usage, message: message.into(), hint: None, source: None }
    }

    /// A failure while running (exit status 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self { class: Class::Failed, message: message.into(), hint: None, source: None }
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Wraps this error: `message` is what was being done when it happened; class and hint stay.
    #[must_use]
    pub fn wrap(self, message: impl Into<String>) -> Self {
        let (class, hint) = (self.class, self.hint.clone());
        Self { class, message: message.into(), hint, source: Some(Box::new(self)) }
    }

    /// Changes the message; class, cause and hint stay.
    #[must_use]
    pub fn reword(mut self, change: impl FnOnce(&str) -> String) -> Self {
        self.message = change(&self.message);
        self
    }

    /// Whose fault it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The hint, if there is one.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The message and its causes, outermost first, joined by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(c) = cause {
            text.push_str(": ");
            text.push_str(&c.to_string());
            cause = c.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// Says what was being done when a foreign error happened.
pub trait Context<T> {
    /// Turns the error into a failure (exit status 1) whose cause is the original.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| {
            let source = e.into();
            match source.downcast::<Error>() {
                Ok(own) => own.wrap(message()),
                Err(other) => with_io_hint(&*other, Error::failed(message())).with_source(other),
            }
        })
    }
}

/// Hints for the file errors that users meet most.
fn with_io_hint(source: &(dyn StdError + 'static), error: Error) -> Error {
    let Some(io) = source.downcast_ref::<std::io::Error>() else { return error };
    match io.kind() {
        std::io::ErrorKind::StorageFull => error
            .with_hint("the disk is full: free some space and run the same command again; finished stages are kept"),
        std::io::ErrorKind::PermissionDenied => error.with_hint("check the permissions of the file and of its folder"),
        _ => error,
    }
}
