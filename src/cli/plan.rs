//! `pelton plan`, and how a plan is shown.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use clap::ValueEnum;

use super::{
    Failure, connect, json, load,
    terminal::{self, say},
};
use pelton::{
    manifest::Manifest,
    nats::{Adoption, Field, Plan, Step},
};

/// Arguments of `pelton plan`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,

    /// End with 1 when anything would change.
    #[arg(long)]
    exit_code: bool,
}

/// What `plan` and `apply` have in common.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// The manifest [default: pelton.yaml].
    pub(super) file: Option<PathBuf>,

    /// Take over streams and consumers that are nobody's, or another manifest's.
    #[arg(long)]
    pub(super) adopt: bool,

    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// How something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let manifest = args.common.manifest()?;
    let connection = connect(&manifest).await?;
    let plan = Plan::of(&connection, &manifest, args.common.adoption()).await?;
    match args.common.output {
        Output::Json => say!("{}", json(&plan)?),
        Output::Text => say!("{}", describe(&plan, Paint::new())),
    }
    connection.close().await;
    let found = plan.is_blocked() || (args.exit_code && !plan.is_empty());
    Ok(if found { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Common {
    pub(super) fn manifest(&self) -> Result<Manifest, Failure> {
        Ok(load(self.file.as_deref())?.manifest)
    }

    pub(super) const fn adoption(&self) -> Adoption {
        if self.adopt { Adoption::Take } else { Adoption::Refuse }
    }
}

/// Colours, when there is a terminal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(bool);

impl Paint {
    pub(super) fn new() -> Self {
        Self(terminal::colours(&std::io::stdout()))
    }

    fn line(self, sign: char, text: &str) -> String {
        let code = match sign {
            '+' => 32,
            '~' => 33,
            '!' => 31,
            _ => 2,
        };
        if self.0 {
            format!("\u{1b}[{code}m{sign}\u{1b}[0m {text}")
        } else {
            format!("{sign} {text}")
        }
    }
}

/// A plan for people, one step after the other.
pub(super) fn describe(plan: &Plan, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for planned in &plan.steps {
        line(step(&planned.step, paint));
    }
    for problem in &plan.problems {
        line(paint.line('!', problem));
    }
    for orphan in &plan.orphans {
        let object = format!("consumer {} on stream {}", orphan.consumer, orphan.stream);
        let lag = orphan.lag;
        let what = format!("{object}: no binding owns it; {lag} events wait; nothing deletes it");
        line(paint.line('-', &what));
    }
    for warning in &plan.warnings {
        line(format!("warning: {warning}"));
    }
    text.push_str(&summary(plan));
    text
}

pub(super) fn step(step: &Step, paint: Paint) -> String {
    match step {
        Step::Create { object, detail } => paint.line('+', &format!("{object} ({detail})")),
        Step::Adopt { object, owner } => {
            let whose = owner.as_deref().map_or("nobody", |owner| owner);
            paint.line('~', &format!("{object}\n    owner: {whose} -> this manifest"))
        }
        Step::Change { object, fields, note } => {
            let note = note.map(|note| format!("\n    note: {note}")).unwrap_or_default();
            paint.line('~', &format!("{object}{}{note}", differences(fields)))
        }
        Step::Remove { object, why } => {
            paint.line('~', &format!("{object}\n    is deleted: {why}"))
        }
        Step::Refused { object, fields, why, way_out } => {
            let differences = differences(fields);
            paint.line('!', &format!("{object}{differences}\n    {why}\n    hint: {way_out}"))
        }
    }
}

/// A step that the server did not let happen.
pub(super) fn failed(step: &Step, error: &str, way_out: &str, paint: Paint) -> String {
    paint.line(
        '!',
        &format!("{}\n    the server refuses: {error}\n    hint: {way_out}", step.object()),
    )
}

fn differences(fields: &[Field]) -> String {
    fields.iter().fold(String::new(), |mut text, Field { key, old, new }| {
        let shown =
            |value: &str| if value.is_empty() { "none".to_owned() } else { value.to_owned() };
        // Writing to a string cannot fail.
        write!(text, "\n    {key}: {} -> {}", shown(old), shown(new)).unwrap_or_default();
        text
    })
}

fn summary(plan: &Plan) -> String {
    if plan.is_empty() {
        return "nothing to do".to_owned();
    }
    let feasible = plan.feasible();
    let blocked = plan.steps.len() - feasible + plan.problems.len();
    let noun = if feasible == 1 { "change" } else { "changes" };
    match blocked {
        0 => format!("{feasible} {noun}"),
        blocked => format!("{feasible} {noun}, {blocked} in the way (!)"),
    }
}
