//! `pelton invoke`: one call, here, without NATS.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{Failure, load, payload, terminal::say};
use pelton::{
    event::{Event, EventId, Publish, Verdict},
    handler::{Call, Company, Fault, NonEmpty, Reply},
    manifest::{Binding, Manifest},
    metrics::Metrics,
    outputs::{self, Provenance},
    runtime::{self, Launcher, Natives, Surroundings},
    source::Origin,
};

/// Arguments of `pelton invoke`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  pelton invoke payment '{\"orderId\": \"A1\"}' --subject orders.placed"
)]
pub(super) struct Args {
    /// The function's name.
    function: String,

    /// The payload; `-` reads it from standard input.
    #[arg(default_value = "")]
    data: String,

    /// A file that is the payload.
    #[arg(long, conflicts_with = "data")]
    file: Option<PathBuf>,

    /// The event's subject [default: the binding's first, wildcards replaced by `x`].
    #[arg(long)]
    subject: Option<String>,

    /// A header, as `name: value`; may be repeated.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,

    /// Which attempt the function is told this is.
    #[arg(long, default_value_t = 1)]
    attempt: u32,

    /// The binding whose policy counts, when the function has several.
    #[arg(long)]
    binding: Option<String>,

    /// The manifest [default: pelton.yaml].
    #[arg(short, long)]
    manifest: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let manifest = load(args.manifest.as_deref())?.manifest;
    let (function, binding) = find(&manifest, &args)?;
    let event = event(&args, binding)?;
    let metrics = Metrics::new().map_err(|err| Failure::Problem(err.to_string()))?;
    let (launcher, natives) = (Launcher::default(), Natives::new());
    let surroundings = Surroundings { launcher: &launcher, natives: &natives, buckets: None };
    let handler = runtime::build_with(
        &surroundings,
        function,
        std::num::NonZeroUsize::MIN,
        metrics.workers(&function.name),
    )
    .map_err(|err| Failure::Problem(err.to_string()))?;
    let timeout = binding.map_or(Duration::from_secs(30), |binding| binding.timeout);
    let call = Call {
        events: NonEmpty::one(event.clone()),
        batch: false,
        state: None,
        timeout,
        company: Company::Apart,
    };
    let started = Instant::now();
    let answer = handler.call(call).await;
    let took = started.elapsed();
    handler.stop().await;
    let told = tell(&manifest, binding, &event, answer);
    say!(
        "{}\n  took {:.1} ms, start of the worker included",
        told.text,
        took.as_secs_f64() * 1000.0
    );
    Ok(ExitCode::from(u8::from(!told.succeeded)))
}

fn find<'a>(
    manifest: &'a Manifest,
    args: &Args,
) -> Result<(&'a pelton::manifest::Function, Option<&'a Binding>), Failure> {
    let function = manifest.functions.get(&args.function).ok_or_else(|| {
        let known: Vec<&str> = manifest.functions.keys().map(String::as_str).collect();
        Failure::Usage(format!(
            "there is no function `{}`; the manifest has: {}",
            args.function,
            known.join(", ")
        ))
    })?;
    let binding = match &args.binding {
        None => manifest.bindings.iter().find(|binding| binding.function == function.name),
        Some(name) => Some(
            manifest
                .bindings
                .iter()
                .find(|binding| binding.name == *name && binding.function == function.name)
                .ok_or_else(|| {
                    Failure::Usage(format!("no binding `{name}` calls `{}`", function.name))
                })?,
        ),
    };
    Ok((function, binding))
}

fn event(args: &Args, binding: Option<&Binding>) -> Result<Event, Failure> {
    let data = payload::read(Some(&args.data), args.file.as_deref())?;
    let first = binding.and_then(|binding| binding.subjects.first());
    let subject = args.subject.clone().or_else(|| first.map(|s| s.replace(['*', '>'], "x")));
    Ok(Event {
        id: EventId { stream: "INVOKE".into(), sequence: 1 },
        subject: subject.unwrap_or_else(|| "invoke".to_owned()),
        headers: payload::headers(&args.headers)?,
        data,
        time: OffsetDateTime::now_utc(),
        attempt: args.attempt.max(1),
    })
}

struct Told {
    text: String,
    succeeded: bool,
}

impl Told {
    fn failure(text: String) -> Self {
        Self { text, succeeded: false }
    }
}

/// What the answer would lead to.
fn tell(
    manifest: &Manifest,
    binding: Option<&Binding>,
    event: &Event,
    answer: Result<Reply, Fault>,
) -> Told {
    let letters = &manifest.dead_letter.subject;
    let name = binding.map_or("", |binding| binding.name.as_str());
    let attempts = binding.map_or(1, |binding| binding.retry.attempts.get());
    let again = match event.attempt < attempts {
        true => format!("would be tried again (attempt {} of {attempts})", event.attempt + 1),
        false => format!("would be a dead letter on {letters}.{name}: the last attempt failed"),
    };
    let verdict = match answer {
        Ok(mut reply) => reply.verdicts.pop(),
        Err(Fault::Unavailable(why)) => {
            return Told::failure(format!(
                "unavailable: {why}\n  the event would wait until the function can start"
            ));
        }
        Err(fault) => return Told::failure(format!("failed: {fault}\n  {again}")),
    };
    match verdict {
        None => Told::failure(format!("failed: no verdict\n  {again}")),
        Some(Verdict::Retry { reason, .. }) => Told::failure(format!("retry: {reason}\n  {again}")),
        Some(Verdict::Reject { reason, .. }) => Told::failure(format!(
            "reject: {reason}\n  would be a dead letter on {letters}.{name} at once"
        )),
        Some(Verdict::Done(outputs)) => {
            let origin = Origin {
                stream: Arc::clone(&event.id.stream),
                created: OffsetDateTime::UNIX_EPOCH,
            };
            let from = Provenance {
                name: &manifest.name,
                binding: name,
                origin: &origin,
                event,
                replay: None,
            };
            let publish = binding.and_then(|binding| binding.publish.as_ref());
            match outputs::address(outputs, publish, from, OffsetDateTime::now_utc()) {
                Err(why) => Told::failure(format!("bad reply: {why}\n  {again}")),
                Ok((messages, discarded)) => {
                    let mut text = "done: would be acknowledged".to_owned();
                    for message in &messages {
                        text.push_str(&show(message));
                    }
                    if discarded > 0 {
                        text.push_str(&format!(
                            "\n  {discarded} output(s) discarded: the binding has no `publish`"
                        ));
                    }
                    Told { text, succeeded: true }
                }
            }
        }
    }
}

fn show(message: &Publish) -> String {
    let kind = message.headers.get("ce-datacontenttype").unwrap_or("no content type");
    let data = match std::str::from_utf8(&message.data) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{} bytes", message.data.len()),
    };
    let own: Vec<String> = message
        .headers
        .iter()
        .filter(|(name, _)| !name.starts_with("ce-"))
        .map(|(name, value)| format!("\n    {name}: {value}"))
        .collect();
    format!("\n  → {} ({kind}){}\n    {data}", message.subject, own.concat())
}
