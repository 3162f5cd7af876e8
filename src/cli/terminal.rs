//! What a terminal can show.

use std::{
    fmt,
    io::{self, ErrorKind, IsTerminal, Write as _},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Failure;

/// Whether to colour what goes to `stream`: on a terminal, unless `NO_COLOR` is set.
pub(super) fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A bar over `length` of something, drawn on a terminal only, and only if there is any.
pub(super) fn progress(length: u64, template: &str) -> ProgressBar {
    let target = match io::stderr().is_terminal() && length > 0 {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template(template);
    ProgressBar::with_draw_target(Some(length), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Asks whoever sits at the terminal; only a yes is one.
pub(super) fn confirmed(question: &str) -> Result<bool, Failure> {
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|err| Failure::Problem(format!("no answer can be read: {err}")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A table with left-aligned columns, as wide as they need to be.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain(header.get(column).map(|title| title.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    std::iter::once(line(&mut header.iter().copied()))
        .chain(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Prints a line to standard output; `println!` would panic when its reader is gone.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::terminal::print_line(format_args!($($text)*))
    };
}
pub(super) use say;

/// Ends the process in peace when nobody reads any more: `pelton list | head -1`.
pub(super) fn print_line(line: fmt::Arguments<'_>) {
    if let Err(err) = writeln!(io::stdout().lock(), "{line}")
        && err.kind() == ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
}
