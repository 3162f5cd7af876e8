//! What networks do: connections that break, that take everything and pass nothing, that are slow.

use std::time::Duration;

use super::{Size, check::check, fleet::Fleet, load, report::Report};
use crate::harness::{NatsServer, Proxy};

const ACK_WAIT: Duration = Duration::from_secs(2);

/// Each runner has a way to the server of its own, and all kinds of trouble on it.
#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_stored_once_over_a_bad_network() {
    let size = Size::of((1_000, 4), (10_000, 24));
    let mut report = Report::new("network", size.seed);
    let server = NatsServer::start().await;
    let proxies = [server.port(); 3].map(Proxy::to);
    let urls = proxies.iter().map(Proxy::url).collect();
    let site = load::site(load::BOTH, "2s");
    let mut fleet = Fleet::at(&site, urls, server.streams().await, size.seed).await;
    let keys = (size.events / 200).max(20);
    let producing = load::produce(server.streams().await, keys, size.events, Duration::ZERO);
    let producer = tokio::spawn(producing);
    for fault in 1..=size.kills {
        let outputs = 2 * size.events;
        fleet.wait_outputs(outputs * fault / (size.kills + 2)).await;
        let one = fleet.owner().await;
        let other = fleet.any();
        match fault % 4 {
            1 => {
                proxies.iter().for_each(Proxy::cut);
                fleet.note("all connections cut");
            }
            // What was under way arrives after all, when others have gone on.
            2 => {
                proxies[one].hold(true);
                tokio::time::sleep(2 * ACK_WAIT).await;
                proxies[one].hold(false);
                fleet.note("connections held up");
            }
            // What was under way never arrives.
            3 => {
                proxies[one].hold(true);
                proxies[other].hold(true);
                tokio::time::sleep(2 * ACK_WAIT).await;
                for proxy in [&proxies[one], &proxies[other]] {
                    proxy.cut();
                    proxy.hold(false);
                }
                fleet.note("connections held up, then cut");
            }
            _ => {
                proxies[other].delay(Duration::from_millis(fleet.dice.u64(20..200)));
                fleet.note("connections slowed down");
            }
        }
    }
    producer.await.expect("the producer ends");
    fleet.wait_done(load::BOTH, size.events).await;
    check(&mut report, &fleet, load::BOTH).await;
    report.runners(&fleet).await;
    fleet.stop().await;
    report.print();
}
