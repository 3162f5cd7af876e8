//! What a running component may reach: its log, its configuration, and of WASI what is granted.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use thiserror::Error;
use tracing::warn;
use wasmtime::{ResourceLimiter, component::ResourceTable};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{
    keyvalue,
    outgoing::{Hooks, Outgoing},
    output::{Output, Stream},
    world::pelton::event::{config, log},
};
use crate::{manifest::size, runtime::logs::About};

/// What the instances of a function have in common.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) function: String,
    /// What `pelton:event/config` and the environment say.
    pub(super) config: BTreeMap<String, String>,
    /// Folders that may be read: as the component names them, and where they are.
    pub(super) dirs: Vec<(String, PathBuf)>,
    pub(super) memory_limit: u64,
}

/// What they reach outside, once it is there.
#[derive(Default)]
pub(super) struct Reach {
    pub(super) http: Option<Arc<Outgoing>>,
    pub(super) buckets: keyvalue::Granted,
}

/// Handles of WASI that one instance may hold.
const HANDLES_MAX: usize = 1000;
/// The most random bytes in one request.
const RANDOM_MAX: u64 = 64 * 1024;

/// The data of one instance's store.
pub(super) struct Guest {
    spec: Arc<Spec>,
    out: Arc<Output>,
    pub(super) memory: Memory,
    /// Made when it is first asked for: many components never do.
    wasi: Option<Wasi>,
    pub(super) reach: Arc<Reach>,
}

struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Hooks,
}

impl Guest {
    pub(super) fn new(spec: &Arc<Spec>, reach: &Arc<Reach>, about: About) -> Self {
        Self {
            spec: Arc::clone(spec),
            out: Arc::new(Output::new(&spec.function, about)),
            memory: Memory { limit: spec.memory_limit, used: 0 },
            wasi: None,
            reach: Arc::clone(reach),
        }
    }

    /// Another call begins in the same instance.
    pub(super) fn begin(&mut self, about: About) {
        self.out.begin(about);
    }

    fn wasi(&mut self) -> &mut Wasi {
        self.wasi.get_or_insert_with(|| {
            let mut table = ResourceTable::new();
            table.set_max_capacity(HANDLES_MAX);
            Wasi {
                ctx: wasi(&self.spec, &self.out),
                table,
                http: WasiHttpCtx::new(),
                hooks: Hooks(self.reach.http.clone()),
            }
        })
    }

    /// A call is over, and the instance lives on.
    pub(super) fn end(&mut self) {
        self.out.end();
    }
}

impl log::Host for Guest {
    fn log(&mut self, level: log::Level, message: String) {
        self.out.line(level, &message);
    }
}

impl config::Host for Guest {
    fn get(&mut self, name: String) -> Option<String> {
        self.spec.config.get(&name).cloned()
    }

    fn all(&mut self) -> Vec<(String, String)> {
        self.spec.config.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Wasi { ctx, table, .. } = self.wasi();
        WasiCtxView { ctx, table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Wasi { table, http, hooks, .. } = self.wasi();
        WasiHttpCtxView { hooks, table, ctx: http }
    }
}

/// Nothing but clocks and random numbers, what is granted, and standard output as log lines.
fn wasi(spec: &Spec, out: &Arc<Output>) -> WasiCtx {
    let mut builder = WasiCtxBuilder::new();
    builder
        .arg(&spec.function)
        .max_random_size(RANDOM_MAX)
        .stdout(Stream::out(out))
        .stderr(Stream::err(out));
    for (name, value) in &spec.config {
        builder.env(name, value);
    }
    for (name, folder) in &spec.dirs {
        if let Err(err) = builder.preopened_dir(folder, name, FsPerms::ReadOnly) {
            warn!(function = spec.function, folder = %folder.display(), %err, "a folder is missing");
        }
    }
    builder.build()
}

/// Holds an instance to its function's `memory_limit`, all its memories together.
pub(super) struct Memory {
    limit: u64,
    used: u64,
}

/// An instance wants more memory than its function may have.
#[derive(Debug, Error)]
#[error("more memory than `memory_limit` allows ({})", size::show(*.0))]
pub(super) struct OverLimit(u64);

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let used = self.used.saturating_add(more);
        if used > self.limit {
            // Ended at once: a guest that is told no may well ask again for ever.
            return Err(OverLimit(self.limit).into());
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        _desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // The pool bounds tables.
        Ok(true)
    }
}
