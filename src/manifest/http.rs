//! A function behind a URL, as the manifest describes it.

use std::{collections::BTreeSet, path::PathBuf};

use hyper::Uri;
use url::Url;

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

/// A server that speaks HTTP: scheme, host and port, always spelt the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOrigin(String);

impl HttpOrigin {
    /// Reads `https://host`, `http://host:port`, or a host with or without port, which is one over
    /// TLS; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let whole = match text.contains("://") {
            true => text.to_owned(),
            false => format!("https://{text}"),
        };
        let url = Url::parse(&whole).ok()?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        Self::of(&url).filter(|_| bare)
    }

    /// Where a request goes; `None` when it names no host or a user.
    #[must_use]
    pub fn of_request(uri: &Uri) -> Option<Self> {
        Self::of(&Url::parse(&uri.to_string()).ok()?)
    }

    fn of(url: &Url) -> Option<Self> {
        let known = matches!(url.scheme(), "http" | "https");
        let nobody = url.username().is_empty() && url.password().is_none();
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        (known && nobody).then(|| Self(format!("{}://{host}:{port}", url.scheme())))
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.0.starts_with("https:")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_the_same_however_it_is_spelt() {
        let origin = |text| HttpOrigin::parse(text).map(|origin| origin.0);
        for text in ["api.example.com", "API.example.com:443", "https://api.example.com/"] {
            assert_eq!(origin(text).as_deref(), Some("https://api.example.com:443"), "{text}");
        }
        assert_eq!(origin("http://[::1]:80").as_deref(), Some("http://[::1]:80"));
        let others = [
            "",
            "ftp://a",
            "https://a/path",
            "https://a?q",
            "https://u@a",
            "https://",
            "a b",
            "*.a",
        ];
        for text in others {
            assert_eq!(origin(text).filter(|origin| !origin.contains('*')), None, "{text}");
        }
    }

    #[test]
    fn a_request_is_granted_by_its_own_origin_alone() {
        let granted = HttpOrigin::parse("http://127.0.0.1:8080").unwrap();
        let goes = |uri: &str| HttpOrigin::of_request(&uri.parse().unwrap());
        assert_eq!(goes("http://127.0.0.1:8080/a?b").as_ref(), Some(&granted));
        for uri in [
            "https://127.0.0.1:8080/",
            "http://127.0.0.1/",
            "http://localhost:8080/",
            "http://127.0.0.1:8080@evil.example.com/",
            "http://127.0.0.1.example.com:8080/",
            "/only/a/path",
        ] {
            assert_ne!(goes(uri).as_ref(), Some(&granted), "{uri}");
        }
    }
}
