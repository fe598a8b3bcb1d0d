//! Progress: a bar on a terminal, plain lines every few seconds elsewhere; always on standard error.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cupola_artifact::human_seconds;
use cupola_artifact::stage::Progress;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

/// The time between two plain lines of a task.
const INTERVAL: Duration = Duration::from_secs(5);
const BAR: &str = "  {prefix} {wide_bar:.cyan/dim} {percent:>3}%  {msg}  {elapsed_precise} < {eta}";
const SPINNER: &str = "  {spinner} {prefix} {human_pos} {msg}  {elapsed_precise}";

/// The progress of a run as people see it.
pub struct Display {
    terminal: bool,
    task: Mutex<Option<Task>>,
}

struct Task {
    name: String,
    unit: String,
    total: Option<u64>,
    started: Instant,
    shown: Option<Instant>,
    position: u64,
    message: String,
    bar: Option<ProgressBar>,
}

impl Display {
    /// Progress on standard error, in the form that suits where it goes.
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), task: Mutex::default() }
    }

    fn task(&self) -> std::sync::MutexGuard<'_, Option<Task>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, text: &str) {
        let task = self.task();
        match task.as_ref().and_then(|task| task.bar.as_ref()) {
            Some(bar) => bar.suspend(|| print_line(text)),
            None => print_line(text),
        }
    }
}

impl Progress for Display {
    fn begin(&self, name: &str, total: Option<u64>, unit: &str) {
        self.end();
        let bar = self.terminal.then(|| new_bar(name, total));
        *self.task() = Some(Task {
            name: name.into(),
            unit: unit.into(),
            total,
            started: Instant::now(),
            shown: None,
            position: 0,
            message: String::new(),
            bar,
        });
    }

    fn update(&self, position: u64, message: &str) {
        let mut task = self.task();
        let Some(task) = task.as_mut() else { return };
        task.position = position;
        if task.message != message {
            task.message = message.to_string();
        }
        if let Some(bar) = &task.bar {
            bar.set_position(position);
            bar.set_message(task.message.clone());
        } else if task.shown.unwrap_or(task.started).elapsed() >= INTERVAL {
            task.shown = Some(Instant::now());
            print_line(&task.describe(false));
        }
    }

    fn end(&self) {
        let Some(task) = self.task().take() else { return };
        match &task.bar {
            Some(bar) => bar.finish_and_clear(),
            None if task.position == 0 && task.shown.is_none() => return,
            None => {}
        }
        print_line(&task.describe(true));
    }

    fn line(&self, text: &str) {
        self.print(text);
    }

    fn warn(&self, text: &str) {
        self.print(&format!("warning: {text}"));
    }
}

impl Task {
    /// The task in one line.
    fn describe(&self, over: bool) -> String {
        let elapsed = self.started.elapsed().as_secs_f64();
        let done = match self.total {
            Some(total) if !over && total > 0 => {
                let share = self.position as f64 / total as f64;
                let left = if share > 0.0 { elapsed / share - elapsed } else { f64::INFINITY };
                let left =
                    if left.is_finite() { format!(", {} left", human_seconds(left.max(0.0))) } else { String::new() };
                format!(
                    "{}/{} {} ({:.0}%{left})",
                    HumanCount(self.position),
                    HumanCount(total),
                    self.unit,
                    100.0 * share
                )
            }
            _ => format!("{} {}", HumanCount(self.position), self.unit),
        };
        let message = if self.message.is_empty() { String::new() } else { format!("; {}", self.message) };
        let over = if over { format!(" in {}", human_seconds(elapsed)) } else { String::new() };
        format!("  {}: {done}{over}{message}", self.name)
    }
}

fn new_bar(name: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), BAR),
        None => (ProgressBar::new_spinner(), SPINNER),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.set_prefix(name.to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn print_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_line_tells_share_time_and_figures() {
        let task = Task {
            name: "training".into(),
            unit: "steps".into(),
            total: Some(2000),
            started: Instant::now() - Duration::from_secs(30),
            shown: None,
            position: 1000,
            message: "loss 1.5".into(),
            bar: None,
        };
        assert_eq!(task.describe(false), "  training: 1,000/2,000 steps (50%, 30 s left); loss 1.5");
        assert_eq!(task.describe(true), "  training: 1,000 steps in 30 s; loss 1.5");
    }
}
