//! The `pelton` command.

mod cli;

use std::{io, process::ExitCode};

use clap::Parser;

fn main() -> io::Result<ExitCode> {
    cli::run(&cli::Arguments::parse())
}
