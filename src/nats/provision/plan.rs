//! What stands between a manifest and its server, computed from both and carried out by others.

use std::fmt;

use async_nats::jetstream::{consumer::pull, stream};
use serde::Serialize;

use super::change::Change;
use crate::nats::orphans::Orphan;

/// What stands between a manifest and its server.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    /// One step after the other, in the order in which they are carried out.
    pub steps: Vec<Planned>,
    /// What keeps the manifest from running, each with its way out.
    pub problems: Vec<String>,
    /// What will run, but not as well as it could.
    pub warnings: Vec<String>,
    /// Durables of this manifest's name that no binding owns. Nothing deletes them.
    pub orphans: Vec<Orphan>,
    /// The durables, in the order of the manifest's bindings.
    #[serde(skip)]
    pub(super) durables: Vec<Durable>,
    /// Those of events that come back from the dead letters, in the same order.
    #[serde(skip)]
    pub(super) comebacks: Vec<Durable>,
    /// Those of partitions, one after the other for each binding.
    #[serde(skip)]
    pub(super) parts: Vec<Durable>,
    #[serde(skip)]
    pub(super) part_comebacks: Vec<Durable>,
}

/// A step, and what it takes.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// The step, as people are told of it.
    #[serde(flatten)]
    pub step: Step,
    #[serde(skip)]
    pub(super) deed: Deed,
}

/// A stream or a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Object {
    /// Which of the two.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The stream of a consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A stream; a bucket is one too.
    Stream,
    /// A durable consumer.
    Consumer,
}

/// One difference between a manifest and its server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Step {
    /// It is missing.
    Create {
        /// What.
        #[serde(flatten)]
        object: Object,
        /// What it will hold, or where it will start.
        detail: String,
    },
    /// It is somebody else's, and is to be taken over.
    Adopt {
        /// What.
        #[serde(flatten)]
        object: Object,
        /// Whose it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
    },
    /// It differs from what the manifest says.
    Change {
        /// What.
        #[serde(flatten)]
        object: Object,
        /// In what.
        fields: Vec<Field>,
        /// What else should be known.
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<&'static str>,
    },
    /// It has been replaced by another one.
    Remove {
        /// What.
        #[serde(flatten)]
        object: Object,
        /// By which, and when.
        why: String,
    },
    /// It differs, and that cannot be changed.
    Refused {
        /// What.
        #[serde(flatten)]
        object: Object,
        /// In what.
        fields: Vec<Field>,
        /// Why not.
        why: String,
        /// What can be done instead.
        way_out: String,
    },
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// As the manifest spells it, or NATS where the manifest has no word for it.
    pub key: &'static str,
    /// What the server says.
    pub old: String,
    /// What the manifest says.
    pub new: String,
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Deed {
    /// Nothing that anybody could do.
    None,
    CreateStream(Box<stream::Config>),
    CreateConsumer(Box<pull::Config>),
    /// In place of an older one, which has to go first.
    ReplaceConsumer {
        old: String,
        config: Box<pull::Config>,
    },
    Update(Change),
    DeleteConsumer,
    /// Deletes the copies in which nothing waits, and their durables.
    DeleteCopies,
}

/// The durable of a binding as it will be.
#[derive(Debug, Clone)]
pub(super) struct Durable {
    pub(super) binding: String,
    pub(super) stream: String,
    pub(super) config: pull::Config,
}

impl Plan {
    /// Whether there is nothing to do, and nothing that cannot be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.problems.is_empty()
    }

    /// Whether something is in the way that carrying the plan out does not mend.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        let refused = |planned: &Planned| matches!(planned.step, Step::Refused { .. });
        !self.problems.is_empty() || self.steps.iter().any(refused)
    }

    /// How many steps can be carried out.
    #[must_use]
    pub fn feasible(&self) -> usize {
        self.steps.iter().filter(|planned| !matches!(planned.deed, Deed::None)).count()
    }
}

impl Step {
    /// What the step is about.
    #[must_use]
    pub const fn object(&self) -> &Object {
        match self {
            Self::Create { object, .. }
            | Self::Adopt { object, .. }
            | Self::Change { object, .. }
            | Self::Remove { object, .. }
            | Self::Refused { object, .. } => object,
        }
    }

    /// As it is told by who does not carry it out.
    pub(super) fn drift(&self) -> Vec<String> {
        let object = self.object();
        match self {
            Self::Create { .. } => vec![format!("{object} does not exist")],
            Self::Adopt { .. } => vec![format!("{object} is not ours")],
            Self::Remove { why, .. } => {
                vec![format!("{object} is left over: {why}; `pelton apply` deletes it")]
            }
            Self::Refused { fields, why, way_out, .. } if fields.is_empty() => {
                vec![format!("{object}: {why}: {way_out}")]
            }
            Self::Change { fields, .. } | Self::Refused { fields, .. } => fields
                .iter()
                .map(|Field { key, old, new }| {
                    format!("{object}: {key} is {old}, the manifest says {new}")
                })
                .collect(),
        }
    }
}

impl Object {
    pub(super) fn stream(name: &str) -> Self {
        Self { kind: Kind::Stream, name: name.to_owned(), stream: None }
    }

    pub(super) fn consumer(stream: &str, name: &str) -> Self {
        Self { kind: Kind::Consumer, name: name.to_owned(), stream: Some(stream.to_owned()) }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, stream } = self;
        match (kind, stream) {
            (Kind::Stream, _) => write!(f, "stream {name}"),
            (Kind::Consumer, None) => write!(f, "consumer {name}"),
            (Kind::Consumer, Some(stream)) => write!(f, "consumer {name} on stream {stream}"),
        }
    }
}
