//! Spans on their way to a collector: OTLP over HTTP, through the runner's own client.

use std::{
    env, fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::TRACER;
use crate::runtime::http::client::{self, Client, Tasks, Versions};

/// How long it may take to be connected.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a whole request may take, and the last of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const ANSWER_MAX: usize = 4 << 20;

/// What sends spans away, if anything does.
#[derive(Debug)]
pub struct Exporting(Option<SdkTracerProvider>);

/// Sends spans where `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` says,
/// if one of them does and no other variable forbids it.
///
/// # Errors
/// When what the variables say cannot be used.
pub async fn start() -> Result<Exporting, String> {
    if !is_wanted() {
        return Ok(Exporting(None));
    }
    let client = Arms::new().await?;
    let exporter = SpanExporter::builder().with_http().with_http_client(client).build();
    let exporter = exporter.map_err(|err| format!("OpenTelemetry: {err}"))?;
    let mut resource = Resource::builder();
    if env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("pelton");
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    TRACER.get_or_init(|| provider.tracer("pelton"));
    Ok(Exporting(Some(provider)))
}

fn is_wanted() -> bool {
    let says = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = says("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        .or_else(|| says("OTEL_EXPORTER_OTLP_ENDPOINT"))
        .is_some();
    let disabled = says("OTEL_SDK_DISABLED").is_some_and(|on| on.eq_ignore_ascii_case("true"));
    let none = says("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none");
    endpoint && !disabled && !none
}

impl Exporting {
    /// Sends what is left.
    pub async fn finish(self) {
        let Some(provider) = self.0 else { return };
        // It waits for its own thread, which needs this runtime.
        let ending = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(PATIENCE));
        match ending.await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => warn!(%err, "the last spans did not reach the collector"),
            Err(err) => warn!(%err, "the last spans did not reach the collector"),
        }
    }
}

/// Asks the collector from whatever thread, on the runtime.
struct Arms {
    client: Client,
    runtime: Handle,
    /// Whether the last request failed.
    lost: Arc<AtomicBool>,
}

impl Arms {
    async fn new() -> Result<Self, String> {
        let roots = client::trusted(None).await?;
        let client = client::client(roots, Versions::Any, CONNECT, &Tasks::default())?;
        Ok(Self { client, runtime: Handle::current(), lost: Arc::default() })
    }
}

/// Says when spans begin to be lost, and when they are no longer.
fn tell(lost: &AtomicBool, answer: &Result<Response<Bytes>, HttpError>) {
    let trouble = match answer {
        Ok(answer) if answer.status().is_success() => None,
        Ok(answer) => Some(answer.status().to_string()),
        Err(err) => Some(err.to_string()),
    };
    let before = lost.swap(trouble.is_some(), Ordering::Relaxed);
    match trouble {
        Some(why) if !before => warn!(why, "spans do not reach the OpenTelemetry collector"),
        None if before => info!("spans reach the OpenTelemetry collector again"),
        _ => {}
    }
}

impl fmt::Debug for Arms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Arms")
    }
}

impl HttpClient for Arms {
    fn send_bytes<'client, 'answer>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'answer>>
    where
        'client: 'answer,
        Self: 'answer,
    {
        let asked = self.client.request(request.map(Full::new));
        let lost = Arc::clone(&self.lost);
        let answered = async {
            let (head, body) = asked.await?.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let told = self.runtime.spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, answered).await;
            let answer = answer.unwrap_or_else(|_| Err("no answer in time".into()));
            tell(&lost, &answer);
            answer
        });
        Box::pin(async move { told.await? })
    }
}
