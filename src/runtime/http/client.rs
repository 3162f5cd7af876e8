//! Connections: a pool for each function, TLS with the system's roots and the manifest's.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
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

pub(super) type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

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
        Some("https") => {
            let ca_file = spec.ca_file.clone();
            let load = move || roots(ca_file.as_deref());
            let loaded = tokio::task::spawn_blocking(load).await;
            loaded.map_err(|err| format!("cannot load certificates: {err}"))??
        }
        _ => RootCertStore::empty(),
    };
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
    let connector = if spec.http2 {
        https.enable_http2().wrap_connector(tcp)
    } else {
        https.enable_all_versions().wrap_connector(tcp)
    };
    Ok(legacy::Client::builder(tasks.clone())
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .http2_only(spec.http2)
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
pub(super) struct Tasks {
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
    pub(super) async fn end(&self) {
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
