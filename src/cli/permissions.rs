//! `pelton permissions`.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use clap::ValueEnum;

use super::{Failure, json, load, plan::Output, terminal::say};
use pelton::nats::{Allowed, Permissions, Purpose};

/// Arguments of `pelton permissions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pelton permissions                                # for `pelton run` that creates what is missing
  pelton permissions --no-provision                 # for `pelton run --no-provision`
  pelton permissions --for apply                    # for who prepares everything
  pelton permissions --for list,dlq,pause           # for who looks after it
  pelton permissions --for replay                   # for `pelton replay`")]
pub(super) struct Args {
    /// The manifest [default: pelton.yaml].
    file: Option<PathBuf>,

    /// What the user is to do; several, with commas between them, for one user.
    #[arg(
        long = "for",
        value_name = "VERB",
        value_enum,
        value_delimiter = ',',
        default_value = "run"
    )]
    verbs: Vec<Verb>,

    /// For `run --no-provision`: somebody else creates streams and consumers.
    #[arg(long)]
    no_provision: bool,

    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A verb that speaks to NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verb {
    /// Run the manifest.
    Run,
    /// Show what would change.
    Plan,
    /// Change it.
    Apply,
    /// Show bindings.
    List,
    /// Look after dead letters.
    Dlq,
    /// Run stored events once more.
    Replay,
    /// Pause and resume.
    Pause,
    /// Publish events for the bindings.
    Send,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if args.no_provision && !args.verbs.contains(&Verb::Run) {
        return Err(Failure::Usage(
            "--no-provision is one of `run`: --for names others".to_owned(),
        ));
    }
    let manifest = load(args.file.as_deref())?.manifest;
    let purposes: Vec<Purpose> =
        args.verbs.iter().map(|verb| purpose(*verb, args.no_provision)).collect();
    let permissions = Permissions::of(&manifest, &purposes);
    let permissions = permissions.map_err(|err| Failure::Problem(err.to_string()))?;
    match args.output {
        Output::Json => say!("{}", json(&permissions)?),
        Output::Text => say!("{}", describe(&permissions)),
    }
    Ok(ExitCode::SUCCESS)
}

const fn purpose(verb: Verb, no_provision: bool) -> Purpose {
    match verb {
        Verb::Run if no_provision => Purpose::RunOnly,
        Verb::Run => Purpose::Run,
        Verb::Plan => Purpose::Plan,
        Verb::Apply => Purpose::Apply,
        Verb::List => Purpose::List,
        Verb::Dlq => Purpose::Dlq,
        Verb::Replay => Purpose::Replay,
        Verb::Pause => Purpose::Pause,
        Verb::Send => Purpose::Send,
    }
}

/// As it stands in a user's entry in the configuration of a nats-server.
fn describe(permissions: &Permissions) -> String {
    let Permissions { publish, subscribe } = permissions;
    let (publish, subscribe) = (block("publish", publish), block("subscribe", subscribe));
    format!("permissions {{\n{publish}{subscribe}}}")
}

fn block(action: &str, allowed: &Allowed) -> String {
    let quoted = |subject: &String| serde_json::Value::from(subject.as_str()).to_string();
    let widths = allowed.allow.iter().map(|permission| quoted(&permission.subject).len());
    let width = widths.max().unwrap_or(0);
    let mut text = format!("  {action} {{\n    allow: [\n");
    for permission in &allowed.allow {
        let (subject, why) = (quoted(&permission.subject), &permission.why);
        // Writing to a string cannot fail.
        writeln!(text, "      {subject:<width$}  # {why}").unwrap_or_default();
    }
    text.push_str("    ]\n  }\n");
    text
}
