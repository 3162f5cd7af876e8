//! The least permissions that a manifest needs in NATS, verb by verb. Pure: what the other files
//! of this folder ask of the server, said once more.

mod durable;
mod needs;
mod partitions;
mod replay;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::{manifest::Manifest, subject};
use needs::Needs;

/// What somebody wants to do with a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Run it, and create what is missing.
    Run,
    /// Run it where everything is there already.
    RunOnly,
    /// See what would change.
    Plan,
    /// Change it.
    Apply,
    /// Look at its bindings.
    List,
    /// Look at its dead letters, send them again, throw them away.
    Dlq,
    /// Run stored events of its bindings once more.
    Replay,
    /// Pause its bindings, and resume them.
    Pause,
    /// Send events to its bindings.
    Send,
}

/// A subject that has to be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// The subject, or a pattern.
    pub subject: String,
    /// What for, for people.
    pub why: String,
}

/// What a user has to be allowed, and nothing else; as programs read it, in the words of a
/// nats-server's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Permissions {
    /// Where it publishes.
    pub publish: Allowed,
    /// What it subscribes to.
    pub subscribe: Allowed,
}

/// Subjects that have to be allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Allowed {
    /// Each of them once.
    pub allow: Vec<Permission>,
}

/// A manifest that does not say enough.
#[derive(Debug, Error)]
#[error(
    "binding `{binding}`: no stream of the manifest holds `{subject}`, and permissions name streams: say which with `stream:`"
)]
pub struct UnknownStream {
    binding: String,
    subject: String,
}

impl Serialize for Permission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.subject)
    }
}

impl Permissions {
    /// Those for all of these purposes together.
    ///
    /// # Errors
    /// When the stream of a binding cannot be told from the manifest.
    pub fn of(manifest: &Manifest, purposes: &[Purpose]) -> Result<Self, UnknownStream> {
        let mut needs = Needs::new(manifest)?;
        for purpose in purposes {
            needs.add(*purpose);
        }
        Ok(needs.permissions())
    }
}

impl Allowed {
    /// Adds a subject, unless one that is there covers it; takes out those that it covers.
    fn add(&mut self, subject: String, why: String) {
        if self.allow.iter().any(|known| subject::covers(&known.subject, &subject)) {
            return;
        }
        self.allow.retain(|known| !subject::covers(&subject, &known.subject));
        self.allow.push(Permission { subject, why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered_is_not_said_again() {
        let mut allowed = Allowed::default();
        for subject in ["a.b", "a.*", "c", "c", "a.c"] {
            allowed.add(subject.to_owned(), String::new());
        }
        assert_eq!(serde_json::json!(allowed), serde_json::json!({ "allow": ["a.*", "c"] }));
    }
}
