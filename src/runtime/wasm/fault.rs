//! Why an instance broke off, as a fault with the guest's own backtrace.

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::guest::OverLimit;
use crate::handler::Fault;

/// Frames shown of a backtrace.
const FRAMES_MAX: usize = 16;

/// It did not come so far as to see an event.
pub(super) fn starting(err: &wasmtime::Error) -> Fault {
    Fault::Unavailable(format!("the component does not start: {}", told(err)))
}

/// It saw the event. A host function or a trap breaks off code that runs, and leaves a backtrace;
/// without one, the code had returned, and what it returned is no reply.
pub(super) fn running(err: &wasmtime::Error) -> Fault {
    let broke_off = err.is::<Trap>() || err.is::<WasmBacktrace>() || err.is::<OverLimit>();
    match err.downcast_ref::<I32Exit>() {
        Some(I32Exit(code)) => Fault::Crash(format!("it called exit {code} before it answered")),
        None if broke_off => Fault::Crash(told(err)),
        None => Fault::BadReply(told(err)),
    }
}

fn told(err: &wasmtime::Error) -> String {
    let mut text = match err.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => err.root_cause().to_string(),
    };
    let frames = err.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames);
    for frame in frames.unwrap_or_default().iter().take(FRAMES_MAX) {
        let index = frame.func_index();
        let name = frame.func_name().map_or_else(|| format!("function {index}"), str::to_owned);
        text.push_str(&format!("\n  at {name}"));
        let symbol = frame.symbols().iter().find(|symbol| symbol.file().is_some());
        if let Some(symbol) = symbol {
            let (file, line) = (symbol.file().unwrap_or_default(), symbol.line().unwrap_or(0));
            text.push_str(&format!(" ({file}:{line})"));
        }
    }
    text
}
