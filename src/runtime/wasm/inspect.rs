//! What a component asks for and offers, read without compiling it.

use wasmparser::{Encoding, Parser, Payload};

/// Interfaces that every component may import: they do nothing by themselves. Files and sockets
/// are among them because the standard libraries of most languages import them whether used or not;
/// what they reach is decided by the grants, and is nothing without one. Each with its versions.
const GRANTED: [(&str, &str); 8] = [
    ("pelton:event/log", "0.1."),
    ("pelton:event/config", "0.1."),
    ("wasi:cli/", "0.2."),
    ("wasi:clocks/", "0.2."),
    ("wasi:filesystem/", "0.2."),
    ("wasi:io/", "0.2."),
    ("wasi:random/", "0.2."),
    ("wasi:sockets/", "0.2."),
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

    /// Imports that nothing grants.
    pub(super) fn ungranted(&self) -> impl Iterator<Item = &str> {
        let granted = |name: &str| {
            let (interface, version) = name.split_once('@').unwrap_or((name, ""));
            GRANTED.iter().any(|(granted, versions)| {
                let named = match granted.ends_with('/') {
                    true => interface.starts_with(granted),
                    false => interface == *granted,
                };
                named && version.starts_with(versions)
            })
        };
        self.imports.iter().map(String::as_str).filter(move |name| !granted(name))
    }
}
