//! Events that kill the process that handles them.

use std::time::Instant;

use super::{Size, check::text, fleet::Fleet, load, report::Report};
use crate::harness::{NatsServer, Runner, Site, Streams, eventually, printed};

/// Events that kill their process are found among all others, alone and in batches, and come back
/// once each when the function is mended.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_kill_their_process_are_the_only_dead_letters() {
    for (name, batch) in [("poison", ""), ("poison, batches", ", batch: { max: 100, wait: 200ms }")]
    {
        let size = Size::of((1_000, 10), (20_000, 100));
        let mut report = Report::new(name, size.seed);
        let site = Site::with(&format!(
            "functions: {{ f: {{ run: f.py }} }}\nbindings:\n  - {{ subject: in.n, function: f, publish: out.f, retry: {{ attempts: 3, backoff: 100ms..1s }}{batch} }}\n"
        ));
        let every = size.events / size.kills;
        let is_poison = |n: usize| n % every == 5;
        site.file("f.py", function(!batch.is_empty(), &format!("n % {every} == 5")));
        let server = NatsServer::start().await;
        let mut fleet = Fleet::start(&site, &server, 2, size.seed).await;
        let streams = server.streams().await;
        let begun = Instant::now();
        load::produce_numbers(streams.clone(), size.events).await;
        fleet.wait_outputs(size.events - size.kills).await;
        let letters = streams.wait_letters(size.kills as u64).await;
        streams.wait_settled("t-f").await;
        let innocent = letters.iter().filter(|letter| !is_poison(number(&letter.payload))).count();
        report.line("events", size.events);
        report.line("that kill their process", size.kills);
        report.line("dead letters", letters.len());
        report.zero("innocent dead letters", innocent);
        once(&mut report, "", &streams, (0..size.events).filter(|n| !is_poison(*n))).await;
        report.line("seconds", begun.elapsed().as_secs());
        fleet.stop().await;

        site.file("f.py", function(!batch.is_empty(), "False"));
        let mut runner = Runner::start(&site, &server).await;
        printed(&site, &server, &["dlq", "redrive"]).await;
        eventually("the dead-letter stream is empty", async || {
            (streams.count("T_DLQ").await == 0).then_some(())
        })
        .await;
        once(&mut report, ", redriven", &streams, 0..size.events).await;
        assert_eq!(runner.sigterm().await.code(), Some(0));
        report.print();
    }
}

/// A function that dies of an event when `condition` says so.
fn function(batch: bool, condition: &str) -> String {
    let check = format!("n = int(event.raw)\n    if {condition}:\n        os._exit(9)");
    if batch {
        let check = check.replace('\n', "\n    ");
        format!(
            "import os\n\ndef handle(events, context):\n    for event in events:\n        {check}\n    return [event.raw for event in events]\n"
        )
    } else {
        format!("import os\n\ndef handle(event, context):\n    {check}\n    return event.raw\n")
    }
}

fn number(payload: &[u8]) -> usize {
    text(payload).parse().expect("a number")
}

/// Holds the outputs to these numbers, each once.
async fn once(
    report: &mut Report,
    when: &str,
    streams: &Streams,
    expected: impl Iterator<Item = usize>,
) {
    let mut outputs: Vec<usize> =
        streams.texts("OUT").await.iter().map(|text| number(text.as_bytes())).collect();
    outputs.sort_unstable();
    let count = outputs.len();
    outputs.dedup();
    report.zero(&format!("duplicated{when}"), count - outputs.len());
    let lost = expected.filter(|n| outputs.binary_search(n).is_err()).count();
    report.zero(&format!("lost{when}"), lost);
}
