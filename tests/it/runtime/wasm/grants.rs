//! What a component reaches: what it is granted, and nothing else.

use std::{fs, path::PathBuf};

use pelton::{
    handler::Fault,
    manifest::{Allow, Component, Instances, Runtime},
};

use super::{
    super::{
        call,
        components::{component, write},
        done, folder, function, handler, plain,
    },
    asking, wasm,
};

/// A component that says the name of the first folder it has.
fn folders() -> PathBuf {
    let package = r#"
        package test:it;
        world folders {
            import wasi:filesystem/preopens@0.2.0;
            export pelton:event/handler@0.1.0;
        }
        package wasi:filesystem@0.2.0 {
            interface types { resource descriptor {} }
            interface preopens {
                use types.{descriptor};
                get-directories: func() -> list<tuple<descriptor, string>>;
            }
        }
    "#;
    let import = r#"(import "wasi:filesystem/preopens@0.2.0" "get-directories"
                      (func $get (param i32)))"#;
    let ask = r"
        (call $get (i32.const 512))
        (if (i32.load (i32.const 516)) (then (call $say
          (i32.load offset=4 (i32.load (i32.const 512)))
          (i32.load offset=8 (i32.load (i32.const 512))))))";
    write(&component(&asking(import, ask), "folders", package))
}

#[tokio::test]
async fn a_component_has_no_folder_but_those_it_is_given() {
    let file = folders();
    let none = handler(&wasm(file.clone()), 1);
    assert_eq!(none.call(call("", "")).await, done(&[]));
    let dirs = vec![("data".to_owned(), folder())];
    let allow = Allow { dirs, ..Allow::default() };
    let component = Component { file, allow, instances: Instances::Fresh };
    let given = handler(&function(Runtime::Wasm(component.clone())), 1);
    assert_eq!(plain(given.call(call("", "")).await), done(&["data"]));
    let gone = vec![("gone".to_owned(), folder().join("gone"))];
    let allow = Allow { dirs: gone, ..Allow::default() };
    let gone = handler(&function(Runtime::Wasm(Component { allow, ..component })), 1);
    let said = gone.start().await;
    assert!(matches!(&said, Err(Fault::Unavailable(why)) if why.contains("`gone`")), "{said:?}");
}

#[tokio::test]
async fn a_component_opens_no_socket() {
    let package = r#"
        package test:it;
        world sockets {
            import wasi:sockets/tcp-create-socket@0.2.0;
            export pelton:event/handler@0.1.0;
        }
        package wasi:sockets@0.2.0 {
            interface network {
                enum ip-address-family { ipv4, ipv6 }
                enum error-code {
                    unknown, access-denied, not-supported, invalid-argument, out-of-memory,
                    timeout, concurrency-conflict, not-in-progress, would-block, invalid-state,
                    new-socket-limit, address-not-bindable, address-in-use, remote-unreachable,
                    connection-refused, connection-reset, connection-aborted, datagram-too-large,
                    name-unresolvable, temporary-resolver-failure, permanent-resolver-failure,
                }
            }
            interface tcp { resource tcp-socket {} }
            interface tcp-create-socket {
                use network.{ip-address-family, error-code};
                use tcp.{tcp-socket};
                create-tcp-socket: func(family: ip-address-family)
                    -> result<tcp-socket, error-code>;
            }
        }
    "#;
    let import = r#"(import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket"
                      (func $create (param i32 i32)))"#;
    // Says whether it failed and with which error, as two digits.
    let ask = r"
        (call $create (i32.const 0) (i32.const 512))
        (i32.store8 (i32.const 520) (i32.add (i32.const 48) (i32.load8_u (i32.const 512))))
        (i32.store8 (i32.const 521) (i32.add (i32.const 48) (i32.load8_u (i32.const 516))))
        (call $say (i32.const 520) (i32.const 2))";
    let handler = handler(&wasm(write(&component(&asking(import, ask), "sockets", package))), 1);
    assert_eq!(plain(handler.call(call("", "")).await), done(&["11"]), "access denied");
}

/// A component that opens the file its event names in the first folder it has, to write when the
/// subject starts with a `w`, and says what it reads, or the number of the error as a letter from A.
fn files() -> PathBuf {
    let package = r#"
        package test:it;
        world files {
            import wasi:filesystem/preopens@0.2.0;
            export pelton:event/handler@0.1.0;
        }
        package wasi:filesystem@0.2.0 {
            interface types {
                enum error-code {
                    access, would-block, already, bad-descriptor, busy, deadlock, quota, exist,
                    file-too-large, illegal-byte-sequence, in-progress, interrupted, invalid, io,
                    is-directory, loop, too-many-links, message-size, name-too-long, no-device,
                    no-entry, no-lock, insufficient-memory, insufficient-space, not-directory,
                    not-empty, not-recoverable, unsupported, no-tty, no-such-device, overflow,
                    not-permitted, pipe, read-only, invalid-seek, text-file-busy, cross-device,
                }
                flags path-flags { symlink-follow }
                flags open-flags { create, directory, exclusive, truncate }
                flags descriptor-flags {
                    read, write, file-integrity-sync, data-integrity-sync, requested-write-sync,
                    mutate-directory,
                }
                resource descriptor {
                    open-at: func(
                        path-flags: path-flags, path: string, open-flags: open-flags,
                        %flags: descriptor-flags,
                    ) -> result<descriptor, error-code>;
                    read: func(length: u64, offset: u64)
                        -> result<tuple<list<u8>, bool>, error-code>;
                }
            }
            interface preopens {
                use types.{descriptor};
                get-directories: func() -> list<tuple<descriptor, string>>;
            }
        }
    "#;
    let import = r#"
        (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $get (param i32)))
        (import "wasi:filesystem/types@0.2.0" "[method]descriptor.open-at"
          (func $open (param i32 i32 i32 i32 i32 i32 i32)))
        (import "wasi:filesystem/types@0.2.0" "[method]descriptor.read"
          (func $read (param i32 i64 i64 i32)))
        (func $failed (result i32)
          (if (i32.eqz (i32.load8_u (i32.const 520))) (then (return (i32.const 0))))
          (i32.store8 (i32.const 540)
            (i32.add (i32.const 65) (i32.load8_u (i32.const 524))))
          (call $say (i32.const 540) (i32.const 1))
          (i32.const 1))"#;
    let ask = r"
        (local $write i32)
        (local.set $write
          (i32.eq (i32.load8_u (i32.load offset=24 (local.get $event))) (i32.const 119)))
        (call $get (i32.const 512))
        (call $open (i32.load (i32.load (i32.const 512))) (i32.const 1)
          (i32.load offset=52 (local.get $event)) (i32.load offset=56 (local.get $event))
          (local.get $write) (i32.add (local.get $write) (i32.const 1)) (i32.const 520))
        (if (call $failed) (then (return)))
        (call $read (i32.load (i32.const 524)) (i64.const 100) (i64.const 0) (i32.const 520))
        (if (call $failed) (then (return)))
        (call $say (i32.load (i32.const 524)) (i32.load (i32.const 528)))";
    write(&component(&asking(import, ask), "files", package))
}

#[tokio::test]
async fn a_folder_that_is_granted_can_be_read_and_nothing_else() {
    let place = folder();
    let granted = place.join("granted");
    fs::create_dir(&granted).unwrap();
    fs::write(granted.join("rates.txt"), "7 percent").unwrap();
    fs::write(place.join("secret.txt"), "secret").unwrap();
    std::os::unix::fs::symlink(place.join("secret.txt"), granted.join("link.txt")).unwrap();
    let allow = Allow { dirs: vec![("data".to_owned(), granted.clone())], ..Allow::default() };
    let component = Component { file: files(), allow, instances: Instances::Fresh };
    let handler = handler(&function(Runtime::Wasm(component)), 1);
    let said =
        async |subject, path: &str| plain(handler.call(call(subject, path.to_owned())).await);
    assert_eq!(said("read", "rates.txt").await, done(&["7 percent"]));
    let not_permitted = done(&["`"]);
    assert_eq!(said("write", "rates.txt").await, not_permitted, "it may not write");
    assert_eq!(said("write", "new.txt").await, not_permitted, "nor make a file");
    for path in ["../secret.txt", "link.txt", "/etc/hostname"] {
        assert_eq!(said("read", path).await, not_permitted, "{path} lies outside");
    }
    assert!(!granted.join("new.txt").exists());
    assert_eq!(fs::read_to_string(granted.join("rates.txt")).unwrap(), "7 percent");
}
