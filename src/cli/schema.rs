//! `pelton schema`: the JSON Schema of the manifest.

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Prints the JSON Schema of the manifest, for editors
#[derive(Debug, clap::Args)]
pub(crate) struct SchemaArgs {}

/// Prints it.
pub(crate) fn run(_: &SchemaArgs) -> io::Result<ExitCode> {
    writeln!(io::stdout().lock(), "{:#}", pelton::manifest::schema())?;
    Ok(ExitCode::SUCCESS)
}
