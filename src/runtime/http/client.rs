//! Connections: a pool for each function, TLS with the system's roots and the manifest's.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioTimer,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::warn;

use crate::manifest::Http;

pub(crate) type Client<B = Full<Bytes>> = legacy::Client<HttpsConnector<HttpConnector>, B>;

/// Shorter than servers keep a connection that nobody uses (2 s is the shortest in common use), so
/// that none is taken up in the moment in which the server lets it go.
const IDLE: Duration = Duration::from_secs(1);
/// A server that vanished without a word is noticed by a ping after this and an answer that does
/// not come: HTTP/2 puts every event on one connection, and each would time out.
const PING: Duration = Duration::from_secs(5);

/// # Errors
/// Why there can be no connection, in words.
pub(super) async fn build(spec: &Http, connect: Duration, tasks: &Tasks) -> Result<Client, String> {
    let roots = match spec.url.scheme_str() {
        Some("https") => trusted(spec.ca_file.clone()).await?,
        _ => RootCertStore::empty(),
    };
    let versions = if spec.http2 { Versions::Http2 } else { Versions::Any };
    client(roots, versions, connect, tasks)
}

/// Which HTTP a server is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versions {
    /// What it chooses.
    Any,
    /// HTTP/2, unasked.
    Http2,
}

/// The roots of this system, and those of a file.
///
/// # Errors
/// When the file cannot be used.
pub(crate) async fn trusted(ca_file: Option<PathBuf>) -> Result<RootCertStore, String> {
    let load = move || roots(ca_file.as_deref());
    let loaded = tokio::task::spawn_blocking(load).await;
    loaded.map_err(|err| format!("cannot load certificates: {err}"))?
}

/// # Errors
/// When TLS cannot be set up.
pub(crate) fn client<B>(
    roots: RootCertStore,
    versions: Versions,
    connect: Duration,
    tasks: &Tasks,
) -> Result<Client<B>, String>
where
    B: Body<Data: Send> + Send,
{
    // The same provider as the connection to NATS: one crypto library in the binary.
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|err| format!("cannot set up TLS: {err}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let connector = match versions {
        Versions::Http2 => https.enable_http2().wrap_connector(tcp),
        Versions::Any => https.enable_all_versions().wrap_connector(tcp),
    };
    Ok(legacy::Client::builder(tasks.clone())
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .http2_only(versions == Versions::Http2)
        .build(connector))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for err in system.errors {
        warn!(%err, "a certificate of the system cannot be read");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(file) = ca_file {
        let wrong = |err: &dyn std::fmt::Display| format!("ca_file {}: {err}", file.display());
        let mut found = 0;
        for certificate in CertificateDer::pem_file_iter(file).map_err(|err| wrong(&err))? {
            roots.add(certificate.map_err(|err| wrong(&err))?).map_err(|err| wrong(&err))?;
            found += 1;
        }
        if found == 0 {
            return Err(wrong(&"no certificate in it"));
        }
    }
    Ok(roots)
}

/// The tasks that drive connections. They end with their owner, or when told to.
#[derive(Clone)]
pub(crate) struct Tasks {
    running: TaskTracker,
    ending: CancellationToken,
    _guard: Arc<DropGuard>,
}

impl Default for Tasks {
    fn default() -> Self {
        let ending = CancellationToken::new();
        let guard = Arc::new(ending.clone().drop_guard());
        Self { running: TaskTracker::new(), ending, _guard: guard }
    }
}

impl Tasks {
    pub(crate) async fn end(&self) {
        self.ending.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.running.spawn(self.ending.clone().run_until_cancelled_owned(task));
    }
}
