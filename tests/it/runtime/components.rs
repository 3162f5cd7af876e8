//! Components for the tests: core WebAssembly as text and the world's own WIT, put together here
//! so that no toolchain is needed.

use std::path::{Path, PathBuf};

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

use super::{fixture, folder};

/// The component that does what an event's subject names: `conform.wat`.
pub(crate) fn conform() -> PathBuf {
    let text = std::fs::read_to_string(fixture("conform.wat")).unwrap();
    write(&component(&text, "function", ""))
}

/// A component of a world in `package test:it`, which is given; the world of functions is there too.
pub(crate) fn component(module: &str, world: &str, package: &str) -> Vec<u8> {
    let mut wit = Resolve::default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/wit");
    let (mut main, _) = wit.push_dir(folder).unwrap();
    if !package.is_empty() {
        main = wit.push_str("test.wit", package).unwrap();
    }
    let world = wit.select_world(&[main], Some(world)).unwrap();
    let mut module = wat::parse_str(module).unwrap();
    wit_component::embed_component_metadata(&mut module, &wit, world, StringEncoding::UTF8)
        .unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

pub(crate) fn write(bytes: &[u8]) -> PathBuf {
    let file = folder().join("f.wasm");
    std::fs::write(&file, bytes).unwrap();
    file
}
