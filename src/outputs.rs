//! What a function wants published, made into messages: where each goes, its id, its headers.
//! Pure.

use std::fmt::{Display, Write as _};

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::{
    cloudevents::{self, Attributes, TRACE_HEADERS},
    event::{Event, Headers, Outgoing, Publish},
    manifest,
    source::Origin,
    subject,
};

/// Where an event stands in the world: everything that an output's id is made of but its position.
#[derive(Debug, Clone, Copy)]
pub struct Provenance<'a> {
    /// The manifest's name.
    pub name: &'a str,
    /// The binding's name.
    pub binding: &'a str,
    /// The stream the input came from.
    pub origin: &'a Origin,
    /// The input.
    pub event: &'a Event,
    /// The replay that made it, if its ids are to differ from those of all other runs.
    pub replay: Option<&'a str>,
}

/// The messages for a function's outputs, and how many values had nowhere to go.
///
/// # Errors
/// Why the outputs are no answer to accept: the function named a subject or a header that it may
/// not use.
pub fn address(
    outputs: Vec<Outgoing>,
    publish: Option<&manifest::Publish>,
    from: Provenance<'_>,
    now: OffsetDateTime,
) -> Result<(Vec<Publish>, usize), String> {
    let mut messages = Vec::with_capacity(outputs.len());
    let mut discarded = 0;
    for (index, output) in outputs.into_iter().enumerate() {
        check_headers(&output)?;
        let Some(subject) = destination(output.subject.as_deref(), publish)? else {
            discarded += 1;
            continue;
        };
        let id = message_id(from, format_args!("output {index}"));
        let source = format!("pelton://{}/{}", from.name, from.binding);
        let mut headers = output.headers;
        for name in TRACE_HEADERS {
            if headers.get(name).is_none() {
                for value in from.event.headers.get_all(name) {
                    headers.append(name, value);
                }
            }
        }
        let kind = &subject;
        cloudevents::stamp(&mut headers, Attributes { id: &id, source: &source, kind, time: now });
        messages.push(Publish { subject, id, headers, data: output.data });
    }
    Ok((messages, discarded))
}

/// `Nats-Msg-Id`: the same for every run of the same binding on the same event, different for
/// anything else, for a stream that was deleted and made anew too.
#[must_use]
pub fn message_id(from: Provenance<'_>, position: impl Display) -> String {
    let (stream, created) = (&from.origin.stream, from.origin.created.unix_timestamp_nanos());
    let (life, sequence) = (life(from.event), from.event.id.sequence);
    let mut text = String::with_capacity(256);
    // A text takes everything.
    write!(
        text,
        "{stream}\0{created}\0{sequence}\0{life}\0{}\0{}\0{position}",
        from.name, from.binding,
    )
    .unwrap_or_default();
    if let Some(replay) = from.replay {
        text.push('\0');
        text.push_str(replay);
    }
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(16).fold(String::with_capacity(32), |mut id, byte| {
        for nibble in [byte >> 4, byte & 15] {
            id.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        id
    })
}

/// How often the event came back from the dead letters.
pub const LIFE_HEADER: &str = "pelton-dead-letter-life";

/// How often an event came back from the dead letters, as its header says it; `0`: never.
#[must_use]
pub fn life(event: &Event) -> &str {
    life_in(&event.headers)
}

/// As [`life`], in headers.
#[must_use]
pub fn life_in(headers: &Headers) -> &str {
    headers.get(LIFE_HEADER).unwrap_or("0")
}

fn destination(
    named: Option<&str>,
    publish: Option<&manifest::Publish>,
) -> Result<Option<String>, String> {
    use manifest::Publish::{Many, One};
    match (publish, named) {
        (None, None) => Ok(None),
        (Some(One(subject) | Many { first: subject, .. }), None) => Ok(Some(subject.clone())),
        (None, Some(named)) => {
            Err(format!("the function published to `{named}`, but its binding has no `publish`"))
        }
        (Some(One(subject)), Some(named)) if named == subject => Ok(Some(subject.clone())),
        (Some(listed @ Many { .. }), Some(named))
            if subject::complaint(named).is_none()
                && subject::is_literal(named)
                && listed.subjects().any(|pattern| subject::matches(pattern, named)) =>
        {
            Ok(Some(named.to_owned()))
        }
        (Some(_), Some(named)) => Err(format!(
            "the function published to `{named}`, which its binding's `publish` does not list"
        )),
    }
}

fn check_headers(output: &Outgoing) -> Result<(), String> {
    for (name, value) in output.headers.iter() {
        if Headers::is_of_server(name) && !name.eq_ignore_ascii_case("nats-ttl") {
            return Err(format!("an output may not set the header `{name}`"));
        }
        if !Headers::is_name(name) {
            return Err(format!("`{}` is no header name", name.escape_debug()));
        }
        if value.contains(['\r', '\n']) {
            return Err(format!("the value of header `{name}` contains a line break"));
        }
    }
    Ok(())
}
