//! Components that the compilers of other languages make: `make guests`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pelton::{
    event::Verdict,
    handler::Handler,
    manifest::{Allow, Component, Function, Instances, Runtime},
};
use wit_bindgen_core::Files;
use wit_component::ComponentEncoder;
use wit_parser::Resolve;

use super::{call, done, function, handler};

/// Relative to the checkout.
const EXAMPLES: &str = "functions/wit/examples";
const BUILT: &str = "target/guests";

fn checkout(path: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    assert!(file.exists(), "{} is missing: run `make guests`", file.display());
    file
}

fn wasm(file: PathBuf) -> Function {
    let component = Component { file, allow: Allow::default(), instances: Instances::default() };
    function(Runtime::Wasm(component))
}

async fn verdicts(handler: &dyn Handler, data: &'static str) -> Vec<Verdict> {
    handler.call(call("orders.paid", data)).await.expect("a reply").verdicts
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a compiler for JavaScript: make guests"]
async fn a_component_in_javascript() {
    let handler = handler(&wasm(checkout(BUILT).join("ship-js.wasm")), 1);
    let shipped = verdicts(&*handler, r#"{"item": "wheel"}"#).await;
    let [Verdict::Done(outputs)] = shipped.as_slice() else { panic!("{shipped:?}") };
    let data: serde_json::Value = serde_json::from_slice(&outputs[0].data).expect("JSON");
    assert_eq!(data, serde_json::json!({ "item": "wheel", "shipped": true }));
    assert_eq!(outputs[0].headers.get("content-type"), Some("application/json"));
    let refused = verdicts(&*handler, "{}").await;
    assert!(matches!(refused.as_slice(), [Verdict::Reject { .. }]), "{refused:?}");
    let broken = verdicts(&*handler, "{").await;
    assert!(matches!(broken.as_slice(), [Verdict::Reject { .. }]), "{broken:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a compiler for C: make guests"]
async fn a_component_in_c() {
    let mut function = wasm(compile_c("ship.c"));
    let closed = verdicts(&*handler(&function, 1), "wheel").await;
    let again = Verdict::Retry {
        reason: "no warehouse is open".to_owned(),
        after: Some(Duration::from_secs(5)),
    };
    assert_eq!(closed, [again]);
    function.env.insert("WAREHOUSE".to_owned(), "north".to_owned());
    let handler = handler(&function, 1);
    for _ in 0..1_000 {
        assert_eq!(handler.call(call("orders.paid", "wheel")).await, done(&["wheel"]));
    }
    let refused = verdicts(&*handler, "").await;
    assert!(
        matches!(refused.as_slice(), [Verdict::Reject { reason, .. }] if reason == "an order without a word"),
        "{refused:?}"
    );
}

/// What `wit-bindgen c`, `zig cc` and `wasm-tools component new` do in functions/wit/README.md.
fn compile_c(source: &str) -> PathBuf {
    let built = checkout(BUILT);
    let generated = built.join("c");
    bindings(&generated);
    let core = built.join("ship-c.core.wasm");
    let cache = built.join("zig-cache");
    let compiled = Command::new(checkout(".tools/zig/ziglang/zig"))
        .args(["cc", "-target", "wasm32-wasi", "-mexec-model=reactor", "-Os", "-s"])
        .args(["-Wall", "-Werror", "-Wl,-z,stack-size=65536", "-I"])
        .arg(&generated)
        .arg(checkout(EXAMPLES).join(source))
        .args(["function.c", "function_component_type.o"].map(|file| generated.join(file)))
        .arg("-o")
        .arg(&core)
        .envs([("ZIG_GLOBAL_CACHE_DIR", &cache), ("ZIG_LOCAL_CACHE_DIR", &cache)])
        .status()
        .unwrap();
    assert!(compiled.success(), "zig: {compiled}");
    let core = fs::read(core).unwrap();
    let component =
        ComponentEncoder::default().module(&core).unwrap().validate(true).encode().unwrap();
    let file = built.join("ship-c.wasm");
    fs::write(&file, component).unwrap();
    file
}

/// Writes what a function in C includes and links.
fn bindings(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut wit = Resolve::default();
    let (package, _) = wit.push_dir(checkout("functions/wit")).unwrap();
    let world = wit.select_world(&[package], Some("function")).unwrap();
    let mut files = Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut wit, world, &mut files).unwrap();
    for (name, text) in files.iter() {
        fs::write(folder.join(name), text).unwrap();
    }
}
