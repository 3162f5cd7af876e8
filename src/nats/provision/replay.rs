//! The durable of a replay: beside the binding's own, made by the command and gone with it.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{
    consumer::{self, AckPolicy, DeliverPolicy, pull},
    stream::{ConsumerErrorKind, RetentionPolicy, Stream},
};
use futures_util::future::BoxFuture;
use prometheus::IntCounter;

use super::{Adoption, Provisioned, Provisioning, plan::Durable, site::Site};
use crate::{
    keyvalue::{Bucket, BucketError, Buckets as _},
    manifest::{Binding, Manifest},
    nats::{
        Connection, NatsBuckets, NatsLedger, NatsSource,
        lookup::{ProvisionError, find, find_stream},
        names::{BINDING, OWNER, START, ledger_name},
        until::Until,
    },
    replay::{Bound, Replay},
};

/// Metadata key: which replay a durable belongs to.
const REPLAY: &str = "pelton.replay";

/// What follows a binding's name where a replay has something of its own. No binding can be called
/// so: names have no `=`.
pub(in crate::nats) const REPLAY_SUFFIX: &str = "=replay";

/// How long the server keeps a consumer that answered one question.
const PROBE_LIFE: Duration = Duration::from_secs(1);

/// The replay that a durable was made for, if it was made for one.
pub(in crate::nats) fn replay_of(info: &consumer::Info) -> Option<Replay> {
    serde_json::from_str(info.config.metadata.get(REPLAY)?).ok()
}

/// The replays of a binding, of which there is one at a time.
#[derive(Debug)]
pub struct Replays {
    connection: Connection,
    binding: Binding,
    stream: Stream,
    ledger: Stream<()>,
    ledger_bucket: String,
    /// As the binding's own durable is, but for its name and where it starts.
    config: pull::Config,
}

/// What extends the claims of a source for as long as it is polled.
pub(super) type Extender = BoxFuture<'static, ()>;

impl Replays {
    /// Those of a binding whose manifest has run on this server.
    ///
    /// # Errors
    /// Whatever keeps the binding from being replayed, or that `JetStream` does not answer.
    pub async fn of(
        connection: &Connection,
        manifest: &Manifest,
        binding: &Binding,
    ) -> Result<Self, ProvisionError> {
        let provisioned =
            Provisioned::ensure(connection, manifest, Provisioning::VerifyOnly).await?;
        let site = Site::new(connection, manifest, Adoption::Refuse, false);
        let name = site.stream_of(binding).await?.map_err(problem)?;
        let stream = find_stream(connection, &name).await?;
        let stream =
            stream.ok_or_else(|| problem(format!("stream {name} does not exist any more")))?;
        if stream.cached_info().config.retention != RetentionPolicy::Limits {
            return Err(problem(format!(
                "stream {name} keeps no events that were dealt with (its retention is not `limits`): there is nothing to replay"
            )));
        }
        let mut config = site.consumer_config(binding);
        let durable = format!("{}-{}{REPLAY_SUFFIX}", manifest.name, binding.name);
        config.description =
            Some(format!("replay of binding {} of {}", binding.name, manifest.name));
        config.durable_name = Some(durable);
        config.metadata.remove(START);
        Ok(Self {
            connection: connection.clone(),
            binding: binding.clone(),
            stream,
            ledger: provisioned.ledger,
            ledger_bucket: ledger_name(manifest),
            config,
        })
    }

    /// The stream whose events are replayed.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream.cached_info().config.name
    }

    /// The name of the durable.
    #[must_use]
    pub fn durable(&self) -> &str {
        self.config.durable_name.as_deref().unwrap_or_default()
    }

    /// The replay that was begun and is not done.
    ///
    /// # Errors
    /// When the durable is somebody else's, or `JetStream` does not answer.
    pub async fn under_way(&self) -> Result<Option<Replay>, ProvisionError> {
        let Some(info) = self.info().await? else { return Ok(None) };
        let metadata = &info.config.metadata;
        let ours =
            [OWNER, BINDING].iter().all(|key| metadata.get(*key) == self.config.metadata.get(*key));
        match replay_of(&info) {
            Some(replay) if ours => Ok(Some(replay)),
            _ => Err(problem(format!(
                "consumer {} exists and is no replay of this binding: delete it if nobody needs it",
                self.durable()
            ))),
        }
    }

    async fn info(&self) -> Result<Option<consumer::Info>, ProvisionError> {
        find(&self.connection, self.stream(), self.durable()).await
    }

    /// The sequence of the first event at or behind a bound.
    ///
    /// # Errors
    /// When `JetStream` does not answer.
    pub async fn first_at(&self, bound: Bound) -> Result<u64, ProvisionError> {
        match bound {
            Bound::Sequence(sequence) => Ok(sequence),
            Bound::Time(start_time) => {
                let probed = self.probe(DeliverPolicy::ByStartTime { start_time }).await?;
                Ok(probed.delivered.stream_sequence + 1)
            }
        }
    }

    /// The sequence of the last event stored so far.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.stream.cached_info().state.last_sequence
    }

    /// How many events of the binding there are from one sequence to another.
    ///
    /// # Errors
    /// When `JetStream` does not answer.
    pub async fn count(&self, first: u64, last: u64) -> Result<u64, ProvisionError> {
        let from = |start_sequence| DeliverPolicy::ByStartSequence { start_sequence };
        let all = self.probe(from(first.max(1))).await?.num_pending;
        Ok(all.saturating_sub(self.probe(from(last + 1)).await?.num_pending))
    }

    /// How many events a replay that is under way has not dealt with.
    ///
    /// # Errors
    /// When `JetStream` does not answer.
    pub async fn left(&self, replay: &Replay) -> Result<u64, ProvisionError> {
        let Some(info) = self.info().await? else { return Ok(0) };
        let behind = DeliverPolicy::ByStartSequence { start_sequence: replay.last + 1 };
        let behind = self.probe(behind).await?.num_pending;
        Ok((info.num_pending + info.num_ack_pending as u64).saturating_sub(behind))
    }

    /// Asks a consumer that lives for hardly longer than the question. Nothing deletes it: whoever
    /// may delete one whose name the server chose may delete all of the stream.
    async fn probe(&self, deliver_policy: DeliverPolicy) -> Result<consumer::Info, ProvisionError> {
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: self.config.filter_subject.clone(),
            filter_subjects: self.config.filter_subjects.clone(),
            inactive_threshold: PROBE_LIFE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let made = self.stream.create_consumer(config).await;
        let made = made.map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
        Ok(made.cached_info().clone())
    }

    /// Begins a replay anew, in place of one that is under way.
    ///
    /// # Errors
    /// When the server refuses, or does not answer.
    pub async fn begin(&self, replay: &Replay) -> Result<(), ProvisionError> {
        self.end().await?;
        let mut config = self.config.clone();
        config.deliver_policy =
            DeliverPolicy::ByStartSequence { start_sequence: replay.first.max(1) };
        let text = serde_json::to_string(replay).unwrap_or_default();
        config.metadata.insert(REPLAY.to_owned(), text);
        let made = self.connection.context.create_consumer_strict_on_stream(config, self.stream());
        made.await
            .map(drop)
            .map_err(|err| problem(format!("consumer {} cannot be created: {err}", self.durable())))
    }

    /// Takes away what a replay had: its durable, and what is remembered of its events.
    ///
    /// # Errors
    /// When the server refuses, or does not answer.
    pub async fn end(&self) -> Result<(), ProvisionError> {
        let gone = self.stream.delete_consumer(self.durable()).await;
        if let Err(err) = gone
            && !matches!(err.kind(), ConsumerErrorKind::JetStream(error)
                if error.error_code() == async_nats::jetstream::ErrorCode::CONSUMER_NOT_FOUND)
        {
            return Err(ProvisionError::Unavailable(err.to_string()));
        }
        let records = format!("$KV.{}.{}.>", self.ledger_bucket, self.records());
        let purged = self.ledger.purge().filter(records).await;
        purged.map(drop).map_err(|err| ProvisionError::Unavailable(err.to_string()))
    }

    fn records(&self) -> String {
        format!("{}{REPLAY_SUFFIX}", self.binding.name)
    }

    /// What is remembered of its events: nothing of the binding's own run counts.
    #[must_use]
    pub fn ledger(&self) -> NatsLedger {
        let (connection, stream) = (self.connection.clone(), self.ledger.clone());
        NatsLedger::new(connection, stream, &self.ledger_bucket, &self.records(), None)
    }

    /// The bucket and the key that say who works on a binding's replay.
    ///
    /// # Errors
    /// When the bucket cannot be had.
    pub async fn seat(&self) -> Result<(std::sync::Arc<dyn Bucket>, String), BucketError> {
        let bucket = NatsBuckets::new(self.connection.clone()).open(&self.ledger_bucket).await?;
        Ok((bucket, format!("{REPLAY_SUFFIX}.{}", self.binding.name)))
    }

    /// The events of a replay that is under way, up to its last.
    ///
    /// # Errors
    /// When the durable is gone, or `JetStream` does not answer.
    pub async fn open(
        &self,
        replay: &Replay,
        extensions: IntCounter,
    ) -> Result<(NatsSource, Until, Extender), ProvisionError> {
        let mut config = self.config.clone();
        config.deliver_policy =
            DeliverPolicy::ByStartSequence { start_sequence: replay.first.max(1) };
        let text = serde_json::to_string(replay).unwrap_or_default();
        config.metadata.insert(REPLAY.to_owned(), text);
        let stream = self.stream().to_owned();
        let durable = Durable { binding: self.binding.name.clone(), stream, config };
        let opened =
            Durable::open_all(vec![durable], &self.connection, &mut BTreeMap::new()).await?;
        let [consumer] = <[_; 1]>::try_from(opened)
            .map_err(|_| ProvisionError::Unavailable("its consumer is gone".to_owned()))?;
        let until = Until::new(self.connection.clone(), consumer.clone(), replay.last);
        let slots = self.binding.slots.get();
        let source = NatsSource::of(&self.connection, consumer, slots, extensions, None).await;
        let (source, extender) =
            source.map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
        Ok((source, until, Box::pin(extender)))
    }
}

fn problem(text: String) -> ProvisionError {
    ProvisionError::Problems(vec![text])
}
