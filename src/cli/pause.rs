//! `pelton pause` and `pelton resume`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use super::{Failure, connect, dlq::check_binding, load, terminal::say};
use pelton::{duration, nats::CENTURY};

/// Arguments of `pelton pause`.
#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    target: Target,

    /// For how long: `30m`, `2h`; until `pelton resume` otherwise.
    #[arg(long = "for", value_parser = duration::parse)]
    span: Option<Duration>,
}

/// Arguments of `pelton resume`.
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// The binding.
    binding: String,

    /// The manifest [default: pelton.yaml].
    file: Option<PathBuf>,
}

pub(super) async fn pause(args: PauseArgs) -> Result<ExitCode, Failure> {
    let span = args.span.unwrap_or(CENTURY);
    set(&args.target, Some(span)).await?;
    let until = args.span.map_or_else(
        || "until `pelton resume`".to_owned(),
        |span| format!("for {}", duration::show(span)),
    );
    say!("{} is paused {until}; what runs is finished, new events wait", args.target.binding);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(args: ResumeArgs) -> Result<ExitCode, Failure> {
    set(&args.target, None).await?;
    say!("{} goes on", args.target.binding);
    Ok(ExitCode::SUCCESS)
}

async fn set(target: &Target, span: Option<Duration>) -> Result<(), Failure> {
    let manifest = load(target.file.as_deref())?.manifest;
    check_binding(&manifest, &target.binding)?;
    let connection = connect(&manifest).await?;
    for binding in manifest.bindings.iter().filter(|known| known.name == target.binding) {
        connection.pause(&manifest, binding, span).await?;
    }
    Ok(())
}
