//! NATS `JetStream`: the one implementation of [`source`](crate::source), and the only module that
//! names `async_nats`.

mod backlog;
mod buckets;
mod comeback;
mod connect;
mod copies;
mod deferred;
mod each;
mod gate;
mod hop;
mod inspect;
mod lease;
mod ledger;
mod letters;
mod lookup;
mod message;
mod names;
mod ordered;
mod orphans;
mod pause;
mod permissions;
mod provision;
mod publish;
mod pull;
mod reply;
mod send;
mod until;
mod windows;

pub use backlog::Backlog;
pub use buckets::NatsBuckets;
pub use comeback::{Waiting, WithComebacks, watch as watch_comebacks};
pub use connect::{Connection, ConnectionError};
pub use hop::{Hop, Originals};
pub(crate) use inspect::read_gauges;
pub use inspect::{BindingReport, ReplayReport, Report};
pub use lease::NatsLease;
pub use ledger::NatsLedger;
pub use letters::{Filter, Letters, StoredLetter};
pub use lookup::ProvisionError;
pub use names::owners_name;
pub use ordered::OrderedSource;
pub use orphans::Orphan;
pub use pause::{CENTURY, NatsBrake};
pub use permissions::{Allowed, Permission, Permissions, Purpose, UnknownStream};
pub use provision::{
    Adoption, Applied, Failed, Field, Kind, Object, Plan, Planned, Provisioned, Provisioning,
    Replays, Step, warnings,
};
pub use publish::NatsSink;
pub use pull::NatsSource;
pub use send::Receipt;
pub use until::{Bounded, Until};
pub use windows::Windows;
