//! What functions print, line by line.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::event::{Event, EventId};

/// The longest line, in bytes; a longer one is shown in pieces.
const LINE_MAX: usize = 16 * 1024;
/// What is kept of standard error for the reason of a failure, in lines and bytes.
const TAIL_LINES: usize = 8;
const TAIL_BYTES: usize = 1024;
/// V8 says why it gives up in such a line, before a stack that is longer than what is kept.
const FATAL: &str = "FATAL ERROR: ";

/// What a line speaks of.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) event: EventId,
    pub(crate) trace_id: Option<String>,
}

impl From<&Event> for About {
    fn from(event: &Event) -> Self {
        Self { event: event.id.clone(), trace_id: event.trace_id().map(str::to_owned) }
    }
}

/// Hands every line to `show` until the end. A stream that cannot be read has ended.
pub(crate) async fn lines(mut stream: impl AsyncRead + Unpin, mut show: impl FnMut(&str)) {
    let mut buffer: Vec<u8> = Vec::with_capacity(LINE_MAX);
    loop {
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let mut shown = 0;
        while let Some(rest) = buffer.get(shown..)
            && let Some(end) = rest.iter().position(|byte| *byte == b'\n')
        {
            emit(rest.get(..end).unwrap_or_default(), &mut show);
            shown += end + 1;
        }
        buffer.drain(..shown);
        if buffer.len() >= LINE_MAX {
            emit(&buffer, &mut show);
            buffer.clear();
        }
    }
    if !buffer.is_empty() {
        emit(&buffer, &mut show);
    }
}

fn emit(line: &[u8], show: &mut impl FnMut(&str)) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if !text.is_empty() {
        show(text);
    }
}

/// The last lines of standard error; once there is a fatal one, that and the first behind it.
#[derive(Debug, Default)]
pub(crate) struct Tail(Mutex<VecDeque<String>>);

impl Tail {
    pub(crate) fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if line.starts_with(FATAL) {
            lines.clear();
        }
        if lines.len() == TAIL_LINES {
            if lines.front().is_some_and(|first| first.starts_with(FATAL)) {
                return;
            }
            lines.pop_front();
        }
        lines.push_back(crate::settle::cut(line, TAIL_BYTES).to_owned());
    }

    /// The line that starts with `token`, without it.
    pub(crate) fn after(&self, token: &str) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find_map(|line| line.strip_prefix(token)).map(str::to_owned)
    }

    pub(crate) fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).back().cloned()
    }

    /// The lines, `what` before them, as many of the last as fit.
    pub(crate) fn explain(&self, what: &str) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut room = TAIL_BYTES;
        let fits = |line: &&String| {
            let fits = line.len() <= room;
            room = room.saturating_sub(line.len());
            fits
        };
        let fatal = lines.front().filter(|first| first.starts_with(FATAL));
        let kept: Vec<&str> = match fatal {
            Some(first) => vec![first],
            None => lines.iter().rev().take_while(fits).map(String::as_str).collect(),
        };
        match kept.is_empty() {
            true => what.to_owned(),
            false => format!("{what}: {}", kept.into_iter().rev().collect::<Vec<_>>().join("\n")),
        }
    }
}
