//! A function behind a URL, as the manifest describes it.

use std::{collections::BTreeSet, path::PathBuf};

use hyper::Uri;

use super::Secret;

/// How to reach a function over HTTP, and how to take its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where events are posted: `http` or `https`, with a host, without a user.
    pub url: Uri,
    /// How an event is put into a request.
    pub mode: HttpMode,
    /// Headers of every request; what they hold may be a secret.
    pub headers: Vec<(String, Secret)>,
    /// Roots to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Bytes of an answer's body at most.
    pub max_response: usize,
    /// HTTP/2 and nothing else, without asking the server first.
    pub http2: bool,
    /// Statuses that reject the event, besides those that always do.
    pub reject_on: BTreeSet<u16>,
}

impl Http {
    /// The URL without its query, which may hold a secret.
    #[must_use]
    pub fn shown(&self) -> String {
        let text = self.url.to_string();
        text.split_once('?').map_or(text.as_str(), |(start, _)| start).to_owned()
    }
}

/// The content modes of the `CloudEvents` HTTP binding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpMode {
    /// Attributes as `ce-` headers, the payload as the body.
    #[default]
    Binary,
    /// Attributes and payload in one JSON object.
    Structured,
}
