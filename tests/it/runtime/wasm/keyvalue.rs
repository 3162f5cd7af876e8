//! Components with key-value buckets, of a real nats-server.

use std::{fs, path::Path};

use async_nats::jetstream::kv;

use super::{super::components::component, asking, pelton_with};
use crate::harness::{NatsServer, Runner, Site, eventually};

/// What `wasi:keyvalue` is to the component below.
const PACKAGE: &str = r#"
    package test:it;
    world keeper {
        import wasi:keyvalue/store@0.2.0-draft;
        import wasi:keyvalue/atomics@0.2.0-draft;
        export pelton:event/handler@0.1.0;
    }
    package wasi:keyvalue@0.2.0-draft {
        interface store {
            variant error { no-such-store, access-denied, other(string) }
            record key-response { keys: list<string>, cursor: option<u64> }
            resource bucket {
                get: func(key: string) -> result<option<list<u8>>, error>;
                set: func(key: string, value: list<u8>) -> result<_, error>;
                delete: func(key: string) -> result<_, error>;
                exists: func(key: string) -> result<bool, error>;
                list-keys: func(cursor: option<u64>) -> result<key-response, error>;
            }
            open: func(identifier: string) -> result<bucket, error>;
        }
        interface atomics {
            use store.{bucket, error};
            increment: func(bucket: borrow<bucket>, key: string, delta: u64)
                -> result<u64, error>;
        }
    }
"#;

/// A component that does with the key that follows in its event what the event's first letter says:
/// `i`ncrements it; `w`rites and reads it; `d`eletes it and says whether it exists; says how many
/// keys the `l`ist has; `o`pens another bucket. An error is said as a letter from A.
fn keeper() -> Vec<u8> {
    let import = r#"
        (import "wasi:keyvalue/store@0.2.0-draft" "open" (func $open (param i32 i32 i32)))
        (import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.get"
          (func $get (param i32 i32 i32 i32)))
        (import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.set"
          (func $set (param i32 i32 i32 i32 i32 i32)))
        (import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.delete"
          (func $delete (param i32 i32 i32 i32)))
        (import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.exists"
          (func $exists (param i32 i32 i32 i32)))
        (import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.list-keys"
          (func $list (param i32 i32 i64 i32)))
        (import "wasi:keyvalue/atomics@0.2.0-draft" "increment"
          (func $increment (param i32 i32 i32 i64 i32)))
        (data (i32.const 256) "carts")
        (data (i32.const 264) "other")
        (func $letter (param $from i32) (param $number i32)
          (i32.store8 (i32.const 600) (i32.add (local.get $from) (local.get $number)))
          (call $say (i32.const 600) (i32.const 1)))
        ;; Whether the last answer, whose payload is so far behind it, is an error; says which.
        (func $failed (param $behind i32) (result i32)
          (if (i32.eqz (i32.load8_u (i32.const 512))) (then (return (i32.const 0))))
          (call $letter (i32.const 65)
            (i32.load8_u (i32.add (i32.const 512) (local.get $behind))))
          (i32.const 1))"#;
    let ask = r"
        (local $what i32) (local $key i32) (local $len i32) (local $bucket i32)
        (local.set $what (i32.load8_u (i32.load offset=52 (local.get $event))))
        (local.set $key (i32.add (i32.load offset=52 (local.get $event)) (i32.const 1)))
        (local.set $len (i32.sub (i32.load offset=56 (local.get $event)) (i32.const 1)))
        (call $open
          (select (i32.const 264) (i32.const 256) (i32.eq (local.get $what) (i32.const 111)))
          (i32.const 5) (i32.const 512))
        (if (call $failed (i32.const 4)) (then (return)))
        (local.set $bucket (i32.load (i32.const 516)))
        (if (i32.eq (local.get $what) (i32.const 105)) (then
          (call $increment (local.get $bucket) (local.get $key) (local.get $len) (i64.const 2)
            (i32.const 512))
          (if (call $failed (i32.const 8)) (then (return)))
          (return)))
        (if (i32.eq (local.get $what) (i32.const 119)) (then
          (call $set (local.get $bucket) (local.get $key) (local.get $len)
            (local.get $key) (local.get $len) (i32.const 512))
          (if (call $failed (i32.const 4)) (then (return)))
          (call $get (local.get $bucket) (local.get $key) (local.get $len) (i32.const 512))
          (if (call $failed (i32.const 4)) (then (return)))
          (call $say (i32.load (i32.const 520)) (i32.load (i32.const 524)))
          (return)))
        (if (i32.eq (local.get $what) (i32.const 100)) (then
          (call $delete (local.get $bucket) (local.get $key) (local.get $len) (i32.const 512))
          (if (call $failed (i32.const 4)) (then (return)))
          (call $exists (local.get $bucket) (local.get $key) (local.get $len) (i32.const 512))
          (if (call $failed (i32.const 4)) (then (return)))
          (call $letter (i32.const 48) (i32.load8_u (i32.const 516)))
          (return)))
        (call $list (local.get $bucket) (i32.const 0) (i64.const 0) (i32.const 512))
        (if (call $failed (i32.const 8)) (then (return)))
        (call $letter (i32.const 48) (i32.load (i32.const 524)))";
    component(&asking(import, ask), "keeper", PACKAGE)
}

const BODY: &str = r"
functions:
  f: { run: f.wasm, allow: { kv: carts } }
bindings:
  - { subject: in.f, function: f, publish: out.f, concurrency: 8 }
";

fn site() -> Site {
    let site = Site::with(BODY);
    site.file("f.wasm", keeper());
    site
}

async fn bucket(server: &NatsServer, name: &str) -> kv::Store {
    let config = kv::Config { bucket: name.to_owned(), ..kv::Config::default() };
    server.streams().await.js.create_key_value(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_keeps_values_in_the_bucket_it_is_granted() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let (carts, _other) = (bucket(&server, "carts").await, bucket(&server, "other").await);
    carts.put("word", "no number".into()).await.unwrap();
    let site = site();
    let _runner = Runner::start(&site, &server).await;
    let mut outputs = 0;
    let mut said = async |event: &str| {
        outputs += 1;
        streams.send("in.f", event).await;
        streams.wait_count("OUT", outputs).await;
        streams.texts("OUT").await.pop().unwrap()
    };
    assert_eq!(said("wbasket/1").await, "basket/1", "it reads what it wrote");
    assert_eq!(&carts.get("basket/1").await.unwrap().unwrap()[..], b"basket/1");
    assert_eq!(said("l").await, "2", "keys");
    assert_eq!(said("dbasket/1").await, "0", "it is gone");
    assert_eq!(carts.get("basket/1").await.unwrap(), None);
    assert_eq!(said("dbasket/1").await, "0", "and may be deleted again");
    assert_eq!(said("l").await, "1", "key");
    assert_eq!(said("o").await, "B", "access-denied");
    assert_eq!(said("wno key").await, "C", "other");
    assert_eq!(said("iword").await, "C", "other");
    // In eight slots at once, each by two.
    streams.send_many(200, |_| ("in.f".to_owned(), "icount".to_owned())).await;
    streams.wait_settled("t-f").await;
    assert_eq!(&carts.get("count").await.unwrap().unwrap()[..], b"400");
    assert_eq!(streams.count("T_DLQ").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_until_the_bucket_is_there() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site();
    let runner = Runner::start(&site, &server).await;
    streams.send("in.f", "whello").await;
    eventually("it says what is missing", async || {
        let log = runner.log();
        log.contains("there is no key-value bucket `carts`: create it with `nats kv add carts`")
            .then_some(())
    })
    .await;
    bucket(&server, "carts").await;
    streams.wait_count("OUT", 1).await;
    assert_eq!(streams.texts("OUT").await, ["hello"]);
    assert_eq!(streams.count("T_DLQ").await, 0);
}

#[test]
fn without_nats_there_is_no_bucket() {
    let site = site();
    let nats = [("NATS_URL", Path::new("nats://nowhere.invalid"))];
    let pelton = |arguments: &[&str]| pelton_with(site.dir(), arguments, &nats);
    let said = pelton(&["invoke", "f", "l"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.contains("there are none without NATS"), "{text}");
    let ungranted = BODY.replace(", allow: { kv: carts }", "");
    site.manifest(&ungranted);
    let said = pelton(&["lint"]);
    let text = String::from_utf8_lossy(&said.stdout);
    let import = "imports `wasi:keyvalue/store@0.2.0-draft`, which is not granted";
    assert!(text.contains(import) && text.contains("`allow: {kv: […]}`"), "{text}");
    // A grant that is not asked for needs no bucket either.
    site.manifest(BODY);
    fs::copy(super::super::components::conform(), site.path("f.wasm")).unwrap();
    let said = pelton(&["invoke", "f", "hello", "--subject", "echo"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(text.contains("hello"), "{text}");
}
