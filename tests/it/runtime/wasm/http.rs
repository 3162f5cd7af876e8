//! Components that call servers.

use std::{fs, path::PathBuf};

use pelton::{
    handler::Fault,
    manifest::{Allow, Component, Function, HttpOrigin, Instances, Runtime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use super::{
    super::{
        call,
        components::{component, write},
        done, folder, function, handler,
        http::{Server, connections::issue},
        plain,
    },
    MANIFEST, asking, pelton, pelton_with,
};

/// What `wasi:http` is to the component below: of the standard, what it needs.
const PACKAGE: &str = r#"
    package test:it;
    world caller {
        import wasi:http/types@0.2.0;
        import wasi:http/outgoing-handler@0.2.0;
        import wasi:io/poll@0.2.0;
        import wasi:io/streams@0.2.0;
        export pelton:event/handler@0.1.0;
    }
    package wasi:io@0.2.0 {
        interface poll { resource pollable { block: func(); } }
        interface error { resource error {} }
        interface streams {
            use error.{error};
            variant stream-error { last-operation-failed(error), closed }
            resource input-stream {
                blocking-read: func(len: u64) -> result<list<u8>, stream-error>;
            }
        }
    }
    package wasi:http@0.2.0 {
        interface types {
            use wasi:io/poll@0.2.0.{pollable};
            use wasi:io/streams@0.2.0.{input-stream};
            variant method {
                get, head, post, put, delete, connect, options, trace, patch, other(string),
            }
            variant scheme { HTTP, HTTPS, other(string) }
            record DNS-error-payload { rcode: option<string>, info-code: option<u16> }
            record TLS-alert-received-payload {
                alert-id: option<u8>, alert-message: option<string>,
            }
            record field-size-payload { field-name: option<string>, field-size: option<u32> }
            variant error-code {
                DNS-timeout, DNS-error(DNS-error-payload), destination-not-found,
                destination-unavailable, destination-IP-prohibited, destination-IP-unroutable,
                connection-refused, connection-terminated, connection-timeout,
                connection-read-timeout, connection-write-timeout, connection-limit-reached,
                TLS-protocol-error, TLS-certificate-error,
                TLS-alert-received(TLS-alert-received-payload), HTTP-request-denied,
                HTTP-request-length-required, HTTP-request-body-size(option<u64>),
                HTTP-request-method-invalid, HTTP-request-URI-invalid, HTTP-request-URI-too-long,
                HTTP-request-header-section-size(option<u32>),
                HTTP-request-header-size(option<field-size-payload>),
                HTTP-request-trailer-section-size(option<u32>),
                HTTP-request-trailer-size(field-size-payload), HTTP-response-incomplete,
                HTTP-response-header-section-size(option<u32>),
                HTTP-response-header-size(field-size-payload),
                HTTP-response-body-size(option<u64>),
                HTTP-response-trailer-section-size(option<u32>),
                HTTP-response-trailer-size(field-size-payload),
                HTTP-response-transfer-coding(option<string>),
                HTTP-response-content-coding(option<string>), HTTP-response-timeout,
                HTTP-upgrade-failed, HTTP-protocol-error, loop-detected, configuration-error,
                internal-error(option<string>),
            }
            resource fields { constructor(); }
            resource outgoing-request {
                constructor(headers: fields);
                set-scheme: func(scheme: option<scheme>) -> result;
                set-authority: func(authority: option<string>) -> result;
                set-path-with-query: func(path-with-query: option<string>) -> result;
            }
            resource request-options {}
            resource incoming-response { consume: func() -> result<incoming-body>; }
            resource incoming-body { %stream: func() -> result<input-stream>; }
            resource future-incoming-response {
                subscribe: func() -> pollable;
                get: func() -> option<result<result<incoming-response, error-code>>>;
            }
        }
        interface outgoing-handler {
            use types.{outgoing-request, request-options, future-incoming-response, error-code};
            handle: func(request: outgoing-request, options: option<request-options>)
                -> result<future-incoming-response, error-code>;
        }
    }
"#;

/// A component that gets `/` of the authority its event names, over TLS when the subject starts
/// with a `t`, and says the body of the answer, or the number of the error as a letter from A.
fn caller() -> Vec<u8> {
    let import = r#"
        (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
        (import "wasi:http/types@0.2.0" "[constructor]outgoing-request"
          (func $request (param i32) (result i32)))
        (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-scheme"
          (func $scheme (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-authority"
          (func $authority (param i32 i32 i32 i32) (result i32)))
        (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-path-with-query"
          (func $path (param i32 i32 i32 i32) (result i32)))
        (import "wasi:http/types@0.2.0" "[method]future-incoming-response.subscribe"
          (func $subscribe (param i32) (result i32)))
        (import "wasi:http/types@0.2.0" "[method]future-incoming-response.get"
          (func $get (param i32 i32)))
        (import "wasi:http/types@0.2.0" "[method]incoming-response.consume"
          (func $consume (param i32 i32)))
        (import "wasi:http/types@0.2.0" "[method]incoming-body.stream"
          (func $stream (param i32 i32)))
        (import "wasi:http/outgoing-handler@0.2.0" "handle"
          (func $handle (param i32 i32 i32 i32)))
        (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
        (import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read"
          (func $read (param i32 i64 i32)))
        (data (i32.const 256) "/")
    "#;
    let ask = r"
        (local $request i32) (local $answer i32)
        (local.set $request (call $request (call $fields)))
        (drop (call $scheme (local.get $request) (i32.const 1)
          (i32.eq (i32.load8_u (i32.load offset=24 (local.get $event))) (i32.const 116))
          (i32.const 0) (i32.const 0)))
        (if (call $authority (local.get $request) (i32.const 1)
            (i32.load offset=52 (local.get $event)) (i32.load offset=56 (local.get $event)))
          (then unreachable))
        (drop (call $path (local.get $request) (i32.const 1) (i32.const 256) (i32.const 1)))
        (call $handle (local.get $request) (i32.const 0) (i32.const 0) (i32.const 512))
        (if (i32.load8_u (i32.const 512)) (then unreachable))
        (local.set $answer (i32.load (i32.const 520)))
        (call $block (call $subscribe (local.get $answer)))
        (call $get (local.get $answer) (i32.const 512))
        (if (i32.load8_u (i32.const 528))
          (then
            (i32.store8 (i32.const 600)
              (i32.add (i32.const 65) (i32.load8_u (i32.const 536))))
            (call $say (i32.const 600) (i32.const 1))
            (return)))
        (call $consume (i32.load (i32.const 536)) (i32.const 512))
        (call $stream (i32.load (i32.const 516)) (i32.const 512))
        (call $read (i32.load (i32.const 516)) (i64.const 1000) (i32.const 512))
        (call $say (i32.load (i32.const 516)) (i32.load (i32.const 520)))";
    component(&asking(import, ask), "caller", PACKAGE)
}

/// `HTTP-request-denied`, as the component says it.
const DENIED: &str = "P";

fn granted(file: PathBuf, origins: &[String]) -> Function {
    let http = origins.iter().map(|origin| HttpOrigin::parse(origin).unwrap()).collect();
    let allow = Allow { http, ..Allow::default() };
    function(Runtime::Wasm(Component { file, allow, instances: Instances::Fresh }))
}

/// A server on a port of its own that answers every request with `paid`; its address, and the
/// heads of the requests it got.
async fn bank() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (heads, asked) = mpsc::channel(100);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let heads = heads.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                heads.send(String::from_utf8(head).unwrap()).await.unwrap();
                let answer =
                    b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\npaid";
                socket.write_all(answer).await.unwrap();
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_component_calls_the_servers_it_is_granted_and_no_others() {
    let ((bank, mut asked), (other, mut unasked)) = (bank().await, bank().await);
    let file = write(&caller());
    let handler = handler(&granted(file.clone(), &[format!("http://{bank}")]), 4);
    let said = async |subject, authority: &str| {
        plain(handler.call(call(subject, authority.to_owned())).await)
    };
    assert_eq!(said("plain", &bank).await, done(&["paid"]));
    let head = asked.recv().await.unwrap();
    assert!(head.starts_with("GET / HTTP/1.1\r\n") && head.contains(&bank), "{head}");
    assert_eq!(said("plain", &other).await, done(&[DENIED]), "another port");
    assert_eq!(said("tls", &bank).await, done(&[DENIED]), "another scheme");
    let (_, port) = bank.split_once(':').unwrap();
    assert_eq!(said("plain", &format!("localhost:{port}")).await, done(&[DENIED]), "another name");
    assert!(asked.try_recv().is_err() && unasked.try_recv().is_err(), "nobody else was asked");
    handler.stop().await;
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_to_the_component() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Server::python();
    let plain_text = format!("127.0.0.1:{}", server.port);
    let origins = [format!("http://{gone}"), plain_text.clone()];
    let handler = handler(&granted(write(&caller()), &origins), 1);
    let refused = plain(handler.call(call("plain", gone.to_string())).await);
    assert_eq!(refused, done(&["G"]), "connection-refused");
    let no_tls = plain(handler.call(call("tls", plain_text)).await);
    assert_eq!(no_tls, done(&["M"]), "TLS-protocol-error");
}

#[tokio::test]
async fn over_tls_a_component_trusts_whom_the_system_trusts() {
    let issued = issue();
    let server = Server::node(&[&issued.key, &issued.certificate]);
    let address = format!("127.0.0.1:{}", server.port);
    let (folder, bytes) = (folder(), caller());
    let handler = handler(&granted(write(&bytes), std::slice::from_ref(&address)), 1);
    let unknown = plain(handler.call(call("tls", address.clone())).await);
    assert_eq!(unknown, done(&["N"]), "TLS-certificate-error");
    fs::write(folder.join("f.wasm"), &bytes).unwrap();
    let manifest = MANIFEST.replace("env: [GREETING]", &format!("http: '{address}'"));
    fs::write(folder.join("pelton.yaml"), manifest).unwrap();
    let ca = [("SSL_CERT_FILE", issued.ca.as_path())];
    let said = pelton_with(&folder, &["invoke", "f", &address, "--subject", "tls"], &ca);
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(text.contains("\n    2.0 \n"), "{text}");
}

#[tokio::test]
async fn an_import_without_its_grant_is_named_and_a_grant_without_its_import_is_none() {
    let bytes = caller();
    let none = handler(&granted(write(&bytes), &[]), 1);
    match none.start().await {
        Err(Fault::Unavailable(why)) => {
            assert!(why.contains("imports `wasi:http/outgoing-handler@0.2.0`"), "{why}");
            assert!(why.contains("`allow: {http: […]}`"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    let folder = folder();
    fs::write(folder.join("f.wasm"), &bytes).unwrap();
    let manifest = MANIFEST.replace("env: [GREETING]", "http: [api.example.com]");
    fs::write(folder.join("pelton.yaml"), &manifest).unwrap();
    let said = pelton(&folder, &["lint"]);
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stdout));
    fs::write(folder.join("pelton.yaml"), MANIFEST).unwrap();
    let said = pelton(&folder, &["lint"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.contains("`wasi:http/outgoing-handler@0.2.0`, which is not granted"), "{text}");
    fs::copy(super::super::components::conform(), folder.join("f.wasm")).unwrap();
    fs::write(folder.join("pelton.yaml"), manifest).unwrap();
    let said = pelton(&folder, &["lint"]);
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stdout));
}
