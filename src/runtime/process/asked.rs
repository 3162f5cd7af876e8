//! The conversation with a worker that asks for its calls, one at a time, over a Lambda Runtime API.

use std::time::Instant;

use tokio::sync::oneshot;

use super::{
    frame::Word,
    talk::{Said, Talk},
};
use crate::{
    event::Verdict,
    handler::Reply,
    runtime::lambda::{
        Invocation, Shape,
        api::{Answer, Api, Failure, Next, Request, Told},
    },
};

/// What the worker is at.
#[derive(Default)]
struct Desk {
    /// It waits for a call.
    asker: Option<oneshot::Sender<Next>>,
    /// A call that it was to get when it hung up.
    returned: Option<Box<Invocation>>,
    /// What it was given and has not answered.
    open: Option<Open>,
    /// What it answered last.
    closed: Option<String>,
    /// When it must have asked again.
    ask_by: Option<Instant>,
}

/// An invocation that a worker is at.
struct Open {
    id: String,
    /// The number of its call.
    number: u64,
    /// The ids of its events.
    events: Vec<String>,
}

impl Talk<'_> {
    /// Talks until the worker has ended.
    pub(super) async fn answer_questions(&self, api: Api, shape: &Shape) {
        let (mut requested, serving) = api.serve();
        let talking = async {
            let mut desk = Desk::default();
            let mut closing = false;
            loop {
                self.hand_out(&mut desk, shape);
                if self.eof.is_cancelled() && !self.pool.is_busy(self.plan.worker) {
                    self.hang_up(Said::Nothing);
                }
                tokio::select! {
                    // What was said before the end counts.
                    biased;
                    Some(request) = requested.recv() => self.hear(&mut desk, request, shape),
                    () = self.ended.cancelled() => return,
                    () = self.plan.bell.outbox.notified() => {}
                    () = self.eof.cancelled(), if !closing => closing = true,
                    () = overdue(desk.ask_by) => {
                        desk.ask_by = None;
                        let within = crate::duration::show(self.spec.limits.start_timeout);
                        let what = format!("did not ask for its next event within {within}");
                        self.hang_up(Said::Nonsense(what));
                    }
                }
            }
        };
        tokio::select! {
            () = talking => {}
            // Nobody can be heard any more; without questions the worker is of no use.
            () = serving => self.hang_up(Said::Nonsense("its Runtime API broke".to_owned())),
        }
    }

    /// Gives the worker a call if it waits and there is one.
    fn hand_out(&self, desk: &mut Desk, shape: &Shape) {
        let Some(asker) = desk.asker.take() else { return };
        if asker.is_closed() {
            // It hung up: there is nobody who could begin with anything.
            desk.ask_by = self.patience();
            return;
        }
        let invocation = desk.returned.take().or_else(|| {
            let (number, call) = self.pool.take(self.plan.worker)?;
            let invocation = Box::new(Invocation::new(&call, shape));
            let events = call.events.iter().map(|event| event.id.to_string()).collect();
            desk.open = Some(Open { id: invocation.id.clone(), number, events });
            Some(invocation)
        });
        match invocation {
            None => desk.asker = Some(asker),
            Some(invocation) => {
                if let Err(Next::Invocation(invocation)) = asker.send(Next::Invocation(invocation))
                {
                    desk.returned = Some(invocation);
                    desk.ask_by = self.patience();
                }
            }
        }
    }

    fn hear(&self, desk: &mut Desk, request: Request, shape: &Shape) {
        match request {
            Request::Next(asker) => self.asked(desk, asker),
            Request::Answer { id, answer, told } => {
                say(told, self.answered(desk, &id, answer, shape));
            }
            Request::InitError { told, .. } if self.ready.get().is_some() => {
                say(told, Told::WrongState);
            }
            Request::InitError { failure, told } => {
                self.show(&failure, None);
                say(told, Told::Accepted);
                self.hang_up(Said::Failed(failure.reason()));
            }
        }
    }

    fn asked(&self, desk: &mut Desk, asker: oneshot::Sender<Next>) {
        desk.ask_by = None;
        if desk.open.is_some() && desk.returned.is_none() {
            say(asker, Next::Busy);
            return;
        }
        desk.asker = Some(asker);
        self.heed(Word::Ready);
    }

    fn answered(&self, desk: &mut Desk, id: &str, answer: Answer, shape: &Shape) -> Told {
        let Some(Open { id, number, events }) = desk.open.take_if(|open| open.id == id) else {
            let again = desk.closed.as_deref() == Some(id);
            return if again { Told::WrongState } else { Told::UnknownId };
        };
        let verdicts = match answer {
            Answer::Response(said) => said.and_then(|body| shape.read(&body, &events)),
            Answer::Error(failure) => {
                self.show(&failure, Some(number));
                Ok(vec![Verdict::from(&failure); events.len()])
            }
        };
        desk.closed = Some(id);
        desk.ask_by = self.patience();
        let mut replies = vec![(number, verdicts.map(|verdicts| Reply { verdicts, state: None }))];
        match self.pool.answer(self.plan.worker, &mut replies) {
            Ok(()) => Told::Accepted,
            Err(what) => {
                self.hang_up(Said::Nonsense(what));
                Told::UnknownId
            }
        }
    }

    fn show(&self, failure: &Failure, number: Option<u64>) {
        for line in &failure.trace {
            self.log("warn", line.trim_end(), number);
        }
    }

    /// A worker that has answered must be there for the next call as soon as a new one would be.
    fn patience(&self) -> Option<Instant> {
        Instant::now().checked_add(self.spec.limits.start_timeout)
    }
}

/// Whoever asked may have hung up.
fn say<T>(told: oneshot::Sender<T>, what: T) {
    if told.send(what).is_err() {
        tracing::trace!("a worker does not wait for what it asked");
    }
}

async fn overdue(by: Option<Instant>) {
    match by {
        Some(by) => tokio::time::sleep_until(by.into()).await,
        None => std::future::pending().await,
    }
}
