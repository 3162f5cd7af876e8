//! The command line: one module for each verb.

pub(crate) mod lint;
pub(crate) mod schema;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "pelton", version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Lint(lint::LintArgs),
    Schema(schema::SchemaArgs),
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let result = match &arguments.verb {
        Verb::Lint(args) => lint::run(args),
        Verb::Schema(args) => schema::run(args),
    };
    match result {
        // `pelton schema | head` has had enough.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        other => other,
    }
}
