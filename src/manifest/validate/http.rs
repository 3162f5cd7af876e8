//! `http:` and `reject_on:` of a function.

use std::{collections::BTreeSet, path::Path as FilePath};

use hyper::{
    Uri,
    header::{HeaderName, HeaderValue},
};
use url::Url;

use super::{files::exists, nats::resolve};
use crate::manifest::{
    Http, Runtime, Secret, defaults,
    leaf::{Count, Flag, Named, Size, Text},
    path::Path,
    raw,
    report::Report,
};

/// Statuses that can mean a rejection.
const FAILURES: std::ops::RangeInclusive<u64> = 400..=599;
/// Bodies beyond this belong in a store.
const RESPONSE_MAX: u64 = 1 << 30;
/// Headers that say where a message ends, or are the event's own.
const OURS: [&str; 7] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "te",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn http(
    raw: raw::Http,
    reject_on: Option<Vec<Option<Count>>>,
    dir: &FilePath,
    path: &Path,
    report: &mut Report,
) -> Option<Runtime> {
    let at = path.key("http");
    let reject_on = statuses(reject_on, &path.key("reject_on"), report);
    let place = if raw.short { at.clone() } else { at.key("url") };
    let Some(Text(text)) = raw.url else {
        let hint = "add `url: \"http://…\"`, where events are posted";
        report.missing(&at, &["url"], "`http` needs a URL", hint);
        return None;
    };
    let url = address(&text, &place, report)?;
    let ca_file = raw.ca_file.map(|Text(file)| file).filter(|file| !file.is_empty()).map(|file| {
        let full = resolve(dir, &file);
        exists(&full, &file, &at.key("ca_file"), report);
        full
    });
    Some(Runtime::Http(Box::new(Http {
        url,
        mode: raw.mode.unwrap_or_default(),
        headers: headers(raw.headers, &at.key("headers"), report),
        ca_file,
        max_response: response(raw.max_response, &at.key("max_response"), report),
        http2: raw.http2.is_some_and(|Flag(flag)| flag),
        reject_on,
    })))
}

fn address(text: &str, path: &Path, report: &mut Report) -> Option<Uri> {
    let example = "write it in full, like http://audit.internal:8080/events";
    let parsed = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .and_then(|mut url| {
            url.set_fragment(None);
            let uri = url.as_str().parse::<Uri>().ok()?;
            Some((url, uri))
        });
    let Some((url, uri)) = parsed else {
        report.error_hint(path, format!("`{text}` is no URL of an HTTP server"), example);
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint =
            "send it as a header: `headers: {authorization: \"${file:/run/secrets/audit}\"}`";
        report.error_hint(path, "the URL holds a user or a password", hint);
        return None;
    }
    Some(uri)
}

fn headers(raw: Option<Named<Text>>, path: &Path, report: &mut Report) -> Vec<(String, Secret)> {
    let mut headers = Vec::new();
    for (name, value) in raw.map(|Named(entries)| entries).unwrap_or_default() {
        let at = path.key(&name);
        let value = value.map(|Text(value)| value).unwrap_or_default();
        let lower = name.to_ascii_lowercase();
        let kept = OURS.contains(&lower.as_str())
            || ["ce-", "nats-", "pelton-"].iter().any(|prefix| lower.starts_with(prefix));
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            report.error(&at, format!("`{name}` is no name of a header"));
        } else if kept {
            report.error_hint(
                &at,
                format!("Pelton sets the header `{name}` itself"),
                "take it out",
            );
        } else if HeaderValue::from_str(value.trim()).is_err() {
            // The value may be a secret: it is not shown.
            report.error(&at, format!("the value of `{name}` has characters no header can hold"));
        }
        headers.push((lower, Secret(value.trim().to_owned())));
    }
    headers
}

fn response(raw: Option<Size>, path: &Path, report: &mut Report) -> usize {
    let size = raw.map_or(defaults::MAX_RESPONSE, |Size(size)| size);
    if size == 0 || size > RESPONSE_MAX {
        report.error(path, "`max_response` must be more than 0, and 1GiB at most");
    }
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn statuses(raw: Option<Vec<Option<Count>>>, path: &Path, report: &mut Report) -> BTreeSet<u16> {
    let mut statuses = BTreeSet::new();
    for (index, item) in raw.into_iter().flatten().enumerate() {
        let at = path.index(index);
        match item {
            Some(Count(status)) if FAILURES.contains(&status) => {
                statuses.extend(u16::try_from(status));
            }
            Some(Count(status)) => report.error_hint(
                &at,
                format!("{status} is no status of a failed request"),
                "name statuses from 400 to 599",
            ),
            None => report.error(&at, format!("`{}` is empty", at.tail())),
        }
    }
    statuses
}
