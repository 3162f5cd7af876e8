//! `pelton apply`.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    Failure, connect, json,
    plan::{self, Common, Output, Paint},
    terminal::{self, say},
};
use pelton::nats::{Applied, Failed, Plan};

/// Arguments of `pelton apply`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,

    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// What is printed for programs.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    applied: &'a Applied,
    /// What a plan would say now.
    left: &'a Plan,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let Args { common, yes } = args;
    let manifest = common.manifest()?;
    let connection = connect(&manifest).await?;
    let plan = Plan::of(&connection, &manifest, common.adoption()).await?;
    let paint = Paint::new();
    let asks = !yes && io::stdin().is_terminal() && io::stdout().is_terminal();
    if common.output == Output::Text || asks {
        say!("{}", plan::describe(&plan, paint));
    }
    let applied = if !plan.problems.is_empty() {
        // Half a manifest is worth less than what was there before.
        if common.output == Output::Text {
            say!("nothing was changed: mend what is marked with ! first");
        }
        Applied::default()
    } else if plan.feasible() == 0 {
        Applied::default()
    } else if asks && !terminal::confirmed("Apply?")? {
        return Err(Failure::Problem("nothing was changed".to_owned()));
    } else {
        plan.apply(&connection).await?
    };
    let left = Plan::of(&connection, &manifest, common.adoption()).await?;
    connection.close().await;
    match common.output {
        Output::Json => say!("{}", json(&Report { applied: &applied, left: &left })?),
        Output::Text => tell(&applied, &left, paint),
    }
    let done = applied.failed.is_empty() && left.is_empty();
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(applied: &Applied, left: &Plan, paint: Paint) {
    for Failed { step, error, way_out } in &applied.failed {
        say!("{}", plan::failed(step, error, way_out, paint));
    }
    let done = applied.done.len();
    if done > 0 {
        let noun = if done == 1 { "change" } else { "changes" };
        say!("done: {done} {noun}");
        if !left.is_empty() && applied.failed.is_empty() && !left.is_blocked() {
            say!(
                "and yet it differs; somebody else changes it too:\n{}",
                plan::describe(left, paint)
            );
        }
    }
}
