//! `pelton completions`.

use std::{io, process::ExitCode};

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Arguments of `pelton completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let mut command = super::Cli::command();
    clap_complete::generate(args.shell, &mut command, "pelton", &mut io::stdout());
    ExitCode::SUCCESS
}
