//! `pelton invoke`: one call, here, without NATS.

mod tell;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Value, value::RawValue};
use time::OffsetDateTime;

use super::{Failure, load, payload, terminal::say};
use pelton::{
    event::{Event, EventId, State},
    handler::{Call, Company, NonEmpty},
    key,
    manifest::{Binding, Manifest},
    metrics::Metrics,
    runtime::{self, Launcher, Natives, Surroundings},
};
use tell::{Policy, Told};

/// Arguments of `pelton invoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pelton invoke payment '{\"orderId\": \"A1\"}' --subject orders.placed
  pelton invoke inventory --file orders.json          # `batch`: a JSON list, an event each
  pelton invoke shipping '{\"orderId\": \"A1\"}' --state '{\"paid\": true}'")]
pub(super) struct Args {
    /// The function's name.
    function: String,

    /// The payload; `-` reads it from standard input. With `batch`, a JSON list has a payload for
    /// each event, and anything else is a batch of one.
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

    /// With `state`: the state of the event's key, in JSON; a new key has none.
    #[arg(long, value_parser = json)]
    state: Option<Value>,

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
    let events = events(&args, binding)?;
    let state = state(&args, binding, &events)?;
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
        events: NonEmpty::collect(events.clone())
            .ok_or_else(|| Failure::Usage("the list of events is empty".to_owned()))?,
        batch: binding.is_some_and(|binding| binding.batch.is_some()),
        state,
        timeout,
        company: Company::Apart,
    };
    let started = Instant::now();
    let answer = handler.call(call).await;
    let took = started.elapsed();
    handler.stop().await;
    let Told { text, succeeded } = Policy { manifest: &manifest, binding }.tell(&events, answer);
    say!("{text}\n  took {:.1} ms, start of the worker included", took.as_secs_f64() * 1000.0);
    Ok(ExitCode::from(u8::from(!succeeded)))
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

fn events(args: &Args, binding: Option<&Binding>) -> Result<Vec<Event>, Failure> {
    let data = payload::read(Some(&args.data), args.file.as_deref())?;
    let first = binding.and_then(|binding| binding.subjects.first());
    let subject = args.subject.clone().or_else(|| first.map(|s| s.replace(['*', '>'], "x")));
    let subject = subject.unwrap_or_else(|| "invoke".to_owned());
    let headers = payload::headers(&args.headers)?;
    let payloads = match binding.and_then(|binding| binding.batch.as_ref()) {
        Some(_) => each(data),
        None => vec![data],
    };
    let event = |(sequence, data)| Event {
        id: EventId { stream: "INVOKE".into(), sequence },
        subject: subject.clone(),
        headers: headers.clone(),
        data,
        time: OffsetDateTime::now_utc(),
        attempt: args.attempt.max(1),
    };
    Ok((1..).zip(payloads).map(event).collect())
}

/// The payloads in a list.
fn each(data: Bytes) -> Vec<Bytes> {
    match serde_json::from_slice::<Vec<&RawValue>>(&data) {
        Ok(items) => items.iter().map(|item| data.slice_ref(item.get().as_bytes())).collect(),
        Err(_) => vec![data],
    }
}

fn state(
    args: &Args,
    binding: Option<&Binding>,
    events: &[Event],
) -> Result<Option<State>, Failure> {
    let keyed =
        binding.and_then(|binding| Some((binding.state.as_ref()?, binding.order.as_ref()?)));
    let Some((_, order)) = keyed else {
        return match args.state {
            None => Ok(None),
            Some(_) => Err(Failure::Usage("`--state` is for bindings with `state`".to_owned())),
        };
    };
    if events.iter().any(|event| key::of(event, &order.key).is_none()) {
        return Err(Failure::Problem(
            "the event has no key to keep state under: it would be a dead letter (undecodable)"
                .to_owned(),
        ));
    }
    Ok(Some(State(args.state.clone().unwrap_or_default())))
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|err| format!("no JSON: {err}"))
}
