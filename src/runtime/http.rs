//! A function behind a URL: an event is a POST, the status of the answer its verdict.

mod answer;
mod batch;
pub(crate) mod client;
mod request;

use std::{
    error::Error,
    io,
    pin::pin,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    http::response::Parts,
};
use hyper_util::client::legacy::{self, connect::capture_connection};
use tokio::{sync::OnceCell, time};

use crate::{
    duration,
    event::{Event, Verdict},
    handler::{BoxFuture, Call, Fault, Handler, NonEmpty, Reply},
    manifest::{self, Function, size},
};

use client::{Client, Tasks};

/// What is read of the body of a failure, so that its connection can be used again.
const FAILURE_MAX: usize = 64 << 10;

/// Posts events to one URL.
pub(super) struct Http {
    spec: manifest::Http,
    target: String,
    /// How long a connection may take to be there.
    connect: Duration,
    client: OnceCell<Client>,
    tasks: Tasks,
}

impl Http {
    pub(super) fn new(function: &Function, spec: &manifest::Http) -> Self {
        let part = |part: Option<&str>| part.unwrap_or_default().to_owned();
        let host = part(spec.url.authority().map(|authority| authority.as_str()));
        Self {
            spec: spec.clone(),
            target: format!("{}://{host}", part(spec.url.scheme_str())),
            connect: function.start_timeout,
            client: OnceCell::new(),
            tasks: Tasks::default(),
        }
    }

    async fn post_one(&self, event: &Event, timeout: Duration) -> Result<Verdict, Fault> {
        let (head, data) = self.post(request::of(event, &self.spec), timeout).await?;
        answer::verdict(&head, data, &self.spec.reject_on, SystemTime::now())
    }

    async fn post_all(
        &self,
        events: &NonEmpty<Event>,
        timeout: Duration,
    ) -> Result<Vec<Verdict>, Fault> {
        let (head, data) = self.post(request::of_batch(events, &self.spec), timeout).await?;
        let ids: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
        batch::verdicts(&head, data, &ids, &self.spec.reject_on, SystemTime::now())
    }

    /// What is answered: all of it if it is a success.
    async fn post(
        &self,
        mut request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> Result<(Parts, Bytes), Fault> {
        let client = self
            .client
            .get_or_try_init(|| client::build(&self.spec, self.connect, &self.tasks))
            .await
            .map_err(Fault::Unavailable)?;
        let mut captured = capture_connection(&mut request);
        let answer = client.request(request);
        let mut exchange = pin!(async {
            let response = answer.await.map_err(|err| self.no_answer(&err))?;
            self.read(response).await
        });
        // A target that cannot be reached is no failure of the event, so the time that counts
        // starts with the connection.
        let connected = async { drop(captured.wait_for_connection_metadata().await) };
        tokio::select! {
            biased;
            said = &mut exchange => return said,
            connected = time::timeout(self.connect, connected) => if connected.is_err() {
                let waited = duration::show(self.connect);
                let why = format!("no connection to {} within {waited}", self.target);
                return Err(Fault::Unavailable(why));
            }
        }
        time::timeout(timeout, exchange).await.unwrap_or(Err(Fault::Timeout(timeout)))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<(Parts, Bytes), Fault> {
        let (head, body) = response.into_parts();
        let success = head.status.is_success();
        let max = if success { self.spec.max_response } else { FAILURE_MAX };
        let mut whole = !success || body.size_hint().lower() <= max as u64;
        let mut data = Bytes::new();
        if whole {
            (data, whole) = collect(body, max)
                .await
                .map_err(|err| fault(&err, format!("the answer of {} broke off", self.target)))?;
        }
        if success && !whole {
            let max = size::show(max as u64);
            return Err(Fault::BadReply(format!("an answer of more than {max} (max_response)")));
        }
        Ok((head, data))
    }

    fn no_answer(&self, err: &legacy::Error) -> Fault {
        if err.is_connect() {
            return Fault::Unavailable(format!("cannot reach {}: {}", self.target, causes(err)));
        }
        fault(err, format!("no answer from {}", self.target))
    }
}

impl Handler for Http {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Fault>> {
        Box::pin(async move {
            let Call { events, batch, timeout, .. } = call;
            let verdicts = match batch {
                true => self.post_all(&events, timeout).await?,
                false => vec![self.post_one(&events.first, timeout).await?],
            };
            Ok(Reply { verdicts, state: None })
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.tasks.end())
    }
}

/// The body, and whether it is all there; reading ends where it gets too large.
async fn collect(mut body: Incoming, max: usize) -> Result<(Bytes, bool), hyper::Error> {
    let mut data = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers are not for us.
        let Ok(part) = frame?.into_data() else { continue };
        data.extend_from_slice(&part);
        if data.len() > max {
            return Ok((data.freeze(), false));
        }
    }
    Ok((data.freeze(), true))
}

/// What is not HTTP is a bad reply; a connection that ends too early, a crash.
fn fault(err: &(dyn Error + 'static), what: String) -> Fault {
    let said = format!("{what}: {}", causes(err));
    let malformed = chain(Some(err)).any(|err| {
        err.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
            || err.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_library)
            || err.downcast_ref::<io::Error>().is_some_and(|err| {
                matches!(err.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
            })
    });
    if malformed { Fault::BadReply(said) } else { Fault::Crash(said) }
}

/// The reasons behind an error, each once.
fn causes(err: &(dyn Error + 'static)) -> String {
    let mut said = String::new();
    for err in chain(err.source().or(Some(err))) {
        let text = err.to_string();
        if !said.contains(&text) {
            let colon = if said.is_empty() { "" } else { ": " };
            said.push_str(colon);
            said.push_str(&text);
        }
    }
    said
}

fn chain<'a>(
    first: Option<&'a (dyn Error + 'static)>,
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(first, |err: &&'a (dyn Error + 'static)| (*err).source())
}
