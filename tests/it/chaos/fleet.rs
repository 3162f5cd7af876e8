//! Runners and a server, and what is done to them.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use rustix::process::Signal;
use time::OffsetDateTime;

use crate::harness::{NatsServer, PATIENCE, Runner, Site, Streams, eventually};

/// Runners of one manifest and their server.
pub(super) struct Fleet<'a> {
    pub(super) server: NatsServer,
    /// How often each kind of fault was injected.
    pub(super) injected: BTreeMap<&'static str, usize>,
    site: &'a Site,
    runners: Vec<Runner>,
    dice: Rng,
    streams: Streams,
}

impl<'a> Fleet<'a> {
    pub(super) async fn start(site: &'a Site, count: usize, seed: u64) -> Self {
        let server = NatsServer::start().await;
        let mut runners = Vec::with_capacity(count);
        for _ in 0..count {
            runners.push(Runner::start(site, &server).await);
        }
        let streams = server.streams().await;
        let dice = Rng::with_seed(seed);
        Self { server, injected: BTreeMap::new(), site, runners, dice, streams }
    }

    /// Waits until so many outputs are stored, for as long as there are more and more of them.
    pub(super) async fn wait_outputs(&self, count: usize) {
        let mut before = 0;
        let mut since = std::time::Instant::now();
        loop {
            let now = usize::try_from(self.streams.count("OUT").await).expect("a count");
            if now >= count {
                return;
            }
            if now > before {
                (before, since) = (now, std::time::Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "{now} of {count} outputs, and no more come");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn kill_any(&mut self) {
        let victim = self.dice.usize(..self.runners.len());
        let _at = self.kill(victim).await;
    }

    /// Kills the runner that works on the binding; returns when.
    pub(super) async fn kill_owner(&mut self) -> OffsetDateTime {
        let owner = self.owner().await;
        self.kill(owner).await
    }

    async fn kill(&mut self, victim: usize) -> OffsetDateTime {
        self.runners[victim].kill9().await;
        let at = OffsetDateTime::now_utc();
        self.runners[victim] = Runner::spawn(self.site, &self.server.url(), &[]);
        *self.injected.entry("runners killed").or_default() += 1;
        at
    }

    pub(super) async fn kill_server(&mut self) {
        self.server.kill9().await;
        self.server.up().await;
        *self.injected.entry("servers killed").or_default() += 1;
    }

    /// Stops the runner that works on the binding, and lets it go on after a while; returns when it
    /// was stopped.
    pub(super) async fn freeze_owner(&mut self, span: Duration) -> OffsetDateTime {
        let owner = self.owner().await;
        self.runners[owner].signal(Signal::STOP);
        let at = OffsetDateTime::now_utc();
        tokio::time::sleep(span).await;
        self.runners[owner].signal(Signal::CONT);
        *self.injected.entry("runners frozen").or_default() += 1;
        at
    }

    async fn owner(&self) -> usize {
        eventually("a runner works on the binding", async || {
            for (index, runner) in self.runners.iter().enumerate() {
                let scrape = runner.try_scrape().await;
                let owned = scrape.and_then(|scrape| scrape.find("partitions_owned", &[]));
                if owned.is_some_and(|owned| owned > 0.5) {
                    return Some(index);
                }
            }
            None
        })
        .await
    }

    /// Events of a durable that were not acknowledged.
    pub(super) async fn unsettled(&self, durable: &str) -> usize {
        let info = self.streams.consumer(durable).await.expect("the consumer is there");
        info.num_ack_pending + usize::try_from(info.num_pending).expect("a count")
    }

    pub(super) async fn stop(&mut self) {
        for runner in &mut self.runners {
            runner.wait_ready().await;
            assert_eq!(runner.sigterm().await.code(), Some(0));
        }
    }
}
