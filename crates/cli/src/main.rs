//! `cupola`: one program for the whole life of a language model.

mod args;
mod browse;
mod chat;
mod commands;
mod doctor;
#[cfg(test)]
mod executor_tests;
mod export;
#[cfg(test)]
mod fake;
mod graph;
mod look;
mod out;
mod plan;
mod progress;
mod recipe;
mod record;
mod rules;
mod run;
mod serve;
mod stages;
mod table;

use std::process::ExitCode;

use clap::Parser;
use cupola_artifact::{Class, Result};

use args::{Cli, Command};

/// Training allocates and frees large buffers in every step.
#[global_allocator]
static ALLOCATOR: cupola_kernels::Allocator = cupola_kernels::Allocator;

fn main() -> ExitCode {
    match dispatch(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::report(&error);
            ExitCode::from(match error.class() {
                Class::Usage => 2,
                Class::Failed => 1,
            })
        }
    }
}

fn dispatch(command: &Command) -> Result<()> {
    match command {
        Command::Run(args) => commands::run(args, stages::ALL),
        Command::Plan(args) => commands::plan(args, stages::ALL),
        Command::Chat(args) => chat::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Eval(args) => commands::eval(args, stages::ALL),
        Command::Data(args) => commands::data(args, stages::ALL),
        Command::Tokenizer(args) => commands::tokenizer(args, stages::ALL),
        Command::Compress(args) => commands::compress(args, stages::ALL),
        Command::Export(args) => export::run(args),
        Command::Inspect(args) => look::run_inspect(args),
        Command::Verify(args) => look::run_verify(args),
        Command::Doctor(args) => doctor::run(args),
    }
}
