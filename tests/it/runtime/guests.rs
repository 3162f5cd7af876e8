//! Components that the compilers of other languages make: `make guests`.

use std::path::Path;

use pelton::{
    event::Verdict,
    manifest::{Allow, Component, Instances, Runtime},
};

use super::{call, function, handler};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a compiler for JavaScript: make guests"]
async fn a_component_in_javascript() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guests/ship-js.wasm");
    assert!(file.exists(), "{} is missing: run `make guests`", file.display());
    let component = Component { file, allow: Allow::default(), instances: Instances::default() };
    let handler = handler(&function(Runtime::Wasm(component)), 1);
    let verdict = async |data: &'static str| {
        handler.call(call("orders.paid", data)).await.expect("a reply").verdicts
    };

    let shipped = verdict(r#"{"item": "wheel"}"#).await;
    let [Verdict::Done(outputs)] = shipped.as_slice() else { panic!("{shipped:?}") };
    let data: serde_json::Value = serde_json::from_slice(&outputs[0].data).expect("JSON");
    assert_eq!(data, serde_json::json!({ "item": "wheel", "shipped": true }));
    assert_eq!(outputs[0].headers.get("content-type"), Some("application/json"));
    let refused = verdict("{}").await;
    assert!(matches!(refused.as_slice(), [Verdict::Reject { .. }]), "{refused:?}");
    let broken = verdict("{").await;
    assert!(matches!(broken.as_slice(), [Verdict::Reject { .. }]), "{broken:?}");
}
