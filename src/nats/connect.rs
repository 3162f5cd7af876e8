//! One connection: every way to say who we are, reconnecting for ever, and what the server
//! refused us.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError,
    jetstream::{self, context::ContextBuilder},
};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::{
    manifest::{Auth, Nats},
    metrics::Metrics,
};

/// The longest wait between two tries to reconnect.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// A connection to NATS; cheap to clone.
#[derive(Debug, Clone)]
pub struct Connection {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    /// `$JS.API`, or what replaces it.
    pub(super) api: Arc<str>,
    state: watch::Receiver<State>,
    denied: watch::Receiver<BTreeSet<String>>,
}

/// What is known of the connection right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    /// Whether there is one.
    pub(super) connected: bool,
    /// How many there have been: what the server kept for an earlier one is gone.
    pub(super) generation: u64,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The server does not want us.
    #[error("NATS refused the connection: {0}")]
    Refused(String),
    /// What the manifest says cannot be used.
    #[error("{0}")]
    Settings(String),
    /// Nobody answered in time.
    #[error("no nats-server answered at {servers}: {reason}")]
    Unreachable {
        /// Where we tried.
        servers: String,
        /// What happened last.
        reason: String,
    },
}

impl Connection {
    /// Connects, trying again until `patience` is over (`None`: for ever).
    ///
    /// # Errors
    /// When the settings are unusable, the server refuses them, or patience is over.
    pub async fn open(
        nats: &Nats,
        name: &str,
        patience: Option<Duration>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ConnectionError> {
        let servers = nats
            .servers
            .iter()
            .map(|url| url.parse::<ServerAddr>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|err| ConnectionError::Settings(format!("nats.servers: {err}")))?;
        let (changes, state) = watch::channel(State::default());
        let (refusals, denied) = watch::channel(BTreeSet::new());
        let watcher = Arc::new(Watcher { changes, refusals, metrics });
        let started = tokio::time::Instant::now();
        let mut delay = Duration::from_millis(50);
        let client = loop {
            let options = options(nats, name, Arc::clone(&watcher)).await?;
            match options.connect(&servers).await {
                Ok(client) => break client,
                Err(err) if is_refusal(err.kind()) => {
                    return Err(ConnectionError::Refused(full(&err)));
                }
                Err(err) if patience.is_some_and(|patience| started.elapsed() >= patience) => {
                    return Err(ConnectionError::Unreachable {
                        servers: nats.servers.join(", "),
                        reason: full(&err),
                    });
                }
                Err(err) => {
                    if delay >= RECONNECT_MAX {
                        warn!(servers = %nats.servers.join(", "), %err, "no connection to NATS yet");
                    }
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RECONNECT_MAX);
                }
            }
        };
        let (context, api) = context(&client, nats);
        Ok(Self { client, context, api, state, denied })
    }

    /// Whether there is a connection right now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state.borrow().connected
    }

    /// What the server has refused us so far: `publish to x`, `subscription to y`.
    #[must_use]
    pub fn denied(&self) -> Vec<String> {
        self.denied.borrow().iter().cloned().collect()
    }

    /// The answer to a question, or `None` once the connection it was asked through is gone: the
    /// next one brings no answers for it.
    pub(super) async fn answered<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let mut state = self.state.clone();
        let asked = state.borrow_and_update().generation;
        let replaced = state.wait_for(|state| state.generation != asked);
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            _ = replaced => None,
        }
    }

    /// The version of the server.
    #[must_use]
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// The time a round trip takes.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn round_trip(&self) -> Result<Duration, async_nats::client::FlushError> {
        let start = tokio::time::Instant::now();
        self.client.flush().await?;
        Ok(start.elapsed())
    }

    /// Makes sure that the server has processed everything said so far, then closes.
    pub async fn close(&self) {
        // A flush empties the socket's buffer; only an answer proves that the server has read it.
        let proof = self.client.request(format!("{}.INFO", self.api), "".into());
        if let Err(err) = tokio::time::timeout(Duration::from_secs(5), proof).await {
            debug!(%err, "the server did not confirm the last words");
        }
        if let Err(err) = self.client.drain().await {
            debug!(%err, "the connection did not close in order");
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Whether the server refused us to publish on `subject`.
    pub(super) fn may_not_publish(&self, subject: &str) -> bool {
        self.denied.borrow().contains(&format!("publish to {subject}"))
    }

    pub(super) fn refusals(&self) -> watch::Receiver<BTreeSet<String>> {
        self.denied.clone()
    }
}

/// Turns the client's events into state, metrics and log lines.
#[derive(Debug)]
struct Watcher {
    changes: watch::Sender<State>,
    refusals: watch::Sender<BTreeSet<String>>,
    metrics: Arc<Metrics>,
}

impl Watcher {
    fn notice(&self, event: &Event) {
        match event {
            Event::Connected => {
                let mut first = false;
                self.changes.send_modify(|state| {
                    first = state.generation == 0;
                    *state = State { connected: true, generation: state.generation + 1 };
                });
                self.metrics.connected(true);
                if !first {
                    // Permissions may have been changed meanwhile.
                    self.refusals.send_if_modified(|known| !std::mem::take(known).is_empty());
                    self.metrics.reconnected();
                    info!("connected to NATS again");
                }
            }
            Event::Disconnected => {
                self.changes.send_modify(|state| state.connected = false);
                self.metrics.connected(false);
                warn!("connection to NATS lost; reconnecting");
            }
            Event::ServerError(ServerError::Other(text)) => self.refused(text),
            Event::ServerError(err) => error!(%err, "error from NATS"),
            Event::SlowConsumer(_) => {
                warn!("this runner reads too slowly; deliveries were dropped and will come again")
            }
            Event::LameDuckMode => info!("the NATS server is about to shut down"),
            Event::ClientError(err) => debug!(%err, "error in the NATS client"),
            Event::Draining | Event::Closed => debug!(%event, "NATS connection"),
        }
    }

    /// `Permissions Violation for Publish to "x"`: the only word the server has for it.
    fn refused(&self, text: &str) {
        let Some(what) = denied_action(text) else {
            error!(error = text, "error from NATS");
            return;
        };
        let new = self.refusals.send_if_modified(|known| known.insert(what.clone()));
        if new {
            error!(denied = %what, "NATS permissions do not allow this: grant it to this user");
        }
    }
}

fn denied_action(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    if !lower.contains("permissions violation") {
        return None;
    }
    let subject = text.split('"').nth(1)?;
    let action = if lower.contains("publish") { "publish to" } else { "subscription to" };
    Some(format!("{action} {subject}"))
}

async fn options(
    nats: &Nats,
    name: &str,
    watcher: Arc<Watcher>,
) -> Result<ConnectOptions, ConnectionError> {
    let mut options = ConnectOptions::new()
        .name(name)
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            let doubled = 1_u64.checked_shl(u32::try_from(attempts).unwrap_or(16).min(16));
            Duration::from_millis(25 * doubled.unwrap_or(u64::MAX / 100)).min(RECONNECT_MAX)
        })
        .event_callback(move |event| {
            let watcher = Arc::clone(&watcher);
            async move { watcher.notice(&event) }
        });
    let read = async |path: &std::path::Path, what: &str| {
        tokio::fs::read_to_string(path).await.map_err(|err| {
            ConnectionError::Settings(format!("{what}: cannot read {}: {err}", path.display()))
        })
    };
    options = match &nats.auth {
        Auth::None => options,
        Auth::Credentials(path) => {
            let text = read(path, "nats.credentials_file").await?;
            options.credentials(&text).map_err(|err| {
                ConnectionError::Settings(format!(
                    "nats.credentials_file: {}: {err}",
                    path.display()
                ))
            })?
        }
        Auth::NkeySeed(path) => {
            let seed = read(path, "nats.nkey_seed_file").await?;
            options.nkey(seed.trim().to_owned())
        }
        Auth::Token(token) => options.token(token.0.clone()),
        Auth::UserPassword(user, password) => {
            options.user_and_password(user.clone(), password.0.clone())
        }
    };
    if let Some(tls) = &nats.tls {
        options = options.require_tls(true);
        if let Some(ca) = &tls.ca_file {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((cert, key)) = &tls.client {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
    }
    if let Some(prefix) = &nats.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    Ok(options)
}

fn context(client: &Client, nats: &Nats) -> (jetstream::Context, Arc<str>) {
    let builder = ContextBuilder::new().timeout(Duration::from_secs(5));
    let client = client.clone();
    let context = match (&nats.api_prefix, &nats.domain) {
        (Some(prefix), _) => builder.api_prefix(prefix).build(client),
        (None, Some(domain)) => builder.domain(domain).build(client),
        (None, None) => builder.build(client),
    };
    (context, api(nats).into())
}

/// What the subjects of the JetStream API start with when nothing else is said.
pub(super) const API: &str = "$JS.API";

/// What the subjects of the JetStream API start with.
pub(super) fn api(nats: &Nats) -> String {
    match (&nats.api_prefix, &nats.domain) {
        (Some(prefix), _) => prefix.trim_end_matches('.').to_owned(),
        (None, Some(domain)) => format!("$JS.{domain}.API"),
        (None, None) => API.to_owned(),
    }
}

const fn is_refusal(kind: ConnectErrorKind) -> bool {
    matches!(
        kind,
        ConnectErrorKind::Authentication
            | ConnectErrorKind::AuthorizationViolation
            | ConnectErrorKind::ServerParse
            | ConnectErrorKind::Tls
    )
}

/// An error with its causes: the client's own message stops at "TLS error".
fn full(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        let next = err.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = err.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::denied_action;

    #[test]
    fn a_violation_names_its_subject() {
        let text = "Permissions Violation for Publish to \"orders.Paid\"";
        assert_eq!(denied_action(text).as_deref(), Some("publish to orders.Paid"));
        let text = "Permissions Violation for Subscription to \"_INBOX.x.*\"";
        assert_eq!(denied_action(text).as_deref(), Some("subscription to _INBOX.x.*"));
        assert_eq!(denied_action("maximum connections exceeded"), None);
    }
}
