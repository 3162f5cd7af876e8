//! What a component asks for and offers, read without compiling it.

use wasmparser::{Encoding, Parser, Payload};

use crate::manifest::Allow;

/// Interfaces with their versions.
type Interfaces = [(&'static str, Version)];

/// Which versions of an interface are the same to a component.
enum Version {
    /// All that start like this.
    Like(&'static str),
    /// This one: a draft promises nothing to the next.
    Draft(&'static str),
}

/// Interfaces that every component may import: they do nothing by themselves. Files and sockets
/// are among them because the standard libraries of most languages import them whether used or not;
/// what they reach is decided by the grants, and is nothing without one.
const ALWAYS: &Interfaces = &[
    ("pelton:event/log", Version::Like("0.1.")),
    ("pelton:event/config", Version::Like("0.1.")),
    ("wasi:cli/", Version::Like("0.2.")),
    ("wasi:clocks/", Version::Like("0.2.")),
    ("wasi:filesystem/", Version::Like("0.2.")),
    ("wasi:io/", Version::Like("0.2.")),
    ("wasi:random/", Version::Like("0.2.")),
    ("wasi:sockets/", Version::Like("0.2.")),
];
/// With `allow.http`.
const HTTP: &Interfaces = &[
    ("wasi:http/outgoing-handler", Version::Like("0.2.")),
    ("wasi:http/types", Version::Like("0.2.")),
];
/// With `allow.kv`.
const KEY_VALUE: &Interfaces = &[
    ("wasi:keyvalue/atomics", Version::Draft("0.2.0-draft")),
    ("wasi:keyvalue/batch", Version::Draft("0.2.0-draft")),
    ("wasi:keyvalue/store", Version::Draft("0.2.0-draft")),
];

/// The names of what a component imports and exports.
#[derive(Debug, Default)]
pub(super) struct Face {
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
}

impl Face {
    /// Reads it off a component's bytes.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut face = Self::default();
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(|err| format!("it is no WebAssembly: {}", err.message()))? {
                Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                    return Err("it is a core module, not a component: \
                                wrap it with `wasm-tools component new`"
                        .to_owned());
                }
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        let import = import.map_err(|err| err.message().to_owned())?;
                        face.imports.push(import.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        let export = export.map_err(|err| err.message().to_owned())?;
                        face.exports.push(export.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(face)
    }

    /// Imports that nothing grants, each in a sentence.
    pub(super) fn ungranted(&self, allow: &Allow) -> impl Iterator<Item = String> {
        let grants =
            [(HTTP, "http", !allow.http.is_empty()), (KEY_VALUE, "kv", !allow.kv.is_empty())];
        self.imports.iter().filter(|name| !is_in(ALWAYS, name)).filter_map(move |name| {
            let grant = grants.iter().find(|(interfaces, ..)| is_in(interfaces, name));
            match grant {
                Some((.., true)) => None,
                Some((_, key, _)) => Some(format!(
                    "it imports `{name}`, which is not granted: `allow: {{{key}: […]}}` does"
                )),
                None => Some(format!("it imports `{name}`, which is not granted")),
            }
        })
    }

    /// Whether it can call servers.
    pub(super) fn calls_http(&self) -> bool {
        self.imports.iter().any(|name| is_in(HTTP, name))
    }

    /// Whether it can open buckets.
    pub(super) fn opens_buckets(&self) -> bool {
        self.imports.iter().any(|name| is_in(KEY_VALUE, name))
    }
}

fn is_in(interfaces: &Interfaces, name: &str) -> bool {
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    interfaces.iter().any(|(known, versions)| {
        let named = match known.ends_with('/') {
            true => interface.starts_with(known),
            false => interface == *known,
        };
        named
            && match versions {
                Version::Like(start) => version.starts_with(start),
                Version::Draft(exact) => version == *exact,
            }
    })
}
