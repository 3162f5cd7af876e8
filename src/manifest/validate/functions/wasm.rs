//! What only functions have that are WebAssembly components.

use std::path::{Path as FilePath, PathBuf};

use crate::manifest::{
    Allow, Component, HttpOrigin, Instances, defaults,
    leaf::{self, OneOrMany, Span},
    path::Path,
    raw::{self, Instance},
    report::Report,
    validate::{nats::resolve, positive_span, texts},
};

/// The keys, as written.
pub(super) struct Keys {
    pub(super) allow: Option<leaf::Keys<raw::Allow>>,
    pub(super) instance: Option<Instance>,
}

pub(super) fn is_component(file: &str) -> bool {
    FilePath::new(file).extension().is_some_and(|kind| kind == "wasm")
}

pub(super) fn component(
    file: PathBuf,
    keys: &Keys,
    dir: &FilePath,
    path: &Path,
    report: &mut Report,
) -> Component {
    let mut allow = Allow::default();
    if let Some(leaf::Keys(raw)) = &keys.allow {
        let path = path.key("allow");
        allow.env = list(raw.env.as_ref(), &path.key("env"), report);
        let dirs = list(raw.dirs.as_ref(), &path.key("dirs"), report);
        allow.dirs = dirs.into_iter().map(|name| (name.clone(), resolve(dir, &name))).collect();
        allow.http = origins(raw.http.as_ref(), &path.key("http"), report);
        allow.kv = buckets(raw.kv.as_ref(), &path.key("kv"), report);
    }
    let instances = instances(keys.instance.as_ref(), &path.key("instance"), report);
    Component { file, allow, instances }
}

/// Says of keys that only a component has that this function is none.
pub(super) fn refuse(keys: &Keys, path: &Path, report: &mut Report) {
    let there = [("allow", keys.allow.is_some()), ("instance", keys.instance.is_some())];
    for (key, _) in there.iter().filter(|(_, there)| *there) {
        let hint = "take it out: processes have what their user has";
        let message = format!("`{key}` is for WebAssembly components (`run: x.wasm`)");
        report.error_hint(&path.key(key), message, hint);
    }
}

fn origins(raw: Option<&OneOrMany>, path: &Path, report: &mut Report) -> Vec<HttpOrigin> {
    let items = raw.map(|raw| texts(raw.clone(), path, report)).unwrap_or_default();
    let mut origins = Vec::with_capacity(items.len());
    for (at, text) in items {
        // Each host by name: a pattern would grant what nobody has thought of.
        match HttpOrigin::parse(&text).filter(|_| !text.contains('*')) {
            Some(origin) => origins.push(origin),
            None => report.error_hint(
                &at,
                format!("`{text}` is no server that could be called"),
                "write a host, as in `api.example.com`, or `http://host:port` for one without TLS",
            ),
        }
    }
    origins
}

fn buckets(raw: Option<&OneOrMany>, path: &Path, report: &mut Report) -> Vec<String> {
    let items = raw.map(|raw| texts(raw.clone(), path, report)).unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    for (at, name) in &items {
        if name.is_empty() || !name.bytes().all(fits) {
            let hint = "buckets have letters, digits, `-` and `_` in their names";
            report.error_hint(at, format!("`{name}` is no name of a bucket"), hint);
        }
    }
    items.into_iter().map(|(_, name)| name).collect()
}

fn list(raw: Option<&OneOrMany>, path: &Path, report: &mut Report) -> Vec<String> {
    let items = raw.map(|raw| texts(raw.clone(), path, report)).unwrap_or_default();
    items.into_iter().map(|(_, item)| item).collect()
}

fn instances(raw: Option<&Instance>, path: &Path, report: &mut Report) -> Instances {
    let Some(Instance::Reuse(reuse)) = raw else { return Instances::Fresh };
    let path = path.key("reuse");
    let age: Option<Span> = reuse.max_age;
    let max_age = positive_span(age, defaults::REUSE_AGE, &path.key("max_age"), report);
    let events = reuse.max_events.map_or(defaults::REUSE_EVENTS, |events| events.0.get());
    let max_events = std::num::NonZeroU64::new(events).unwrap_or(std::num::NonZeroU64::MIN);
    Instances::Reuse { max_events, max_age }
}
