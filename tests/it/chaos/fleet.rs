//! Runners of one manifest, and what is done to them.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use time::OffsetDateTime;

use crate::harness::{NatsServer, PATIENCE, Runner, Site, Streams, eventually};

/// Runners of one manifest.
pub(super) struct Fleet<'a> {
    /// How often each kind of fault was injected.
    pub(super) injected: BTreeMap<&'static str, usize>,
    pub(super) dice: Rng,
    site: &'a Site,
    /// Each with the server that it asks.
    runners: Vec<(Runner, String)>,
    streams: Streams,
}

impl<'a> Fleet<'a> {
    pub(super) async fn start(
        site: &'a Site,
        server: &NatsServer,
        count: usize,
        seed: u64,
    ) -> Self {
        let urls = vec![server.url(); count];
        Self::at(site, urls, server.streams().await, seed).await
    }

    /// A runner for each of these servers.
    pub(super) async fn at(site: &'a Site, urls: Vec<String>, streams: Streams, seed: u64) -> Self {
        let mut runners = Vec::with_capacity(urls.len());
        for url in urls {
            let mut runner = Runner::spawn(site, &url, &[]);
            runner.wait_ready().await;
            runners.push((runner, url));
        }
        let dice = Rng::with_seed(seed);
        Self { injected: BTreeMap::new(), dice, site, runners, streams }
    }

    pub(super) const fn streams(&self) -> &Streams {
        &self.streams
    }

    pub(super) fn note(&mut self, fault: &'static str) {
        *self.injected.entry(fault).or_default() += 1;
    }

    /// Waits until so many outputs are stored, for as long as there are more and more of them.
    pub(super) async fn wait_outputs(&self, count: usize) {
        let mut most = 0;
        let mut since = Instant::now();
        loop {
            let now = self.outputs().await;
            if now >= count {
                return;
            }
            if now > most {
                (most, since) = (now, Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "{now} of {count} outputs, and no more come");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn outputs(&self) -> usize {
        usize::try_from(self.streams.count("OUT").await).expect("a count")
    }

    /// Waits until every output of these bindings is stored and everything is acknowledged.
    pub(super) async fn wait_done(&self, bindings: &[&str], events: usize) {
        self.wait_outputs(bindings.len() * events).await;
        for binding in bindings {
            self.streams.wait_settled(&format!("t-{binding}")).await;
        }
    }

    pub(super) fn any(&mut self) -> usize {
        self.dice.usize(..self.runners.len())
    }

    /// Kills a runner and starts another one in its place; returns when.
    pub(super) async fn kill(&mut self, victim: usize) -> OffsetDateTime {
        let (runner, url) = &mut self.runners[victim];
        runner.kill9().await;
        let at = OffsetDateTime::now_utc();
        *runner = Runner::spawn(self.site, url, &[]);
        self.note("runners killed");
        at
    }

    pub(super) async fn kill_server(&mut self, server: &mut NatsServer) {
        server.kill9().await;
        server.up().await;
        self.note("servers killed");
    }

    /// Stops a runner, and lets it go on after a while; returns when it was stopped.
    pub(super) async fn freeze(&mut self, victim: usize, span: Duration) -> OffsetDateTime {
        let (runner, _) = &self.runners[victim];
        runner.signal(Signal::STOP);
        let at = OffsetDateTime::now_utc();
        tokio::time::sleep(span).await;
        runner.signal(Signal::CONT);
        self.note("runners frozen");
        at
    }

    /// Kills one of the processes in which functions run, if there is any.
    pub(super) fn kill_worker(&mut self) {
        let workers: Vec<Pid> =
            self.runners.iter().flat_map(|(runner, _)| children(runner.id())).collect();
        // One that has ended meanwhile is not there to be killed.
        if let Some(worker) = self.dice.choice(workers)
            && kill_process(worker, Signal::KILL).is_ok()
        {
            self.note("workers killed");
        }
    }

    /// The runner that works on the events that are to run in order.
    pub(super) async fn owner(&self) -> usize {
        eventually("a runner works on the binding", async || {
            for (index, (runner, _)) in self.runners.iter().enumerate() {
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

    /// Events of a binding that were not acknowledged.
    pub(super) async fn unsettled(&self, binding: &str) -> usize {
        let info = self.streams.consumer(&format!("t-{binding}")).await;
        let info = info.expect("the consumer is there");
        info.num_ack_pending + usize::try_from(info.num_pending).expect("a count")
    }

    /// A metric, summed over these labels and all runners.
    pub(super) async fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let mut sum = 0.0;
        for (runner, _) in &self.runners {
            sum += runner.scrape().await.find(metric, labels).unwrap_or_default();
        }
        sum
    }

    /// How many lines of the runners' logs have this text.
    pub(super) fn said(&self, text: &str) -> usize {
        let lines = |log: String| log.lines().filter(|line| line.contains(text)).count();
        self.runners.iter().map(|(runner, _)| lines(runner.log())).sum()
    }

    pub(super) async fn stop(&mut self) {
        for (runner, _) in &mut self.runners {
            runner.wait_ready().await;
            assert_eq!(runner.sigterm().await.code(), Some(0));
        }
    }
}

/// The processes that a process has started.
fn children(id: u32) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|id| Pid::from_raw(id.parse().ok()?))
        .collect()
}
