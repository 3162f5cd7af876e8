//! The Runtime API of one worker, version 2018-06-01: HTTP on a port of its own, so that it is known
//! who asks. Knows nothing of calls: it hands on what a runtime asks and says.

use std::{
    future::IntoFuture,
    io,
    net::{Ipv4Addr, SocketAddr},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace};

use super::Invocation;
pub(in crate::runtime) use super::answer::Failure;
use crate::handler::Fault;

/// The most a function may answer, as at AWS.
const RESPONSE_MAX: usize = 6 << 20;
/// The most that is read of an error.
const ERROR_MAX: usize = 256 << 10;
/// Requests that wait to be looked at.
const QUEUE: usize = 4;

const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
const ERROR_BODY: &str = "lambda-runtime-function-error-body";
const JSON: &str = "application/json";

/// What a runtime asks or says.
#[derive(Debug)]
pub(in crate::runtime) enum Request {
    /// It has nothing to do.
    Next(oneshot::Sender<Next>),
    /// It has done what it was asked.
    Answer { id: String, answer: Answer, told: oneshot::Sender<Told> },
    /// It cannot start.
    InitError { failure: Failure, told: oneshot::Sender<Told> },
}

/// What is said to a runtime that asks for its next event.
#[derive(Debug)]
pub(in crate::runtime) enum Next {
    /// Here it is.
    Invocation(Box<Invocation>),
    /// It has not answered the last one.
    Busy,
}

/// How an invocation ended.
#[derive(Debug)]
pub(in crate::runtime) enum Answer {
    /// With a response, or with what cannot be one.
    Response(Result<Bytes, Fault>),
    /// With an error of the function.
    Error(Failure),
}

/// What is said to a runtime that has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime) enum Told {
    Accepted,
    /// There is no such invocation.
    UnknownId,
    /// This is not the time for it.
    WrongState,
    /// More than a response may be.
    TooLarge,
}

/// A listening Runtime API.
#[derive(Debug)]
pub(in crate::runtime) struct Api {
    listener: TcpListener,
    address: SocketAddr,
}

impl Api {
    pub(in crate::runtime) async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// What the worker finds in its environment.
    pub(in crate::runtime) fn environment(&self) -> [(&'static str, String); 1] {
        [("AWS_LAMBDA_RUNTIME_API", self.address.to_string())]
    }

    /// Requests come out of the channel while the future is polled; once it is dropped, its
    /// connections end with what they are at.
    pub(in crate::runtime) fn serve(self) -> (mpsc::Receiver<Request>, impl Future<Output = ()>) {
        let (requests, requested) = mpsc::channel(QUEUE);
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(respond))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(fail))
            .route("/2018-06-01/runtime/init/error", post(init_error))
            .with_state(requests);
        let listener = self.listener.tap_io(|stream| {
            if let Err(err) = stream.set_nodelay(true) {
                trace!(%err, "a connection stays with Nagle's algorithm");
            }
        });
        let serving = async move {
            let end = CancellationToken::new();
            let _ends = end.clone().drop_guard();
            let serving =
                axum::serve(listener, router).with_graceful_shutdown(end.cancelled_owned());
            if let Err(err) = serving.into_future().await {
                debug!(%err, "a Runtime API ended");
            }
        };
        (requested, serving)
    }
}

type Requests = State<mpsc::Sender<Request>>;

async fn next(State(requests): Requests) -> Response {
    let (asker, answer) = oneshot::channel();
    if requests.send(Request::Next(asker)).await.is_err() {
        return gone();
    }
    match answer.await {
        Ok(Next::Invocation(invocation)) => invoke(*invocation),
        Ok(Next::Busy) => refuse(Told::WrongState),
        Err(_) => gone(),
    }
}

fn invoke(invocation: Invocation) -> Response {
    let Invocation { id, deadline, arn, trace, context, body } = invocation;
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, JSON)
        .header("lambda-runtime-aws-request-id", id)
        .header("lambda-runtime-deadline-ms", deadline.to_string())
        .header("lambda-runtime-invoked-function-arn", arn)
        .header("lambda-runtime-client-context", context);
    if let Some(trace) = trace {
        response = response.header("lambda-runtime-trace-id", trace);
    }
    response.body(Body::from(body)).unwrap_or_else(|err| {
        // Every one of them is ASCII.
        debug!(%err, "an invocation does not fit its headers");
        gone()
    })
}

async fn respond(
    State(requests): Requests,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(read) = read(body, RESPONSE_MAX).await else { return cut_off() };
    let header = |name: &str| {
        let value = read.trailers.get(name).or_else(|| headers.get(name));
        value.and_then(|value| value.to_str().ok())
    };
    let answer = match (header(ERROR_TYPE), &read.body) {
        // A response that was streamed, and broke off in the middle.
        (Some(kind), _) => {
            let body = header(ERROR_BODY).and_then(|body| BASE64.decode(body).ok());
            Answer::Error(Failure::read(&body.unwrap_or_default(), Some(kind)))
        }
        (None, Some(body)) => Answer::Response(Ok(body.clone())),
        (None, None) => {
            let mib = RESPONSE_MAX >> 20;
            Answer::Response(Err(Fault::BadReply(format!("a response of more than {mib}MiB"))))
        }
    };
    let told = tell(&requests, |told| Request::Answer { id, answer, told }).await;
    match (told, read.body) {
        (Some(Told::Accepted), None) => refuse(Told::TooLarge),
        (told, _) => reply(told),
    }
}

async fn fail(
    State(requests): Requests,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(failure) = failure(&headers, body).await else { return cut_off() };
    let answer = Answer::Error(failure);
    reply(tell(&requests, |told| Request::Answer { id, answer, told }).await)
}

async fn init_error(State(requests): Requests, headers: HeaderMap, body: Body) -> Response {
    let Some(failure) = failure(&headers, body).await else { return cut_off() };
    reply(tell(&requests, |told| Request::InitError { failure, told }).await)
}

async fn failure(headers: &HeaderMap, body: Body) -> Option<Failure> {
    let read = read(body, ERROR_MAX).await?;
    let kind = headers.get(ERROR_TYPE).and_then(|kind| kind.to_str().ok());
    Some(Failure::read(&read.body.unwrap_or_default(), kind))
}

async fn tell(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<Told>) -> Request,
) -> Option<Told> {
    let (teller, told) = oneshot::channel();
    requests.send(request(teller)).await.ok()?;
    told.await.ok()
}

/// A body to its end.
struct Read {
    /// `None`: it was too large.
    body: Option<Bytes>,
    trailers: HeaderMap,
}

/// Returns nothing if the connection broke off. What is too much is read as well, and forgotten: a
/// client that is still writing does not see an answer.
async fn read(mut body: Body, max: usize) -> Option<Read> {
    let mut data = Some(BytesMut::new());
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame.ok()?.into_data() {
            Ok(part) => {
                data = data.filter(|data| data.len() + part.len() <= max);
                if let Some(data) = &mut data {
                    data.extend_from_slice(&part);
                }
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Some(Read { body: data.map(BytesMut::freeze), trailers })
}

fn reply(told: Option<Told>) -> Response {
    match told {
        Some(Told::Accepted) => {
            let status = json!({"status": "OK"}).to_string();
            (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, JSON)], status).into_response()
        }
        Some(told) => refuse(told),
        None => gone(),
    }
}

fn refuse(told: Told) -> Response {
    let (status, kind, message) = match told {
        Told::WrongState | Told::Accepted => {
            (StatusCode::FORBIDDEN, "InvalidStateTransition", "this is not the time for it")
        }
        Told::UnknownId => (StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID"),
        Told::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            "the response is larger than 6 MiB",
        ),
    };
    error(status, kind, message)
}

fn cut_off() -> Response {
    error(StatusCode::BAD_REQUEST, "InvalidRequest", "the request broke off")
}

/// A runtime should end when it sees this.
fn gone() -> Response {
    error(StatusCode::INTERNAL_SERVER_ERROR, "Runtime.Gone", "this worker is not needed any more")
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({"errorType": kind, "errorMessage": message}).to_string();
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}
