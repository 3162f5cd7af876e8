//! Health, metrics and the lag over HTTP.

mod scale;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    metrics::Metrics,
    runner::{Phase, Status},
};

use scale::{Scale, scale};

/// Binds the admin port.
///
/// # Errors
/// When the port is taken, with the way out.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(listen).await.map_err(|err| {
        format!(
            "admin.listen: cannot listen on {listen}: {err}; choose another port in the manifest or with PELTON_ADMIN_LISTEN"
        )
    })
}

/// Serves `/livez`, `/readyz`, `/metrics` and `/scale` for as long as it is polled.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    status: watch::Receiver<Status>,
) -> std::io::Result<()> {
    let lag = Router::new().route("/scale", get(scale)).with_state(Scale::new(status.clone()));
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Shared { metrics, status })
        .merge(lag);
    axum::serve(listener, router).await
}

#[derive(Debug, Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    status: watch::Receiver<Status>,
}

/// What `/readyz` answers.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    phase: &'static str,
    nats_connected: bool,
    /// What the server does not allow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    denied: Vec<String>,
    /// Why the manifest as it is now is not the one that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    reload: Option<String>,
    bindings: Vec<BindingReadiness>,
}

#[derive(Debug, Serialize)]
struct BindingReadiness {
    binding: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let status = shared.status.borrow().clone();
    let nats_connected = status.connection.as_ref().is_some_and(|known| known.is_connected());
    let denied = status.connection.as_ref().map(|known| known.denied()).unwrap_or_default();
    let bindings: Vec<_> = status
        .bindings
        .iter()
        .map(|binding| {
            let blocked = binding.blocked.borrow().clone();
            let degraded = binding.degraded.borrow().clone();
            let paused = binding.paused.borrow().get(&binding.name).cloned();
            let (state, reason) = match (blocked, paused, degraded) {
                (Some(reason), _, _) => ("blocked", Some(reason)),
                (None, Some(reason), _) => ("paused", Some(reason)),
                (None, None, Some(reason)) => ("degraded", Some(reason)),
                (None, None, None) => ("up", None),
            };
            BindingReadiness { binding: binding.name.clone(), state, reason }
        })
        .collect();
    // A function that cannot start, or is paused, is no reason to take the others' runner out of
    // service.
    let blocked = bindings.iter().any(|binding| binding.state == "blocked");
    let ready = status.phase == Phase::Running && nats_connected && !blocked;
    let phase = match status.phase {
        Phase::Connecting => "connecting",
        Phase::Provisioning => "provisioning",
        Phase::Running => "running",
        Phase::Draining => "draining",
    };
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let reload = status.reload;
    (code, Json(Readiness { ready, phase, nats_connected, denied, reload, bindings }))
        .into_response()
}

async fn scrape(State(shared): State<Shared>) -> Response {
    match shared.metrics.scrape() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(err) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{err}\n")).into_response(),
    }
}
