//! Keys that are designed for and not built yet. They are refused as such: taking them silently
//! would promise what does not happen, calling them unknown would send people looking for a typo.

/// A key of later work.
pub(super) struct Later {
    /// The map it belongs to, as [`super::path::Path::pattern`] writes it.
    pub(super) context: &'static str,
    pub(super) key: &'static str,
    /// Completes "not yet: `key` (…)".
    pub(super) what: &'static str,
}

pub(super) const LATER: [Later; 13] = [
    later("", "events", "schemas of events"),
    later("", "renamed_from", "renaming a manifest"),
    later("", "slots", "a limit for all bindings together"),
    later("", "allow", "grants"),
    later("functions.*", "slots", "a limit for one function"),
    later("functions.*", "renamed_from", "renaming a function"),
    later("bindings[]", "request", "the trigger that answers requests"),
    later("bindings[]", "schedule", "the trigger that follows a clock"),
    later("bindings[]", "ingress", "the trigger that takes HTTP requests"),
    later("bindings[]", "events", "schemas of events"),
    later("bindings[]", "slots", "a limit in bytes other than 64MiB"),
    later("bindings[]", "allow", "grants"),
    later("admin", "token_file", "an admin interface for others than this machine"),
];

const fn later(context: &'static str, key: &'static str, what: &'static str) -> Later {
    Later { context, key, what }
}

/// Keys of a binding that start it.
pub(super) const TRIGGERS: [&str; 4] = ["subject", "request", "schedule", "ingress"];

/// Keys of a function that say what runs it.
pub(super) const RUNTIMES: [&str; 6] = ["run", "command", "exec", "native", "http", "lambda"];

pub(super) fn find(context: &str, key: &str) -> Option<&'static Later> {
    LATER.iter().find(|later| later.context == context && later.key == key)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::{Manifest, Mode};

    #[test]
    fn every_later_key_is_refused_as_such() {
        for Later { context, key, .. } in LATER {
            let item = match context {
                "" => format!("{key}: 1"),
                "functions.*" => format!("functions: {{f: {{{key}: 1}}}}"),
                "bindings[]" => format!("bindings: [{{{key}: 1}}]"),
                other => format!("{other}: {{{key}: 1}}"),
            };
            let text = format!("version: 1\nname: a\n{item}\n");
            let found =
                Manifest::parse(&text, Path::new("a.yaml"), &|_| None, Mode::Lint).unwrap_err();
            assert_eq!(found.errors(), 1, "{found}");
            assert!(found.to_string().contains(&format!("not yet: `{key}`")), "{found}");
        }
    }
}
