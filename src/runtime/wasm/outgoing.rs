//! Calls of servers: `wasi:http` over the runner's own client, to the origins that are granted.

use std::{error::Error as StdError, io, sync::Arc, time::Duration};

use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{Request, Response, body::Incoming};
use hyper_util::client::legacy;
use rustls::RootCertStore;
use tracing::debug;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpHooks, p2::bindings::http::types::ErrorCode,
};

use crate::{
    manifest::HttpOrigin,
    runtime::http::client::{self, Client, Tasks, Versions},
};

/// The servers that a function may call, and its connections to them.
pub(super) struct Outgoing {
    granted: Vec<HttpOrigin>,
    client: Client<WasiBody>,
}

impl Outgoing {
    /// # Errors
    /// When there can be no TLS.
    pub(super) async fn new(
        granted: &[HttpOrigin],
        connect: Duration,
        tasks: &Tasks,
    ) -> Result<Self, String> {
        let roots = match granted.iter().any(HttpOrigin::is_secure) {
            true => client::trusted(None).await?,
            false => RootCertStore::empty(),
        };
        let client = client::client(roots, Versions::Any, connect, tasks)?;
        Ok(Self { granted: granted.to_vec(), client })
    }

    async fn send(
        &self,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let goes = HttpOrigin::of_request(request.uri());
        if !goes.is_some_and(|origin| self.granted.contains(&origin)) {
            debug!(uri = %request.uri(), "a component may not call this server");
            return Err(Error::HttpRequestDenied);
        }
        let answer = self.client.request(request);
        let answer = match options.first_byte_timeout {
            None => answer.await,
            // One time for both, since the client does not tell when it is connected.
            Some(first) => {
                let patience = first.saturating_add(options.connect_timeout.unwrap_or_default());
                let answer = tokio::time::timeout(patience, answer).await;
                answer.map_err(|_| Error::HttpResponseTimeout)?
            }
        };
        let answer = answer.map_err(|err| told(&err))?;
        Ok(answer.map(|body| timed(body, options.between_bytes_timeout)))
    }
}

/// The hooks of one instance; without an [`Outgoing`] nothing is let through.
pub(super) struct Hooks(pub(super) Option<Arc<Outgoing>>);

/// What drives a response besides its body: nothing, since the client has tasks of its own.
type Driver = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Driver,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Driver), Error>> + Send> {
        let outgoing = self.0.clone();
        Box::new(async move {
            let outgoing = outgoing.ok_or(Error::HttpRequestDenied)?;
            let answer = outgoing.send(request, options.unwrap_or_default()).await?;
            Ok((answer, Box::new(std::future::ready(Ok(()))) as Driver))
        })
    }

    // The guest is told, and says what it makes of it; the default would log besides.
    fn p2_error_from_hyper(&mut self, err: &hyper::Error) -> ErrorCode {
        match err {
            err if err.is_incomplete_message() || err.is_body_write_aborted() => {
                ErrorCode::ConnectionTerminated
            }
            _ => ErrorCode::HttpProtocolError,
        }
    }
}

/// A body whose pieces may not be further apart than this.
fn timed(body: Incoming, patience: Option<Duration>) -> WasiBody {
    let Some(patience) = patience else { return body.map_err(Error::Hyper).boxed_unsync() };
    let frames = stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(patience, body.frame()).await {
            Ok(frame) => frame.map(|frame| (frame.map_err(Error::Hyper), Some(body))),
            Err(_) => Some((Err(Error::ConnectionReadTimeout), None)),
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// Why there is no answer.
fn told(err: &legacy::Error) -> Error {
    let mut chain =
        std::iter::successors(Some(err as &(dyn StdError + 'static)), |err| (*err).source());
    let cause = chain.find_map(|err| err.downcast_ref::<io::Error>());
    let tls = cause.and_then(within);
    match (err.is_connect(), tls, cause.map(io::Error::kind)) {
        (_, Some(rustls::Error::InvalidCertificate(_)), _) => Error::TlsCertificateError,
        (_, Some(_), _) => Error::TlsProtocolError,
        (true, None, Some(io::ErrorKind::ConnectionRefused)) => Error::ConnectionRefused,
        (true, None, Some(io::ErrorKind::TimedOut)) => Error::ConnectionTimeout,
        (true, None, Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)) => {
            Error::DestinationUnavailable
        }
        // What is left while connecting is a name that nobody knows.
        (true, None, _) => Error::DestinationNotFound,
        (false, None, Some(_)) => Error::ConnectionTerminated,
        (false, None, None) => Error::HttpProtocolError,
    }
}

/// The error of TLS that one of a socket stands for; it may be wrapped in another of its kind.
fn within(err: &io::Error) -> Option<&rustls::Error> {
    let inner = err.get_ref()?;
    inner.downcast_ref().or_else(|| within(inner.downcast_ref()?))
}
