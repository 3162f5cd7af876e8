//! The URL of a NATS server, user information included.

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;

use super::{Auth, Secret};

/// A server and who we are to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `nats://host:port`, without user information.
    pub url: String,
    /// What the URL said of us.
    pub auth: Auth,
}

/// What is wrong with a server's URL. No message shows it: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ServerError {
    /// It cannot be read.
    #[error("this is no URL of a NATS server")]
    NoUrl,
    /// Another protocol.
    #[error("`{0}` is no scheme of a NATS server")]
    Scheme(String),
    /// Nowhere.
    #[error("this URL of a NATS server has no host")]
    NoHost,
    /// A path, a query or a fragment.
    #[error("the URL of a NATS server ends with its port")]
    Tail,
}

impl ServerError {
    /// How to mend it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Scheme(_) => "write nats:// or tls://",
            _ => "write it like nats://nats.example.com:4222 or tls://user:password@host:4222",
        }
    }
}

impl Server {
    /// Splits a URL into the server and who we are to it; `nats://` may be left out.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ServerError> {
        let full = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
        let url = Url::parse(&full).map_err(|_| ServerError::NoUrl)?;
        if !matches!(url.scheme(), "nats" | "tls") {
            return Err(ServerError::Scheme(url.scheme().to_owned()));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(ServerError::NoHost)?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(ServerError::Tail);
        }
        let server = match url.port() {
            Some(port) => format!("{}://{host}:{port}", url.scheme()),
            None => format!("{}://{host}", url.scheme()),
        };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let auth = match (url.username(), url.password()) {
            ("", None) => Auth::None,
            // NATS takes user information without a password for a token.
            (token, None) => Auth::Token(Secret(decoded(token))),
            (user, Some(password)) => Auth::UserPassword(decoded(user), Secret(decoded(password))),
        };
        Ok(Self { url: server, auth })
    }
}
