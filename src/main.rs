//! The `pelton` command: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    pelton::runtime::launch::intercept();
    pelton::cli::main()
}
