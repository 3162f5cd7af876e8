//! Every runtime through the one seam they share.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod cgroups;
pub(crate) mod components;
mod conformance;
mod faults;
#[cfg(feature = "wasm")]
mod guests;
pub(crate) mod http;
mod lambda;
mod starting;
#[cfg(feature = "wasm")]
mod wasm;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use pelton::{
    event::{Event, EventId, Headers, Outgoing, Verdict},
    handler::{Call, Company, Fault, Handler, NonEmpty, Reply},
    manifest::{Function, Runtime},
    metrics::Metrics,
    runtime::{Launcher, Natives, Surroundings, build_with},
};
use time::OffsetDateTime;

/// Long enough that only what never ends is not done by then.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Short, for what never ends.
pub(crate) const SHORT: Duration = Duration::from_millis(400);

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder of its own.
pub(crate) fn folder() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = format!("runtime-{}-{next}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn function(runtime: Runtime) -> Function {
    Function {
        name: "f".to_owned(),
        runtime,
        env: BTreeMap::new(),
        cwd: fixture(""),
        workers: None,
        idle_timeout: LONG,
        start_timeout: LONG,
        memory_limit: None,
        cpu_limit: None,
    }
}

pub(crate) fn handler(function: &Function, concurrency: usize) -> Arc<dyn Handler> {
    let launcher = Launcher { program: env!("CARGO_BIN_EXE_pelton").into() };
    let metrics = Metrics::new().unwrap().workers(&function.name);
    let concurrency = NonZeroUsize::new(concurrency).unwrap();
    let natives = natives();
    let surroundings = Surroundings { launcher: &launcher, natives: &natives, buckets: None };
    build_with(&surroundings, function, concurrency, metrics).unwrap()
}

/// One worker that has `concurrency` calls.
pub(crate) fn one_worker(runtime: Runtime, concurrency: usize) -> Arc<dyn Handler> {
    let workers = NonZeroUsize::new(1);
    handler(&Function { workers, ..function(runtime) }, concurrency)
}

pub(crate) fn call(subject: &str, data: impl Into<Bytes>) -> Call {
    let event = Event {
        id: EventId { stream: "ORDERS".into(), sequence: 12 },
        subject: subject.to_owned(),
        headers: Headers::new(),
        data: data.into(),
        time: OffsetDateTime::UNIX_EPOCH,
        attempt: 3,
    };
    let events = NonEmpty::one(event);
    Call { events, batch: false, state: None, timeout: LONG, company: Company::Shared }
}

pub(crate) fn done(outputs: &[&str]) -> Result<Reply, Fault> {
    let out = |data: &&str| Outgoing {
        data: Bytes::copy_from_slice(data.as_bytes()),
        headers: Headers::new(),
        subject: None,
    };
    Ok(Reply::one(Verdict::Done(outputs.iter().map(out).collect())))
}

/// Without the content type, which runtimes set or not.
pub(crate) fn plain(mut reply: Result<Reply, Fault>) -> Result<Reply, Fault> {
    for verdict in reply.iter_mut().flat_map(|reply| &mut reply.verdicts) {
        if let Verdict::Done(outputs) = verdict {
            outputs.iter_mut().for_each(|out| out.headers.remove("content-type"));
        }
    }
    reply
}

fn natives() -> Natives {
    let mut natives = Natives::new();
    natives.insert("f", conformance::native);
    natives
}

#[cfg(not(feature = "wasm"))]
#[test]
fn a_build_without_webassembly_says_so() {
    let component = pelton::manifest::Component {
        file: components::conform(),
        allow: pelton::manifest::Allow::default(),
        instances: pelton::manifest::Instances::Fresh,
    };
    let function = function(Runtime::Wasm(component));
    let metrics = Metrics::new().unwrap().workers("f");
    let built = pelton::runtime::build(&function, NonZeroUsize::MIN, metrics, &natives());
    assert!(built.err().unwrap().to_string().contains("built without WebAssembly"));
    assert_eq!(pelton::runtime::problems(&function).len(), 1);
}
