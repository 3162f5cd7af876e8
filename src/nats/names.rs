//! What things are called in NATS, and the metadata that says whose they are.

use std::num::NonZeroUsize;

use crate::manifest::{Binding, Manifest};

/// Metadata key: the manifest's name, which owns the object.
pub(in crate::nats) const OWNER: &str = "pelton.name";
/// Metadata key: the binding.
pub(in crate::nats) const BINDING: &str = "pelton.binding";
/// Metadata key: digest of the manifest that created the object.
pub(in crate::nats) const DIGEST: &str = "pelton.manifest";
/// Metadata key: `start` of the binding when the durable was created.
pub(in crate::nats) const START: &str = "pelton.start";

/// Metadata key: the binding whose place this one took.
pub(in crate::nats) const RENAMED_FROM: &str = "pelton.renamed_from";
/// Metadata key: the last stream sequence that was delivered under the old name.
pub(in crate::nats) const DELIVERED: &str = "pelton.delivered";

/// The durable of a binding: `<name>-<binding>`.
pub(in crate::nats) fn durable_name(manifest: &str, binding: &str) -> String {
    format!("{manifest}-{binding}")
}

/// That of what comes back to it: `<name>-<binding>-redrive`.
pub(in crate::nats) fn comebacks_name(manifest: &str, binding: &str) -> String {
    format!("{}-redrive", durable_name(manifest, binding))
}

/// The bucket of the ledger: `<NAME>_ATTEMPTS`.
pub(in crate::nats) fn ledger_name(manifest: &Manifest) -> String {
    named(manifest, "ATTEMPTS")
}

/// The bucket that says which runner works on which partition: `<NAME>_OWNERS`.
#[must_use]
pub fn owners_name(manifest: &Manifest) -> String {
    named(manifest, "OWNERS")
}

pub(in crate::nats) fn named(manifest: &Manifest, what: &str) -> String {
    format!("{}_{what}", manifest.name.to_uppercase().replace('-', "_"))
}

/// The stream of the copies of a binding's events: `<NAME>_PARTS_<binding>`.
pub(in crate::nats) fn parts_name(manifest: &Manifest, binding: &Binding) -> String {
    format!("{}_{}", named(manifest, "PARTS"), binding.name)
}

/// Where the copies of one partition are: `parts.<name>.<binding>.<partitions>.<number>`.
pub(in crate::nats) fn part_subject(
    name: &str,
    binding: &str,
    count: NonZeroUsize,
    number: usize,
) -> String {
    format!("parts.{name}.{binding}.{count}.{number}")
}

/// What comes back to one partition is under `redrive.<name>.` and this.
pub(in crate::nats) fn part_comeback(binding: &str, count: NonZeroUsize, number: usize) -> String {
    format!("{binding}.{count}.{number}")
}
