//! Many calls at once: the places to run in, and who gets them.

use std::path::PathBuf;

use futures_util::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use pelton::handler::{BoxFuture, Call, Fault, Handler, Reply};
use tokio::task::unconstrained;

use super::{
    super::{
        LONG, SHORT, call,
        components::{component, conform, write},
        handler, plain,
    },
    asking, calls, wasm,
};

/// More than there are places.
const MANY: usize = 1000;

/// A component that waits for an hour, without computing.
fn waiting() -> PathBuf {
    let package = r#"
        package test:it;
        world waiting {
            import wasi:clocks/monotonic-clock@0.2.0;
            import wasi:io/poll@0.2.0;
            export pelton:event/handler@0.1.0;
        }
        package wasi:io@0.2.0 {
            interface poll { resource pollable { block: func(); } }
        }
        package wasi:clocks@0.2.0 {
            interface monotonic-clock {
                use wasi:io/poll@0.2.0.{pollable};
                subscribe-duration: func(when: u64) -> pollable;
            }
        }
    "#;
    let import = r#"
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration"
          (func $after (param i64) (result i32)))
        (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#;
    let ask = "(call $block (call $after (i64.const 3600000000000)))";
    write(&component(&asking(import, ask), "waiting", package))
}

/// Calls that are stuck for an hour, each begun as far as there is room for it: they hold all that
/// their function can get.
fn stuck(handler: &dyn Handler) -> FuturesUnordered<BoxFuture<'_, Result<Reply, Fault>>> {
    let hang = || handler.call(Call { timeout: LONG * 60, ..call("hang", "") });
    let mut stuck: FuturesUnordered<_> = (0..MANY).map(|_| hang()).collect();
    assert!(still(&mut stuck), "one is over");
    stuck
}

/// Polls each call, without regard to what else there is to do; whether none is over.
fn still(stuck: &mut FuturesUnordered<BoxFuture<'_, Result<Reply, Fault>>>) -> bool {
    // It looks at a part of them each time.
    (0..MANY).all(|_| unconstrained(stuck.next()).now_or_never().is_none())
}

#[tokio::test]
async fn many_more_calls_than_instances_all_run() {
    let handler = handler(&wasm(conform()), MANY);
    let said = join_all((0..MANY).map(|_| handler.call(call("calls", "")))).await;
    assert!(said.into_iter().all(|said| plain(said) == calls(1)));
}

#[tokio::test]
async fn a_stuck_function_holds_up_no_other() {
    let waiting = handler(&wasm(waiting()), MANY);
    waiting.start().await.unwrap();
    let mut stuck = stuck(&*waiting);
    let others = [handler(&wasm(conform()), 4), handler(&wasm(conform()), MANY)];
    for other in others {
        let said = join_all((0..50).map(|_| other.call(call("calls", ""))));
        let said = tokio::time::timeout(LONG, said).await.expect("they wait for the stuck ones");
        assert!(said.into_iter().all(|said| plain(said) == calls(1)));
    }
    assert!(still(&mut stuck));
}

#[tokio::test]
async fn the_time_that_a_call_waits_for_its_place_does_not_count() {
    let handler = handler(&wasm(waiting()), MANY);
    handler.start().await.unwrap();
    let stuck = stuck(&*handler);
    let mut late = handler.call(Call { timeout: SHORT, ..call("hang", "") });
    assert!(tokio::time::timeout(SHORT * 3, &mut late).await.is_err(), "it waits for a place");
    drop(stuck);
    // Now it runs, and its time is up.
    assert_eq!(late.await, Err(Fault::Timeout(SHORT)));
}
