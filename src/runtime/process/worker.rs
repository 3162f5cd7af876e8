//! One worker: started, fed, listened to, looked at, and buried.

use std::{
    io,
    path::Path,
    pin::{Pin, pin},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{Fuse, FusedFuture, FutureExt};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tracing::{debug, info, warn};

use super::{
    Spec, Wire,
    life::{Death, Order, Plan},
    page::Page,
    pool::Pool,
    talk::{Line, Said, Talk, greet},
};
use crate::{
    metrics::WorkerGuard,
    runtime::{lambda::api::Api, launch::Process},
};

/// How long a worker may take to end by itself once it was asked to.
const GRACE: Duration = Duration::from_secs(3);
/// How long what a worker left in its socket and pipes may take to read.
const REST: Duration = Duration::from_secs(1);

/// Runs a worker from its start to its end.
pub(super) async fn run(spec: Arc<Spec>, pool: Arc<Pool>, plan: Plan) {
    let mut grave = Grave { pool, name: plan.worker, page: None, death: None };
    tokio::select! {
        () = tokio::time::sleep(plan.delay) => {}
        () = grave.pool.closing.cancelled() => {
            grave.death = Some(Death::Closed);
            return;
        }
    }
    let began = Instant::now();
    let death = match Worker::launch(&spec).await {
        Ok((worker, line)) => {
            grave.page.clone_from(&worker.page);
            worker.serve(&grave.pool, &plan, began, line).await
        }
        Err(err) => Death::NotStarted(format!("cannot start a worker: {err}")),
    };
    let function = spec.function.as_str();
    match &death {
        Death::NotStarted(reason) => warn!(function, reason, "a worker cannot start"),
        Death::Died(reason) => warn!(function, reason, "a worker died"),
        Death::Killed => info!(function, "a worker was killed"),
        Death::Closed => debug!(function, "a worker ended"),
    }
    grave.death = Some(death);
}

/// Buries the worker even if its task is cancelled or panics: nobody waits for its replies for ever.
struct Grave {
    pool: Arc<Pool>,
    name: u64,
    page: Option<Arc<Page>>,
    death: Option<Death>,
}

impl Drop for Grave {
    fn drop(&mut self) {
        let died = || Death::Died("the runner lost track of the worker".to_owned());
        let death = self.death.take().unwrap_or_else(died);
        let page = self.page.as_ref().and_then(|page| page.read());
        self.pool.bury(self.name, death, page.as_deref());
    }
}

struct Worker<'a> {
    spec: &'a Spec,
    process: Process,
    page: Option<Arc<Page>>,
    _running: WorkerGuard,
}

impl<'a> Worker<'a> {
    async fn launch(spec: &'a Spec) -> io::Result<(Self, Line<'a>)> {
        match &spec.wire {
            Wire::Frames { file } => Self::launch_with_socket(spec, file.as_deref()).await,
            Wire::Lambda(shape) => {
                let api = Api::open().await?;
                let env = api.environment();
                let process = spec.launcher.spawn(&spec.program, &env, Stdio::null()).await?;
                Ok((Self::new(spec, process, None), Line::Api(api, shape)))
            }
        }
    }

    fn new(spec: &'a Spec, process: Process, page: Option<Arc<Page>>) -> Self {
        Self { spec, process, page, _running: spec.metrics.running() }
    }

    async fn launch_with_socket(
        spec: &'a Spec,
        file: Option<&Path>,
    ) -> io::Result<(Self, Line<'a>)> {
        let page = Page::create(spec.limits.slots).map(Arc::new);
        if let Err(err) = &page {
            debug!(%err, "no started page: workers must tell what they have begun");
        }
        let page = page.ok();
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let stream = greet(ours, spec, file, page.as_deref())?;
        let process = spec.launcher.spawn(&spec.program, &[], Stdio::from(theirs)).await?;
        Ok((Self::new(spec, process, page), Line::Socket(stream)))
    }

    async fn serve(mut self, pool: &Pool, plan: &Plan, began: Instant, line: Line<'_>) -> Death {
        let pipes = (self.process.child.stdout.take(), self.process.child.stderr.take());
        let token = self.process.token().to_owned();
        let talk = Talk::new(self.spec, pool, plan, began, self.page.as_deref(), &token);
        let (spec, process) = (self.spec, &mut self.process);
        let mut talking = pin!(talk.run(line, pipes).fuse());
        let order = beside(talking.as_mut(), async {
            tokio::select! {
                _ = process.child.wait() => None,
                () = talk.hung_up.cancelled() => None,
                order = look(pool, plan, talk.page) => Some(order),
            }
        })
        .await;
        if order == Some(Order::Close) {
            talk.eof.cancel();
        }
        let nonsense = || matches!(talk.said.get(), Some(Said::Nonsense(_)));
        let mut lingers = false;
        if order != Some(Order::Kill) && !nonsense() {
            // Its own exit status tells more than a kill would.
            let asked = order == Some(Order::Close) && matches!(spec.wire, Wire::Lambda(_));
            let ended = async {
                if asked {
                    // The Runtime API has no word for it.
                    talk.hung_up.cancelled().await;
                    process.terminate();
                }
                process.child.wait().await
            };
            lingers = beside(talking.as_mut(), tokio::time::timeout(GRACE, ended)).await.is_err();
        }
        pool.doom(plan.worker);
        process.kill();
        let status = beside(talking.as_mut(), process.ended()).await;
        talk.eof.cancel();
        talk.ended.cancel();
        if !talking.is_terminated() && tokio::time::timeout(REST, &mut talking).await.is_err() {
            debug!(function = %self.spec.function, "something outlives a worker and holds its pipes");
        }
        let ended = match status {
            _ if lingers => "closed its socket".to_owned(),
            Ok(status) => process.describe(status),
            Err(err) => format!("lost: {err}"),
        };
        verdict(order, &talk, &ended)
    }
}

/// What the end of a worker means.
fn verdict(order: Option<Order>, talk: &Talk<'_>, ended: &str) -> Death {
    match (order, talk.ready.get().is_some(), talk.said.get()) {
        (Some(Order::Close), ..) => Death::Closed,
        (Some(_), true, _) => Death::Killed,
        (Some(_), false, _) if talk.pool.closing.is_cancelled() => Death::Closed,
        (_, false, Some(Said::Failed(reason))) => Death::NotStarted(reason.clone()),
        (Some(_), false, _) => {
            let patience = crate::duration::show(talk.spec.limits.start_timeout);
            Death::NotStarted(talk.tail.explain(&format!("not ready within {patience}")))
        }
        (None, false, Some(Said::Nonsense(what))) => Death::NotStarted(talk.tail.explain(what)),
        (None, false, _) => Death::NotStarted(match talk.tail.after(talk.token) {
            Some(reason) => reason,
            None => talk.tail.explain(&format!("{ended} before it was ready{}", limit(talk.spec))),
        }),
        (None, true, Some(Said::Nonsense(what))) => Death::Died(talk.tail.explain(what)),
        (None, true, _) => Death::Died(talk.tail.explain(ended)),
    }
}

/// What may be to blame.
fn limit(spec: &Spec) -> String {
    let mib = spec.program.limits.memory.map(|limit| limit >> 20);
    mib.map(|mib| format!(", with a memory_limit of {mib}MiB")).unwrap_or_default()
}

/// Waits while the worker's words are heard.
async fn beside<T>(
    mut talking: Pin<&mut Fuse<impl Future<Output = ()>>>,
    wait: impl Future<Output = T>,
) -> T {
    let mut wait = pin!(wait);
    loop {
        tokio::select! {
            waited = &mut wait => return waited,
            () = &mut talking => {}
        }
    }
}

/// Looks at the worker when something could be overdue, until something must be done about it.
async fn look(pool: &Pool, plan: &Plan, page: Option<&Page>) -> Order {
    loop {
        // The page is read only when there is something to judge.
        let begun = match page {
            Some(page) if pool.is_busy(plan.worker) => page.read(),
            _ => None,
        };
        match pool.look(plan.worker, begun.as_deref()) {
            Order::Wait(until) => tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = plan.bell.look.notified() => {}
                () = pool.closing.cancelled() => {}
            },
            order => return order,
        }
    }
}
