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

/// The core of a component that asks one host function something and says what came back.
pub(crate) fn asking(import: &str, ask: &str) -> String {
    format!(
        r#"(module
          {import}
          (memory (export "memory") 2)
          (global $free (mut i32) (i32.const 4096))
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
            (global.set $free (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
          (func $say (param $data i32) (param $len i32)
            (i32.store (i32.const 84) (local.get $data))
            (i32.store (i32.const 88) (local.get $len))
            (i32.store (i32.const 32) (i32.const 64))
            (i32.store (i32.const 36) (i32.const 1)))
          (func (export "pelton:event/handler@0.1.0#handle")
            (param i32 i32 i32 i32 i32 i64) (result i32)
            (i32.store (i32.const 0) (i32.const 24))
            (i32.store (i32.const 4) (i32.const 1))
            {ask}
            (i32.const 0)))"#
    )
}
