//! How fast Pelton is, beside what its users would write or run instead. Contenders run in turn, round
//! after round, each in processes of its own, against one private nats-server (file storage, one
//! replica): what a shared machine does to one it does to the others. Quote the ratios.
//!
//! `make bench` runs it; `QUICK=1` makes it short, `ONLY=consume` runs one part: a workload, `latency`,
//! `growth`, `runtimes`, `wasm` or `footprint`. `WITH=python,faststream` leaves of a workload the bare loop
//! and these. `FULL=1` makes the backlog of `growth` ten million long.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    dead_code,
    unused_imports,
    reason = "a benchmark that cannot go on panics; it uses a part of the tests' harness"
)]

mod bench;
mod chart;
mod contender;
mod figures;
#[cfg(feature = "wasm")]
mod footprint;
mod generator;
mod growth;
mod guard;
mod latency;
mod loops;
mod native;
mod processes;
mod runtimes;
#[cfg(feature = "wasm")]
mod wasm;
#[cfg(feature = "wasm")]
mod wasmtime_alone;
mod watch;
mod workload;
#[path = "../it"]
mod it {
    pub(crate) mod harness;
}
#[path = "../it/runtime/components.rs"]
mod components;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use pelton::runtime::launch;

use self::{bench::Bench, figures::Scale};

// What the program has, for the bare loop as well: it is faster with it, too.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // Workers of functions are started by executing this program once more.
    launch::intercept();
    let guards = env::var_os("GUARD").is_some();
    if guards {
        guard::keep_to_few_cores();
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match env::var("CONTENDER").as_deref() {
        Ok("bare") => runtime.block_on(loops::run(false)),
        Ok("bare, ids") => runtime.block_on(loops::run(true)),
        Ok("native") => runtime.block_on(native::run()),
        _ if guards => runtime.block_on(guard::run()),
        _ => runtime.block_on(measure()),
    }
}

async fn measure() {
    let scale = Scale::from_env();
    let only = env::var("ONLY").ok().filter(|only| !only.is_empty());
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let chosen: Vec<_> = workload::all().into_iter().filter(|one| wanted(one.name)).collect();
    let mut ran = !chosen.is_empty();
    if !chosen.is_empty() {
        workload::run(&chosen, scale).await;
    }
    if wanted("latency") {
        latency::run(scale).await;
        ran = true;
    }
    // The rest takes its time.
    let long = scale == Scale::Whole || only.is_some();
    if long && wanted("growth") {
        growth::run(scale).await;
        ran = true;
    }
    if long && wanted("runtimes") {
        runtimes::run().await;
        ran = true;
    }
    #[cfg(feature = "wasm")]
    if long && wanted("wasm") {
        wasm::run(scale).await;
        ran = true;
    }
    #[cfg(feature = "wasm")]
    if long && wanted("footprint") {
        footprint::run().await;
        ran = true;
    }
    assert!(ran, "ONLY={} names nothing; see tests/bench/main.rs", only.unwrap_or_default());
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}
