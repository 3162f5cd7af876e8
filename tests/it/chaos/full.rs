//! There is no room for outputs, for a while.

use std::time::Duration;

use async_nats::jetstream::stream;

use super::{Size, check::check, fleet::Fleet, load, report::Report};
use crate::harness::{NatsServer, Streams, eventually};

const ACK_WAIT: Duration = Duration::from_secs(2);

/// The stream of the outputs takes no more of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_makes_outputs_wait() {
    let size = Size::of((500, 1), (20_000, 1));
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    // Room for some.
    let mut config = stream::Config {
        name: "OUT".to_owned(),
        subjects: vec!["out.>".to_owned()],
        duplicate_window: Duration::from_secs(30 * 60),
        discard: stream::DiscardPolicy::New,
        max_bytes: 64 * 1024,
        ..stream::Config::default()
    };
    streams.js.create_stream(&config).await.expect("a narrow stream");
    full("full stream", size, server, async |_, streams| {
        config.max_bytes = -1;
        streams.js.update_stream(&config).await.expect("room is made");
    })
    .await;
}

/// The server has no more room on its disk for JetStream.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_makes_outputs_wait() {
    let size = Size::of((500, 1), (20_000, 1));
    let server = NatsServer::with_room("256KB").await;
    full("full server", size, server, async |server, _| make_room(server).await).await;
}

/// The account has no more room of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_account_makes_outputs_wait() {
    let size = Size::of((500, 1), (20_000, 1));
    let account = |room: &str| {
        format!(
            "accounts {{ A {{ jetstream {{ max_file: {room} }}, users: [{{ user: a, password: a }}] }} }}\nno_auth_user: a"
        )
    };
    let server = NatsServer::with_config(&account("256KB")).await;
    full("full account", size, server, async |server, _| {
        server.stop().await;
        server.configure(&account("1GB"));
        server.up().await;
    })
    .await;
}

async fn make_room(server: &mut NatsServer) {
    server.stop().await;
    server.give_room("1GB");
    server.up().await;
}

/// Sends more than there is room for, waits until leases would have run out twice, and makes room.
async fn full(
    name: &'static str,
    size: Size,
    mut server: NatsServer,
    make_room: impl AsyncFnOnce(&mut NatsServer, &Streams),
) {
    let mut report = Report::new(name, size.seed);
    let streams = server.streams().await;
    let site = load::site(load::BOTH, "2s");
    let mut fleet = Fleet::start(&site, &server, 2, size.seed).await;
    let keys = (size.events / 200).max(20);
    let producing = load::produce(streams.clone(), keys, size.events, Duration::ZERO);
    let producer = tokio::spawn(producing);
    // Of what there is no room for, state and ownership may come before outputs.
    eventually("something cannot be stored", async || {
        (fleet.said("trying again") > 0).then_some(())
    })
    .await;
    fleet.note("times without room");
    tokio::time::sleep(2 * ACK_WAIT).await;
    assert!(fleet.outputs().await < 2 * size.events, "there was room for everything");
    make_room(&mut server, &streams).await;
    producer.await.expect("the producer ends");
    fleet.wait_done(load::BOTH, size.events).await;
    check(&mut report, &fleet, load::BOTH).await;
    report.runners(&fleet).await;
    fleet.stop().await;
    report.print();
}
