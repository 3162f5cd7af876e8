//! What autoscalers ask for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::{nats::Backlog, runner::Status};

/// How long an answer may take; autoscalers give up soon.
const PATIENCE: Duration = Duration::from_secs(2);

/// How `/scale` finds out.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    status: watch::Receiver<Status>,
    /// Every answer asks `JetStream`: one at a time, whoever asks how often.
    turn: Arc<Semaphore>,
}

/// What `/scale` answers.
#[derive(Debug, Serialize)]
struct Answer {
    /// Events that wait for any binding, in all runners together.
    lag: u64,
    bindings: BTreeMap<String, Backlog>,
}

/// What it answers when it cannot know: never a number that would scale anything.
#[derive(Debug, Serialize)]
struct Unknown {
    error: String,
}

impl Scale {
    pub(super) fn new(status: watch::Receiver<Status>) -> Self {
        Self { status, turn: Arc::new(Semaphore::new(1)) }
    }

    async fn read(&self) -> Result<Answer, String> {
        let _turn = self.turn.acquire().await.map_err(|err| err.to_string())?;
        let (connection, provisioned) = {
            let status = self.status.borrow();
            (status.connection.clone(), status.provisioned.clone())
        };
        let (Some(connection), Some(provisioned)) = (connection, provisioned) else {
            return Err("this runner has not begun yet".to_owned());
        };
        if !connection.is_connected() {
            return Err("not connected to NATS".to_owned());
        }
        let bindings = provisioned.backlog(&connection).await.map_err(|err| err.to_string())?;
        Ok(Answer { lag: bindings.values().map(|backlog| backlog.lag).sum(), bindings })
    }
}

pub(super) async fn scale(State(scale): State<Scale>) -> Response {
    let read = timeout(PATIENCE, scale.read()).await;
    let read = read.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
    match read {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Json(Unknown { error })).into_response(),
    }
}
