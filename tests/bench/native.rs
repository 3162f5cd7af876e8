//! Pelton as a library, with the functions of the workloads compiled in.

use std::{env, future::ready};

use pelton::{
    Pelton, Shutdown,
    event::{Event, Outgoing, Verdict},
};

use super::workload::{PAUSE, Work, stamp};

/// Runs the manifest that the environment names, for ever.
pub(crate) async fn run() {
    let var = |name| env::var(name).expect("it is set by the bench");
    let pelton = Pelton::builder().manifest(var("MANIFEST"));
    let output = |data| Outgoing { data, ..Outgoing::default() };
    let pelton = match Work::named(&var("WORK")) {
        Work::Consume | Work::Ordered => pelton.function("f", |_: Event| ready(())),
        Work::Transform => pelton.function("f", move |event: Event| ready(output(event.data))),
        Work::Stamp => pelton.function("f", move |event: Event| ready(output(stamp(&event.data)))),
        Work::Sleep => pelton.function("f", |_: Event| tokio::time::sleep(PAUSE)),
        Work::Batch => pelton.batch_function("f", |events: Vec<Event>| {
            ready(events.iter().map(|_| Verdict::Done(Vec::new())).collect::<Vec<_>>())
        }),
    };
    pelton.run(Shutdown::default()).await.expect("the runner runs");
}
