//! The `pelton` command: arguments in, exit code out.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    pelton::runtime::launch::intercept();
    cli::main()
}
