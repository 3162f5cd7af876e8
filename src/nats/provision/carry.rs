//! Carries steps out.

use async_nats::jetstream::{
    ErrorCode,
    consumer::pull,
    context::CreateStreamErrorKind,
    stream::{Config, ConsumerCreateStrictErrorKind, ConsumerErrorKind},
};
use serde::Serialize;

use super::{
    change::Refusal,
    partitions::are_asked_for,
    plan::{Deed, Object, Plan, Planned, Step},
    rename::is_at_work,
};
use crate::nats::{
    connect::Connection,
    lookup::{ProvisionError, find},
};

/// What came of a plan.
#[derive(Debug, Default, Serialize)]
pub struct Applied {
    /// What was done.
    pub done: Vec<Step>,
    /// What the server did not let happen.
    pub failed: Vec<Failed>,
}

/// A step that the server refused.
#[derive(Debug, Serialize)]
pub struct Failed {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// Why, in the server's words.
    pub error: String,
    /// What can be done instead.
    pub way_out: String,
}

impl Plan {
    /// Does what can be done, step by step; what is refused does not keep the rest from happening.
    ///
    /// # Errors
    /// When `JetStream` does not answer. What was done by then stays done.
    pub async fn apply(self, connection: &Connection) -> Result<Applied, ProvisionError> {
        let mut applied = Applied::default();
        for Planned { step, deed } in self.steps {
            if matches!(deed, Deed::None) {
                continue;
            }
            match deed.carry_out(connection, step.object()).await {
                Ok(()) => applied.done.push(step),
                Err(Refusal::Provision(err)) => return Err(err),
                Err(refusal) => {
                    let way_out = way_out(&step).to_owned();
                    applied.failed.push(Failed { step, error: refusal.to_string(), way_out });
                }
            }
        }
        Ok(applied)
    }
}

fn way_out(step: &Step) -> &'static str {
    match step {
        Step::Create { .. } => "mend what the server names, then apply again",
        Step::Adopt { .. } => "it changed meanwhile: plan again",
        Step::Change { .. } => {
            "write in the manifest what the server has or takes, or delete it and apply again to make it anew"
        }
        Step::Remove { .. } | Step::Refused { .. } => "stop who uses it, then apply again",
    }
}

impl Deed {
    pub(super) async fn carry_out(
        self,
        connection: &Connection,
        object: &Object,
    ) -> Result<(), Refusal> {
        let stream = object.stream.as_deref().unwrap_or_default();
        match self {
            Self::None => Ok(()),
            Self::CreateStream(config) => create_stream(connection, *config).await,
            Self::CreateConsumer(config) => create_consumer(connection, stream, *config).await,
            Self::ReplaceConsumer { old, config } => {
                delete_consumer(connection, stream, &old).await?;
                create_consumer(connection, stream, *config).await
            }
            Self::Update(change) => change.carry_out(connection, object).await,
            Self::DeleteCopies => delete_copies(connection, &object.name).await,
            Self::DeleteConsumer => delete_consumer(connection, stream, &object.name).await,
        }
    }
}

async fn create_stream(connection: &Connection, config: Config) -> Result<(), Refusal> {
    match connection.context.create_stream(config).await {
        Ok(_) => Ok(()),
        Err(err) => match err.kind() {
            // Somebody else was faster; whether it is as wanted is looked at again.
            CreateStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NAME_EXIST =>
            {
                Ok(())
            }
            CreateStreamErrorKind::JetStream(error) => Err(Refusal::Refused(error.to_string())),
            _ => Err(unavailable(&err)),
        },
    }
}

/// Strictly: a durable that another one was faster to make must not be changed by this.
async fn create_consumer(
    connection: &Connection,
    stream: &str,
    config: pull::Config,
) -> Result<(), Refusal> {
    match connection.context.create_consumer_strict_on_stream(config, stream).await {
        Ok(_) => Ok(()),
        Err(err) => match err.kind() {
            ConsumerCreateStrictErrorKind::AlreadyExists => Ok(()),
            ConsumerCreateStrictErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::CONSUMER_ALREADY_EXISTS =>
            {
                Ok(())
            }
            ConsumerCreateStrictErrorKind::JetStream(error) => {
                Err(Refusal::Refused(error.to_string()))
            }
            _ => Err(unavailable(&err)),
        },
    }
}

/// Deletes a durable that nobody works on.
async fn delete_consumer(connection: &Connection, stream: &str, name: &str) -> Result<(), Refusal> {
    let Some(found) = find(connection, stream, name).await? else { return Ok(()) };
    if is_at_work(&found) {
        return Err(Refusal::Refused("a runner works on it again".to_owned()));
    }
    match connection.context.delete_consumer_from_stream(name, stream).await {
        Ok(_) => Ok(()),
        Err(err) => match err.kind() {
            ConsumerErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND =>
            {
                Ok(())
            }
            ConsumerErrorKind::JetStream(error) => Err(Refusal::Refused(error.to_string())),
            _ => Err(unavailable(&err)),
        },
    }
}

async fn delete_copies(connection: &Connection, stream: &str) -> Result<(), Refusal> {
    if are_asked_for(connection, stream).await? {
        return Err(Refusal::Refused("a runner works on it again".to_owned()));
    }
    match connection.context.delete_stream(stream).await {
        Ok(_) => Ok(()),
        Err(err) => Err(Refusal::Refused(err.to_string())),
    }
}

fn unavailable(err: &dyn std::fmt::Display) -> Refusal {
    ProvisionError::Unavailable(err.to_string()).into()
}
