//! Raw to valid. Every check reports and goes on with something harmless, so that all mistakes are
//! found at once; the result can be run only if none was, and nothing was unset.

mod bindings;
mod files;
mod functions;
mod http;
mod nats;
mod order;
mod streams;
mod together;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{
    DeadLetter, Manifest, defaults,
    leaf::{Count, Keys, Named, OneOrMany, Positive, Span, Text},
    path::Path,
    raw,
    report::Report,
};
use crate::subject;

/// What a manifest depends on besides its text.
pub(super) struct Context {
    /// Absolute; what relative paths start from.
    pub(super) dir: PathBuf,
    pub(super) digest: String,
    /// `PELTON_ADMIN_LISTEN`.
    pub(super) listen: Option<String>,
}

pub(super) fn validate(raw: raw::Manifest, context: Context, report: &mut Report) -> Manifest {
    let root = Path::root();
    version(raw.version, &root, report);
    let name = match raw.name {
        Some(Text(name)) => {
            named(&name, "a manifest", &root.key("name"), report);
            name
        }
        None => {
            report.missing(
                &root,
                &["name"],
                "a manifest needs a name",
                "add `name: shop`; it names what Pelton owns in NATS",
            );
            "unnamed".to_owned()
        }
    };
    let nats = nats::nats(raw.nats, &context.dir, &root.key("nats"), report);
    let streams = streams::streams(raw.streams, &root.key("streams"), report);
    let functions =
        functions::functions(raw.functions, &context.dir, &root.key("functions"), report);
    let bindings = bindings::bindings(raw.bindings, &functions, &root.key("bindings"), report);
    let dead_letter = dead_letter(raw.dead_letter, &name, &root.key("dead_letter"), report);
    let listen = raw.admin.and_then(|Keys(admin)| admin.listen);
    let admin = listen_address(listen, context.listen, &root.key("admin").key("listen"), report);
    let replicas = raw.defaults.and_then(|Keys(defaults)| defaults.num_replicas);
    let at = root.key("defaults").key("num_replicas");
    let num_replicas = replicas_of(replicas, &at, report);
    let drain = positive_span(raw.drain, defaults::DRAIN, &root.key("drain"), report);
    let manifest = Manifest {
        name,
        dir: context.dir,
        nats,
        streams,
        functions: functions.valid,
        bindings: bindings.valid,
        dead_letter,
        admin,
        drain,
        num_replicas: num_replicas.unwrap_or(NonZeroUsize::MIN),
        digest: context.digest,
    };
    together::check(&manifest, &bindings.places, report);
    manifest
}

fn version(version: Option<Count>, root: &Path, report: &mut Report) {
    match version {
        Some(Count(1)) => {}
        Some(Count(other)) => report.error_hint(
            &root.key("version"),
            format!("version {other} of the manifest is not known here"),
            "write `version: 1`, or use a newer Pelton",
        ),
        None => report.missing(
            root,
            &["version"],
            "a manifest needs its version",
            "begin with `version: 1`",
        ),
    }
}

fn dead_letter(
    raw: Option<Keys<raw::DeadLetter>>,
    name: &str,
    path: &Path,
    report: &mut Report,
) -> DeadLetter {
    let Keys(raw) = raw.unwrap_or(Keys(raw::DeadLetter::default()));
    let stream = match raw.stream {
        Some(Text(stream)) => {
            streams::stream_name(&stream, &path.key("stream"), report);
            stream
        }
        None => format!("{}_DLQ", name.to_uppercase().replace('-', "_")),
    };
    let subject = match raw.subject {
        Some(Text(subject)) => {
            literal(&subject, &path.key("subject"), report);
            subject
        }
        None => format!("dlq.{name}"),
    };
    DeadLetter { stream, subject }
}

/// An environment variable beats the manifest: a pod must listen where its probes look.
fn listen_address(
    written: Option<Text>,
    overriding: Option<String>,
    path: &Path,
    report: &mut Report,
) -> SocketAddr {
    let read = |text: &str| {
        let numeric = text.replacen("localhost:", "127.0.0.1:", 1);
        numeric.parse::<SocketAddr>().ok()
    };
    let default = defaults::LISTEN;
    let written = match written {
        None => default,
        Some(Text(text)) => read(&text).unwrap_or_else(|| {
            report.error_hint(
                path,
                format!("`{text}` is no address to listen on"),
                format!(
                    "write an IP address and a port, like {} or 0.0.0.0:8320",
                    defaults::LISTEN
                ),
            );
            default
        }),
    };
    match overriding.filter(|text| !text.is_empty()) {
        None => written,
        Some(text) => read(&text).unwrap_or_else(|| {
            report.error_hint(
                path,
                format!("PELTON_ADMIN_LISTEN is `{text}`, which is no address to listen on"),
                "set it to an IP address and a port, like 0.0.0.0:8320",
            );
            written
        }),
    }
}

/// Whether a name can be part of a durable's name, a subject and a metric label.
fn named(name: &str, what: &str, path: &Path, report: &mut Report) -> bool {
    let proper = (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !proper {
        report.error_hint(
            path,
            format!("`{name}` cannot be the name of {what}"),
            "use 1 to 64 of the characters A-Z a-z 0-9 _ -",
        );
    }
    proper
}

/// Whether a subject, wildcards allowed, is well-formed.
fn well_formed(text: &str, path: &Path, report: &mut Report) -> bool {
    match subject::complaint(text) {
        None => true,
        Some(complaint) => {
            report.error_hint(
                path,
                format!("`{text}` is no subject: {complaint}"),
                "write tokens with dots between them, like orders.placed, orders.* or orders.>",
            );
            false
        }
    }
}

/// Whether a subject is well-formed and without wildcards.
fn literal(text: &str, path: &Path, report: &mut Report) -> bool {
    if !well_formed(text, path, report) {
        return false;
    }
    let literal = subject::is_literal(text);
    if !literal {
        report.error_hint(
            path,
            format!("`{text}` has a wildcard, and events go to one subject"),
            "name the subject in full",
        );
    }
    literal
}

/// The texts of a list, each with its place; empty lists and items are reported.
fn texts(raw: OneOrMany, path: &Path, report: &mut Report) -> Vec<(Path, String)> {
    let items = match raw {
        OneOrMany::One(text) => return vec![(path.clone(), text)],
        OneOrMany::Many(items) => items,
    };
    if items.is_empty() {
        report.error_hint(path, format!("`{}` is an empty list", path.tail()), "name at least one");
    }
    present(items, path, report)
}

fn present(items: Vec<Option<String>>, path: &Path, report: &mut Report) -> Vec<(Path, String)> {
    let mut texts = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let at = path.index(index);
        match item {
            Some(text) => texts.push((at, text)),
            None => report.error_hint(
                &at,
                format!("`{}` is empty", at.tail()),
                "fill it or take it out",
            ),
        }
    }
    texts
}

fn positive_span(
    raw: Option<Span>,
    default: Duration,
    path: &Path,
    report: &mut Report,
) -> Duration {
    match raw {
        Some(Span(span)) if span.is_zero() => {
            report.error(path, format!("`{}` must be longer than 0s", path.tail()));
            default
        }
        Some(Span(span)) => span,
        None => default,
    }
}

/// A count that fits where it is used.
fn count(raw: Option<Positive>, default: u64, max: u64, path: &Path, report: &mut Report) -> u64 {
    match raw {
        Some(Positive(number)) if number.get() > max => {
            report.error(path, format!("`{}` can be {max} at most, not {number}", path.tail()));
            default
        }
        Some(Positive(number)) => number.get(),
        None => default,
    }
}

/// JetStream keeps at most five copies.
const REPLICAS_MAX: u64 = 5;

/// Events in flight at most; beyond it, a number is a slip of the finger.
const EVENTS_MAX: u64 = 1_000_000;

fn replicas_of(raw: Option<Positive>, path: &Path, report: &mut Report) -> Option<NonZeroUsize> {
    raw?;
    let number = count(raw, defaults::NUM_REPLICAS, REPLICAS_MAX, path, report);
    usize::try_from(number).ok().and_then(NonZeroUsize::new)
}

fn non_zero(number: u64) -> NonZeroUsize {
    usize::try_from(number).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN)
}

/// The entries of a map, those without a value as empty ones.
fn entries<T: Default>(raw: Option<Named<Keys<T>>>) -> Vec<(String, T)> {
    let entries = raw.map(|Named(entries)| entries).unwrap_or_default();
    entries
        .into_iter()
        .map(|(name, entry)| (name, entry.map(|Keys(entry)| entry).unwrap_or_default()))
        .collect()
}
