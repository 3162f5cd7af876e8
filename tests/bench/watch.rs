//! How far consumers are, by the server's own clock, and what that took. Every contender is measured
//! from outside, the same way.

use std::time::{Duration, Instant};

use serde::Deserialize;
use time::{OffsetDateTime, serde::rfc3339};

use super::{bench::Bench, contender::Running, figures::number, processes};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(10);
/// How long a contender may do nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Events acknowledged in a second.
    pub(crate) rate: f64,
    /// CPU for each of them, in microseconds: of the contender with all its processes, of the server.
    pub(crate) cpu: f64,
    pub(crate) server_cpu: f64,
}

/// When counting begins and ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// After the first event, not counted.
    pub(crate) warm_up: Duration,
    /// At most; it ends earlier with the backlog.
    pub(crate) length: Duration,
}

/// A moment in a run.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: OffsetDateTime,
    done: usize,
    cpu: Duration,
    server_cpu: Duration,
}

#[derive(Deserialize)]
struct Info {
    #[serde(with = "rfc3339")]
    ts: OffsetDateTime,
    num_pending: usize,
    num_ack_pending: usize,
    #[serde(default)]
    num_waiting: usize,
}

impl Bench {
    /// Counts what is acknowledged of `total` events for each consumer of a contender that runs.
    pub(crate) async fn figures(
        &self,
        running: &mut Running,
        total: usize,
        window: Window,
    ) -> Figures {
        let all = total * running.durables.len();
        let began = Instant::now();
        let (mut first, mut start, mut last) = (None::<OffsetDateTime>, None::<Sample>, None);
        let (start, end) = loop {
            running.assert_alive();
            if let Some(now) = self.sample(running, total).await {
                if now.done > 0 {
                    let warm = now.at - *first.get_or_insert(now.at) >= window.warm_up;
                    // One that is through before it is warm, because nobody got to look, counts from
                    // the last look.
                    let since = start.or(if now.done >= all { last } else { None });
                    match since {
                        Some(start) if now.done >= all || now.at - start.at >= window.length => {
                            break (start, now);
                        }
                        None if warm => start = Some(now),
                        _ => {}
                    }
                }
                last = Some(now);
            }
            assert!(
                began.elapsed() < PATIENCE + window.length,
                "{} is stuck: {}",
                running.name,
                running.log()
            );
            tokio::time::sleep(LOOK).await;
        };
        let events = number((end.done - start.done).max(1));
        let each = |took: Duration| took.as_secs_f64() * 1e6 / events;
        Figures {
            rate: events / (end.at - start.at).as_seconds_f64(),
            cpu: each(end.cpu.saturating_sub(start.cpu)),
            server_cpu: each(end.server_cpu.saturating_sub(start.server_cpu)),
        }
    }

    async fn sample(&self, running: &Running, total: usize) -> Option<Sample> {
        let mut done = 0;
        let mut at = OffsetDateTime::UNIX_EPOCH;
        for durable in &running.durables {
            let info = self.info(&running.stream, durable).await?;
            done += total.saturating_sub(info.num_pending + info.num_ack_pending);
            at = info.ts;
        }
        Some(Sample {
            at,
            done,
            cpu: running.pids().into_iter().map(processes::cpu).sum(),
            server_cpu: processes::cpu(self.server_pid),
        })
    }

    /// Waits until every consumer is asked for events.
    pub(crate) async fn pulled_from(&self, running: &mut Running) {
        let began = Instant::now();
        for durable in running.durables.clone() {
            while self
                .info(&running.stream, &durable)
                .await
                .is_none_or(|info| info.num_waiting == 0)
            {
                running.assert_alive();
                assert!(
                    began.elapsed() < PATIENCE,
                    "{} asks for nothing: {}",
                    running.name,
                    running.log()
                );
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Waits until every consumer has nothing left.
    pub(crate) async fn worked_off(&self, running: &mut Running) {
        let began = Instant::now();
        for durable in running.durables.clone() {
            let open = async || {
                let info = self.info(&running.stream, &durable).await;
                info.is_none_or(|info| info.num_pending + info.num_ack_pending > 0)
            };
            while open().await {
                assert!(began.elapsed() < PATIENCE, "{} is stuck", running.name);
                tokio::time::sleep(LOOK).await;
            }
        }
        running.assert_alive();
    }

    /// `None` while the consumer is not there.
    async fn info(&self, stream: &str, durable: &str) -> Option<Info> {
        let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{durable}");
        let answer = self.streams.js.client().request(subject, "".into()).await.ok()?;
        serde_json::from_slice(&answer.payload).ok()
    }
}
