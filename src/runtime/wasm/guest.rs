//! What a running component may reach: its log, its configuration, and of WASI what is granted.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use thiserror::Error;
use tokio::io::AsyncWrite;
use tracing::{debug, error, info, warn};
use wasmtime::{ResourceLimiter, component::ResourceTable};
use wasmtime_wasi::{
    FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::world::pelton::event::{config, log};
use crate::{event::EventId, manifest::size};

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

/// The most that one call may log.
const LOG_MAX: usize = 64 * 1024;
/// The longest line.
const LINE_MAX: usize = 16 * 1024;
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
    wasi: Option<(WasiCtx, ResourceTable)>,
}

impl Guest {
    pub(super) fn new(spec: &Arc<Spec>, event: EventId) -> Self {
        let out = Output {
            function: spec.function.clone(),
            event: Mutex::new(event),
            room: AtomicUsize::new(LOG_MAX),
        };
        Self {
            spec: Arc::clone(spec),
            out: Arc::new(out),
            memory: Memory { limit: spec.memory_limit, used: 0 },
            wasi: None,
        }
    }

    /// Another call begins in the same instance.
    pub(super) fn begin(&mut self, event: EventId) {
        *self.out.event.lock().unwrap_or_else(PoisonError::into_inner) = event;
        self.out.room.store(LOG_MAX, Ordering::Relaxed);
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
        let (ctx, table) = self.wasi.get_or_insert_with(|| {
            let mut table = ResourceTable::new();
            table.set_max_capacity(HANDLES_MAX);
            (wasi(&self.spec, &self.out), table)
        });
        WasiCtxView { ctx, table }
    }
}

/// Nothing but clocks and random numbers, what is granted, and standard output as log lines.
fn wasi(spec: &Spec, out: &Arc<Output>) -> WasiCtx {
    let mut builder = WasiCtxBuilder::new();
    builder
        .arg(&spec.function)
        .max_random_size(RANDOM_MAX)
        .stdout(Stream { out: Arc::clone(out), level: log::Level::Info })
        .stderr(Stream { out: Arc::clone(out), level: log::Level::Info });
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

/// Where the lines of an instance go.
struct Output {
    function: String,
    event: Mutex<EventId>,
    /// What the call may still say, in bytes.
    room: AtomicUsize,
}

impl Output {
    fn line(&self, level: log::Level, line: &str) {
        let line = crate::settle::cut(line.trim_end(), LINE_MAX);
        if line.is_empty() {
            return;
        }
        let function = self.function.as_str();
        let event = self.event.lock().unwrap_or_else(PoisonError::into_inner).to_string();
        let room = self.room.load(Ordering::Relaxed);
        if room < line.len() {
            if room > 0 {
                self.room.store(0, Ordering::Relaxed);
                warn!(function, event, "a function says more than is logged of one call");
            }
            return;
        }
        self.room.store(room - line.len(), Ordering::Relaxed);
        match level {
            log::Level::Error => error!(target: "function", function, event, "{line}"),
            log::Level::Warn => warn!(target: "function", function, event, "{line}"),
            log::Level::Info => info!(target: "function", function, event, "{line}"),
            log::Level::Debug => debug!(target: "function", function, event, "{line}"),
        }
    }
}

/// Standard output or standard error.
struct Stream {
    out: Arc<Output>,
    level: log::Level,
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines { out: Arc::clone(&self.out), level: self.level, line: Vec::new() })
    }
}

/// Cuts what is written into lines.
struct Lines {
    out: Arc<Output>,
    level: log::Level,
    line: Vec<u8>,
}

impl Lines {
    fn end(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.out.line(self.level, &String::from_utf8_lossy(&line));
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end();
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LINE_MAX {
                self.end();
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_MAX)
    }
}
