//! Messages from and to the client's own types.

use std::sync::Arc;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message};

use super::reply::Reply;
use crate::{
    event::{Event, EventId, Headers},
    source::Origin,
};

/// Names that every output has, and that are not made anew for each.
static KNOWN: [HeaderName; 6] = [
    HeaderName::from_static("ce-specversion"),
    HeaderName::from_static("ce-id"),
    HeaderName::from_static("ce-source"),
    HeaderName::from_static("ce-type"),
    HeaderName::from_static("ce-time"),
    HeaderName::from_static("ce-datacontenttype"),
];

/// The event in a delivered message.
pub(super) fn event(message: Message, reply: Reply, origin: &Origin) -> Event {
    Event {
        id: EventId { stream: Arc::clone(&origin.stream), sequence: reply.sequence },
        subject: message.subject.into_string(),
        headers: message.headers.as_ref().map(headers).unwrap_or_default(),
        data: message.payload,
        time: reply.stored,
        attempt: 1,
    }
}

pub(super) fn headers(map: &HeaderMap) -> Headers {
    map.iter()
        .flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name, value.as_str()))
        })
        .collect()
}

/// Headers as the client sends them.
///
/// # Errors
/// Names the header that the wire cannot carry.
pub(super) fn header_map(headers: &Headers) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        let known = KNOWN.iter().find(|known| AsRef::<str>::as_ref(*known) == name).cloned();
        let key: HeaderName = match known {
            Some(known) => known,
            None => {
                name.parse().map_err(|_| format!("`{}` is no header name", name.escape_debug()))?
            }
        };
        let value: HeaderValue = value
            .parse()
            .map_err(|_| format!("the value of header `{name}` contains a line break"))?;
        map.append(key, value);
    }
    Ok(map)
}
