//! What the server must be able to do.

use super::site::Site;
use crate::{deferral, manifest::Binding, nats::lookup::ProvisionError, settle::OnExhausted};

/// The oldest server that can do what Pelton asks of it.
const OLDEST_SERVER: (u64, u64) = (2, 10);
/// The oldest that can pause a consumer.
const PAUSES: (u64, u64) = (2, 11);
/// The oldest that can send a message on at a given time.
const SCHEDULES: (u64, u64) = (2, 12);

pub(super) fn check(version: &str) -> Result<(), ProvisionError> {
    if is_older(version, OLDEST_SERVER) {
        return Err(ProvisionError::Problems(vec![format!(
            "this nats-server is {version}; Pelton needs {}.{} or later",
            OLDEST_SERVER.0, OLDEST_SERVER.1
        )]));
    }
    Ok(())
}

impl Site<'_> {
    /// Not every server can stop a binding.
    pub(super) fn pauses(&mut self) {
        let problems = cannot_pause(&self.connection.server_version(), &self.manifest.bindings);
        problems.into_iter().for_each(|problem| self.problem(problem));
    }
}

pub(super) fn has_schedules(version: &str) -> bool {
    !is_older(version, SCHEDULES)
}

/// What a server without schedules costs.
pub(super) fn long_waits(version: &str, bindings: &[Binding]) -> Vec<String> {
    let waits = |binding: &&Binding| {
        binding.order.is_none() && binding.retry.backoff_max > deferral::LONGER_THAN
    };
    let warning = |binding: &Binding| {
        format!(
            "binding `{}`: an event that waits longer than a minute for its next try counts against `max_ack_pending`, since this nats-server is {version}: from {}.{} on it does not",
            binding.name, SCHEDULES.0, SCHEDULES.1
        )
    };
    if has_schedules(version) {
        return Vec::new();
    }
    bindings.iter().filter(waits).map(warning).collect()
}

fn cannot_pause(version: &str, bindings: &[Binding]) -> Vec<String> {
    if !is_older(version, PAUSES) {
        return Vec::new();
    }
    let stops = |binding: &&Binding| binding.retry.on_exhausted == OnExhausted::Pause;
    let problem = |binding: &Binding| {
        format!(
            "binding `{}`: `on_exhausted: pause` needs nats-server {}.{} or later, and this one is {version}",
            binding.name, PAUSES.0, PAUSES.1
        )
    };
    bindings.iter().filter(stops).map(problem).collect()
}

/// Whether a server's version is known to be below another.
fn is_older(version: &str, than: (u64, u64)) -> bool {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u64>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::{Manifest, Mode};

    fn bindings(text: &str) -> Vec<Binding> {
        let head = "version: 1\nname: shop\nstreams: { ORDERS: { subjects: [\"orders.>\"] } }\nfunctions: { pay: { native: true } }\nbindings:";
        let text = format!("{head}{text}");
        let loaded = Manifest::parse(&text, Path::new("a.yaml"), &|_| None, Mode::Run);
        loaded.unwrap().manifest.bindings
    }

    #[test]
    fn a_pause_on_a_server_that_has_none_is_told_with_both_versions() {
        let text = "
  - { subject: orders.a, function: pay, retry: { on_exhausted: pause } }
  - { name: other, subject: orders.b, function: pay }
";
        let bindings = bindings(text);
        assert_eq!(
            cannot_pause("2.10.29", &bindings),
            [
                "binding `pay`: `on_exhausted: pause` needs nats-server 2.11 or later, and this one is 2.10.29"
            ]
        );
        for version in ["2.11.0", "2.15.1", "3.0.0-RC.1", "dev"] {
            assert!(cannot_pause(version, &bindings).is_empty(), "{version}");
        }
        assert!(check("2.9.25").is_err() && check("2.10.0").is_ok());
    }

    #[test]
    fn a_server_without_schedules_is_told_of_where_waits_are_long() {
        let text = "
  - { subject: orders.a, function: pay, retry: { backoff: 1s..10m } }
  - { name: short, subject: orders.b, function: pay }
  - { name: ordered, subject: orders.*, function: pay, order_by: { token: 2 }, retry: { backoff: 1s..10m } }
";
        let bindings = bindings(text);
        let warnings = long_waits("2.11.9", &bindings);
        assert!(
            matches!(warnings.as_slice(), [one] if one.starts_with("binding `pay`:") && one.contains("2.12")),
            "{warnings:?}"
        );
        assert!(long_waits("2.12.0", &bindings).is_empty());
    }
}
