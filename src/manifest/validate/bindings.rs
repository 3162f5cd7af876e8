//! `bindings:`

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    EVENTS_MAX, count,
    functions::Functions,
    literal, named, non_zero,
    order::{self, Keyed},
    positive_span,
    streams::stream_name,
    texts, well_formed,
};
use crate::duration;
use crate::manifest::{
    Batch, Binding, Order, Publish, Retry, Start, defaults,
    leaf::{Count, Keys, OneOrMany, PerTime, Span, StartAt, Text},
    path::Path,
    raw,
    report::Report,
    wording,
};
use crate::subject;

/// The valid bindings, and where each of them is.
pub(super) struct Bindings {
    pub(super) valid: Vec<Binding>,
    pub(super) places: Vec<Path>,
}

pub(super) fn bindings(
    raw: Option<Vec<Option<Keys<raw::Binding>>>>,
    functions: &Functions,
    path: &Path,
    report: &mut Report,
) -> Bindings {
    let mut bindings = Bindings { valid: Vec::new(), places: Vec::new() };
    let mut used: Vec<String> = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let raw = raw.unwrap_or_default();
    let number = raw.len();
    for (index, item) in raw.into_iter().enumerate() {
        let path = path.index(index);
        let Some(Keys(raw)) = item else {
            report.error_hint(&path, "this binding is empty", "fill it or take it out");
            continue;
        };
        used.extend(raw.function.as_ref().map(|Text(name)| name.clone()));
        if let Some(binding) = binding(raw, functions, &path, report) {
            unique(&binding, index, &mut names, &path, report);
            bindings.valid.push(binding);
            bindings.places.push(path);
        }
    }
    old_names(&bindings, report);
    if number == 0 {
        report.warn(path, "there are no bindings, so nothing runs", "add `bindings:`");
    } else if used.len() == number {
        // A binding whose function is not known may be the one that uses it.
        for name in functions.names.iter().filter(|name| !used.contains(name)) {
            report.warn(
                &Path::root().key("functions").key(name),
                format!("no binding calls the function {name}"),
                "bind it to a subject or take it out",
            );
        }
    }
    bindings
}

fn unique(
    binding: &Binding,
    index: usize,
    names: &mut BTreeMap<String, usize>,
    path: &Path,
    report: &mut Report,
) {
    let name = &binding.name;
    if let Some(other) = names.insert(name.clone(), index) {
        report.error_hint(
            &path.key("name"),
            format!("`bindings[{other}]` is called {name} as well"),
            "a binding is called like its function unless it has a `name:` of its own",
        );
    }
}

/// An old name is nobody's name any more, and has one heir.
fn old_names(bindings: &Bindings, report: &mut Report) {
    let mut heirs: BTreeMap<&str, &str> = BTreeMap::new();
    for (binding, path) in bindings.valid.iter().zip(&bindings.places) {
        let Some(old) = &binding.renamed_from else { continue };
        let at = path.key("renamed_from");
        if bindings.valid.iter().any(|other| other.name == *old) {
            report.error_hint(
                &at,
                format!("there is a binding called {old}"),
                "`renamed_from` is a name that no binding has any more: take it out, or give the other binding a new name",
            );
        } else if let Some(other) = heirs.insert(old, &binding.name) {
            report.error_hint(
                &at,
                format!("{other} was renamed from {old} as well"),
                "one binding can take the place of another: let the second begin anew",
            );
        }
    }
}

fn binding(
    mut raw: raw::Binding,
    functions: &Functions,
    path: &Path,
    report: &mut Report,
) -> Option<Binding> {
    let subjects = subjects(raw.subject.take(), path, report);
    let function = function(raw.function.take(), functions, path, report);
    let name = match raw.name.take() {
        Some(Text(name)) => named(&name, "a binding", &path.key("name"), report).then_some(name),
        None => function.clone(),
    };
    let old = path.key("renamed_from");
    let renamed_from = raw.renamed_from.take().map(|Text(name)| name);
    let renamed_from = renamed_from.filter(|name| named(name, "a binding", &old, report));
    let stream = raw.stream.take().map(|Text(stream)| {
        stream_name(&stream, &path.key("stream"), report);
        stream
    });
    let publish = raw.publish.take().and_then(|raw| publish(raw, &path.key("publish"), report));
    let concurrency =
        count(raw.concurrency, defaults::CONCURRENCY, EVENTS_MAX, &path.key("concurrency"), report);
    let Keyed { order, state } = order::keyed(&mut raw, &subjects, concurrency, path, report);
    if renamed_from.is_some() && order.as_ref().is_some_and(|order| order.partitions.is_some()) {
        report.error_hint(
            &old,
            "a binding with `partitions` cannot take the place of another yet",
            "let the other one finish under its old name, or take `partitions` out",
        );
    }
    let at = path.key("batch");
    let batch = raw.batch.take().map(|Keys(raw)| order::batch(raw, &at, report));
    if batch.is_some() && state.is_some() {
        report.error_hint(
            &at,
            "a batch with `state` is not possible yet",
            "state is kept for one key, and a batch holds events of several: take one of them out",
        );
    }
    let pending = max_ack_pending(&raw, concurrency, path, report);
    let (slots, max_ack_pending) = slots(concurrency, order.as_ref(), batch.as_ref(), pending);
    let timeout = positive_span(raw.timeout, defaults::TIMEOUT, &path.key("timeout"), report);
    let usual = if order.is_some() { defaults::ACK_WAIT_ORDERED } else { defaults::ACK_WAIT };
    let ack_wait = ack_wait(raw.ack_wait, usual, &path.key("ack_wait"), report);
    let Keys(retry) = raw.retry.unwrap_or(Keys(raw::Retry::default()));
    let retry = self::retry(retry, &path.key("retry"), report);
    let start = start(raw.start, &path.key("start"), report);
    Some(Binding {
        name: name?,
        renamed_from,
        subjects,
        stream,
        function: function?,
        publish,
        concurrency: non_zero(concurrency),
        rate: raw.rate.map(|PerTime(rate)| rate),
        timeout,
        retry,
        ack_wait,
        max_ack_pending: non_zero(max_ack_pending),
        slots: non_zero(slots),
        slot_bytes: usize::try_from(defaults::SLOT_BYTES).unwrap_or(usize::MAX),
        start,
        order,
        batch,
        state,
    })
}

fn max_ack_pending(raw: &raw::Binding, concurrency: u64, path: &Path, report: &mut Report) -> u64 {
    let at = path.key("max_ack_pending");
    let pending = count(raw.max_ack_pending, defaults::MAX_ACK_PENDING, EVENTS_MAX, &at, report);
    if pending < concurrency {
        let at = if raw.max_ack_pending.is_some() { &at } else { &path.key("concurrency") };
        report.warn(
            at,
            format!("`concurrency` {concurrency} is never reached with `max_ack_pending` {pending}"),
            "max_ack_pending counts the events of all runners together: make it several times larger",
        );
    }
    pending
}

/// The events that a runner holds, and those that the server lets out.
///
/// In order, only one runner works at a time, and one that takes over must have room for all that
/// the one before it held: the server lets out as many as one runner has slots.
fn slots(
    concurrency: u64,
    order: Option<&Order>,
    batch: Option<&Batch>,
    max_ack_pending: u64,
) -> (u64, u64) {
    let running = concurrency.saturating_mul(batch.map_or(1, |batch| batch.max.get() as u64));
    let Some(order) = order else { return (running, max_ack_pending) };
    let waiting = concurrency.saturating_mul(order.lane_limit.get() as u64);
    let slots = running.saturating_add(waiting).min(max_ack_pending);
    (slots, slots)
}

fn subjects(raw: Option<OneOrMany>, path: &Path, report: &mut Report) -> Vec<String> {
    let Some(raw) = raw else {
        report.missing(
            path,
            &["subject"],
            "a binding needs a subject",
            "add `subject: orders.placed`, or a list",
        );
        return Vec::new();
    };
    let mut subjects: Vec<String> = Vec::new();
    for (at, text) in texts(raw, &path.key("subject"), report) {
        if !well_formed(&text, &at, report) {
            continue;
        }
        match subjects.iter().find(|other| subject::overlap(&text, other)) {
            Some(other) => report.error_hint(
                &at,
                format!("`{text}` overlaps `{other}` of the same binding"),
                "keep the wider one",
            ),
            None => subjects.push(text),
        }
    }
    subjects
}

fn function(
    raw: Option<Text>,
    functions: &Functions,
    path: &Path,
    report: &mut Report,
) -> Option<String> {
    let Some(Text(name)) = raw else {
        report.missing(
            path,
            &["function"],
            "a binding needs a function",
            "add `function:` with a name from `functions:`",
        );
        return None;
    };
    let known = functions.names.iter().map(String::as_str);
    if !functions.names.contains(&name) && !report.is_spoiled(&Path::root().key("functions")) {
        let hint = match functions.names.is_empty() {
            true => format!("add `functions:` with `{name}: {{ run: {name}.py }}`"),
            false => wording::suggest(&name, known),
        };
        report.error_hint(&path.key("function"), format!("there is no function `{name}`"), hint);
    }
    Some(name)
}

fn publish(raw: OneOrMany, path: &Path, report: &mut Report) -> Option<Publish> {
    if let OneOrMany::One(subject) = raw {
        return literal(&subject, path, report).then_some(Publish::One(subject));
    }
    let mut listed = texts(raw, path, report).into_iter();
    let (at, first) = listed.next()?;
    if well_formed(&first, &at, report) && !subject::is_literal(&first) {
        report.error_hint(
            &at,
            format!("`{first}` has a wildcard, and the values of a function go to the first entry"),
            "begin the list with a subject without wildcards",
        );
    }
    let others: Vec<String> = listed
        .filter(|(at, subject)| well_formed(subject, at, report))
        .map(|(_, subject)| subject)
        .collect();
    Some(Publish::Many { first, others })
}

/// Shorter than this, a hiccup of the network is a redelivery.
const ACK_WAIT_MIN: Duration = Duration::from_secs(1);

fn ack_wait(raw: Option<Span>, usual: Duration, path: &Path, report: &mut Report) -> Duration {
    let Some(Span(span)) = raw else { return usual };
    if span < ACK_WAIT_MIN {
        report.error_hint(
            path,
            "`ack_wait` must be at least 1s",
            "it bounds how fast another runner takes over; slow functions do not need it longer",
        );
        return usual;
    }
    span
}

fn retry(raw: raw::Retry, path: &Path, report: &mut Report) -> Retry {
    let attempts = path.key("attempts");
    let attempts = count(raw.attempts, defaults::ATTEMPTS, ATTEMPTS_MAX, &attempts, report);
    let losses = path.key("losses");
    let losses = match raw.losses.map(|Count(losses)| u32::try_from(losses)) {
        Some(Ok(losses)) => u64::from(losses),
        Some(Err(_)) => {
            report.error(&losses, "`losses` is too large");
            defaults::LOSSES
        }
        None => defaults::LOSSES,
    };
    let (backoff_min, backoff_max) = backoff(raw.backoff, &path.key("backoff"), report);
    Retry {
        attempts: u32::try_from(attempts).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN),
        backoff_min,
        backoff_max,
        losses: u32::try_from(losses).unwrap_or(u32::MAX),
        max_age: raw
            .max_age
            .map(|age| positive_span(Some(age), Duration::MAX, &path.key("max_age"), report)),
        on_exhausted: raw.on_exhausted.unwrap_or_default(),
    }
}

/// Attempts at most; the ledger keeps each of them.
const ATTEMPTS_MAX: u64 = 1_000_000;

fn backoff(raw: Option<raw::Backoff>, path: &Path, report: &mut Report) -> (Duration, Duration) {
    let raw = raw.unwrap_or_default();
    let (min, max) = (raw.min.map(|Span(span)| span), raw.max.map(|Span(span)| span));
    match (min, max) {
        (Some(min), Some(max)) if min > max => {
            report.error_hint(
                path,
                format!(
                    "the shortest wait, {}, is longer than the longest, {}",
                    duration::show(min),
                    duration::show(max)
                ),
                "write the shorter one first, like 1s..1m",
            );
            (max, min)
        }
        // Of one alone, the other is moved out of its way.
        (min, max) => {
            let low = min.unwrap_or_else(|| {
                max.map_or(defaults::BACKOFF_MIN, |max| max.min(defaults::BACKOFF_MIN))
            });
            (low, max.unwrap_or_else(|| low.max(defaults::BACKOFF_MAX)))
        }
    }
}

fn start(raw: Option<StartAt>, path: &Path, report: &mut Report) -> Start {
    let word = match raw {
        None => return Start::All,
        Some(StartAt::Sequence(0)) => {
            report.error(path, "sequences are counted from 1");
            return Start::All;
        }
        Some(StartAt::Sequence(sequence)) => return Start::Sequence(sequence),
        Some(StartAt::Word(word)) => word,
    };
    match word.as_str() {
        "all" => return Start::All,
        "new" => return Start::New,
        _ => {}
    }
    OffsetDateTime::parse(&word, &Rfc3339).map(Start::Time).unwrap_or_else(|_| {
        report.error_hint(
            path,
            format!("`{word}` is no place to start"),
            "write all, new, a time like 2030-01-31T12:00:00Z, or a sequence as a number",
        );
        Start::All
    })
}
