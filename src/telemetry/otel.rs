//! Spans, by OpenTelemetry's conventions for messaging.

mod export;

use std::sync::OnceLock;

use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, Span},
};

use super::Place;
use crate::event::{Event, Headers, Publish};

pub use export::{Exporting, start};

/// Set once spans have somewhere to go.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The trace of an event that is handled; its span ends with it.
#[derive(Debug, Default)]
pub struct Trace(Option<Span>);

/// A part of a trace; its span ends with it.
#[derive(Debug)]
pub struct Step(Option<Span>);

impl Trace {
    /// Goes on with the trace that the event's headers speak of, or begins one.
    #[must_use]
    pub fn begin(event: &Event, place: Place<'_>) -> Self {
        let Some(tracer) = TRACER.get() else { return Self(None) };
        let mut attributes = of_consumer("process", "process", place);
        attributes.push(KeyValue::new("messaging.message.id", event.id.to_string()));
        attributes.push(size(event.data.len()));
        let span = SpanBuilder::from_name(format!("process {}", place.subject))
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes)
            .start_with_context(tracer, &spoken_of(&event.headers));
        Self(Some(span))
    }

    /// Lets whoever sees these headers go on with the trace.
    pub fn carry(&self, headers: &mut Headers) {
        if let Some(span) = &self.0 {
            inject(span.span_context(), headers);
        }
    }

    /// The trace's id; that of the headers of an event that is not handled.
    #[must_use]
    pub fn id(&self, headers: &Headers) -> Option<String> {
        TRACER.get()?;
        let context = match &self.0 {
            Some(span) => span.span_context().clone(),
            None => spoken_of(headers).span().span_context().clone(),
        };
        context.is_valid().then(|| context.trace_id().to_string())
    }

    /// Says how it went.
    pub fn ended(&mut self, outcome: &'static str, error: Option<&str>) {
        let Some(span) = &mut self.0 else { return };
        span.set_attribute(KeyValue::new("pelton.outcome", outcome));
        if let Some(error) = error {
            span.set_attribute(KeyValue::new("error.type", outcome));
            span.set_status(Status::error(error.to_owned()));
        }
    }

    /// Begins to store an output, which carries the trace on unless its function saw to that.
    #[must_use]
    pub fn publish(&self, message: &mut Publish, event: &Event) -> Step {
        let given = message.headers.get(TRACEPARENT);
        let functions_own = given.is_some() && given != event.headers.get(TRACEPARENT);
        let step = self.step(
            format!("publish {}", message.subject),
            SpanKind::Producer,
            of_producer(&message.subject, message.data.len()),
        );
        if let (Step(Some(span)), false) = (&step, functions_own) {
            inject(span.span_context(), &mut message.headers);
        }
        step
    }

    /// Begins to say the word that settles the event.
    #[must_use]
    pub fn settle(&self, word: &'static str, place: Place<'_>) -> Step {
        let attributes = of_consumer(word, "settle", place);
        self.step(format!("{word} {}", place.subject), SpanKind::Client, attributes)
    }

    fn step(&self, name: String, kind: SpanKind, attributes: Vec<KeyValue>) -> Step {
        let (Some(tracer), Some(span)) = (TRACER.get(), &self.0) else { return Step(None) };
        let context = Context::new().with_remote_span_context(span.span_context().clone());
        let builder = SpanBuilder::from_name(name).with_kind(kind).with_attributes(attributes);
        Step(Some(builder.start_with_context(tracer, &context)))
    }
}

impl Step {
    /// Says that it failed.
    pub fn failed(&mut self, why: &str) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(why.to_owned()));
        }
    }
}

/// Tells that events have come together, with links to their traces.
pub fn received<'a>(place: Place<'_>, events: impl ExactSizeIterator<Item = &'a Event>) {
    let Some(tracer) = TRACER.get() else { return };
    let mut attributes = of_consumer("receive", "receive", place);
    let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
    attributes.push(KeyValue::new("messaging.batch.message_count", count));
    let context = |event: &Event| spoken_of(&event.headers).span().span_context().clone();
    let links = events.map(context).filter(SpanContext::is_valid);
    let mut span = SpanBuilder::from_name(format!("receive {}", place.subject))
        .with_kind(SpanKind::Client)
        .with_attributes(attributes)
        .with_links(links.map(Link::with_context).collect())
        .start_with_context(tracer, &Context::new());
    span.end();
}

/// Begins to publish an event from outside, which carries the trace on.
#[must_use]
pub fn sent(subject: &str, bytes: usize, headers: &mut Headers) -> Step {
    let Some(tracer) = TRACER.get() else { return Step(None) };
    let span = SpanBuilder::from_name(format!("publish {subject}"))
        .with_kind(SpanKind::Producer)
        .with_attributes(of_producer(subject, bytes))
        .start_with_context(tracer, &spoken_of(headers));
    inject(span.span_context(), headers);
    Step(Some(span))
}

fn of_consumer(name: &'static str, kind: &'static str, place: Place<'_>) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", "nats"),
        KeyValue::new("messaging.operation.name", name),
        KeyValue::new("messaging.operation.type", kind),
        KeyValue::new("messaging.destination.name", place.stream.to_owned()),
        KeyValue::new("messaging.destination.template", place.subject.to_owned()),
        KeyValue::new("messaging.consumer.group.name", place.consumer.to_owned()),
    ]
}

fn of_producer(subject: &str, bytes: usize) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", "nats"),
        KeyValue::new("messaging.operation.name", "publish"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("messaging.destination.name", subject.to_owned()),
        size(bytes),
    ]
}

fn size(bytes: usize) -> KeyValue {
    KeyValue::new("messaging.message.body.size", i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// The context that headers speak of, if they do.
fn spoken_of(headers: &Headers) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Carrier(headers))
}

fn inject(context: &SpanContext, headers: &mut Headers) {
    let (trace, span) = (context.trace_id(), context.span_id());
    let flags = context.trace_flags().to_u8();
    headers.set(TRACEPARENT, format!("00-{trace}-{span}-{flags:02x}"));
    let state = context.trace_state().header();
    if !state.is_empty() {
        headers.set(TRACESTATE, state);
    }
}

struct Carrier<'a>(&'a Headers);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name).collect()
    }
}
