//! Key-value buckets: the ledger, who works on which partition, the state of keys.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};

use super::{plan::Object, site::Site};
use crate::{
    duration,
    manifest::Binding,
    nats::{
        lookup::ProvisionError,
        names::{ledger_name, owners_name},
    },
};

/// How long a failed event's record outlives its last failure.
const LEDGER_MAX_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Site<'_> {
    pub(super) async fn ledger_bucket(&mut self) -> Result<(), ProvisionError> {
        let bucket = ledger_name(self.manifest);
        self.bucket(&bucket, LEDGER_MAX_AGE).await.map(drop)
    }

    /// What bindings with `order_by` and `state` need.
    pub(super) async fn keyed_buckets(&mut self) -> Result<(), ProvisionError> {
        let manifest = self.manifest;
        if manifest.bindings.iter().any(|binding| binding.order.is_some()) {
            self.bucket(&owners_name(manifest), Duration::ZERO).await?;
        }
        for binding in &manifest.bindings {
            let Some(state) = &binding.state else { continue };
            let age = self.bucket(&state.bucket, state.max_age.unwrap_or_default()).await?;
            self.state_lasts(&state.bucket, age, binding);
        }
        Ok(())
    }

    /// The age at which its values go.
    async fn bucket(
        &mut self,
        bucket: &str,
        max_age: Duration,
    ) -> Result<Duration, ProvisionError> {
        let name = format!("KV_{bucket}");
        if let Some(info) = self.stream_info(&name).await? {
            let object = Object::stream(&name);
            if self.owned(&object, &info.config.metadata) {
                let differences = self.replicas(&info.config);
                self.differ(&object, differences, None);
            }
            return Ok(info.config.max_age);
        }
        let config = Config {
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages_per_subject: 1,
            max_age,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..self.owned_config(&name)
        };
        self.create_stream(config);
        Ok(max_age)
    }

    /// A position that is forgotten before the last try of its event would let it be applied twice.
    fn state_lasts(&mut self, bucket: &str, age: Duration, binding: &Binding) {
        let horizon = binding.horizon();
        if !age.is_zero() && age < horizon {
            self.problem(format!(
                "binding `{}`: the bucket `{bucket}` forgets state after {}, and retries can take {}: raise its TTL, or lower `retry`",
                binding.name,
                duration::show(age),
                duration::show(horizon)
            ));
        }
    }
}
