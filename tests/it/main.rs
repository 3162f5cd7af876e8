//! The integration tests: the real binary, against a real nats-server of its own for each test.
//!
//! `PELTON_TEST_EVENTS` sets how many events the tests under load send (2,000 by default).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]

mod harness;

mod batches;
mod chaos;
mod connect;
mod dead_letters;
mod decide;
mod deferrals;
mod degraded;
mod delivery;
mod dev;
mod dlq;
mod drain;
mod exhausted;
mod faults;
mod house;
mod idle;
mod manifest;
mod metrics;
mod ordered;
mod partitions;
mod peers;
mod permissions;
mod plan;
mod provision;
mod rates;
mod recovery;
mod reload;
mod replay;
mod runtime;
mod scale;
mod shop;
mod state;
mod traps;
mod verbs;
