//! What an instance prints and logs, as log lines with function and event.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tracing::{debug, error, info, warn};
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::world::pelton::event::log::Level;
use crate::runtime::logs::About;

/// The most that one call may log.
const LOG_MAX: usize = 64 * 1024;
/// The longest line.
const LINE_MAX: usize = 16 * 1024;

/// Where the lines of an instance go.
pub(super) struct Output {
    function: String,
    about: Mutex<About>,
    /// What the call may still say, in bytes.
    room: AtomicUsize,
    stdout: Line,
    stderr: Line,
}

/// A line that has begun. Not a stream's own: a guest may ask for a stream anew for every piece.
type Line = Mutex<Vec<u8>>;

impl Output {
    pub(super) fn new(function: &str, about: About) -> Self {
        Self {
            function: function.to_owned(),
            about: Mutex::new(about),
            room: AtomicUsize::new(LOG_MAX),
            stdout: Line::default(),
            stderr: Line::default(),
        }
    }

    /// Another call begins.
    pub(super) fn begin(&self, about: About) {
        *self.about.lock().unwrap_or_else(PoisonError::into_inner) = about;
        self.room.store(LOG_MAX, Ordering::Relaxed);
    }

    /// The call is over: what it began to say was all.
    pub(super) fn end(&self) {
        for line in [&self.stdout, &self.stderr] {
            self.finish(&mut line.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(super) fn line(&self, level: Level, line: &str) {
        let line = crate::settle::cut(line.trim_end(), LINE_MAX);
        if line.is_empty() {
            return;
        }
        let function = self.function.as_str();
        let About { event, trace_id } =
            self.about.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (event, trace_id) = (event.to_string(), trace_id.as_deref());
        let room = self.room.load(Ordering::Relaxed);
        if room < line.len() {
            if room > 0 {
                self.room.store(0, Ordering::Relaxed);
                warn!(function, event, trace_id, "a function says more than is logged of one call");
            }
            return;
        }
        self.room.store(room - line.len(), Ordering::Relaxed);
        match level {
            Level::Error => error!(target: "function", function, event, trace_id, "{line}"),
            Level::Warn => warn!(target: "function", function, event, trace_id, "{line}"),
            Level::Info => info!(target: "function", function, event, trace_id, "{line}"),
            Level::Debug => debug!(target: "function", function, event, trace_id, "{line}"),
        }
    }

    fn write(&self, line: &Line, bytes: &[u8]) {
        let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || line.len() >= LINE_MAX {
                self.finish(&mut line);
            }
        }
    }

    fn finish(&self, line: &mut Vec<u8>) {
        let line = std::mem::take(line);
        self.line(Level::Info, &String::from_utf8_lossy(&line));
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.end();
    }
}

/// Standard output or standard error.
#[derive(Clone)]
pub(super) struct Stream {
    out: Arc<Output>,
    line: fn(&Output) -> &Line,
}

impl Stream {
    pub(super) fn out(out: &Arc<Output>) -> Self {
        Self { out: Arc::clone(out), line: |out| &out.stdout }
    }

    pub(super) fn err(out: &Arc<Output>) -> Self {
        Self { out: Arc::clone(out), line: |out| &out.stderr }
    }
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
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.out.write((self.line)(&self.out), &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_MAX)
    }
}
