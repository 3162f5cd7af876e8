//! Traces of events. With the cargo feature `otel` spans go to an OpenTelemetry collector, as the
//! `OTEL_*` variables say; without it everything here is nothing and costs nothing.

#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod otel;

#[cfg(not(feature = "otel"))]
pub use off::{Exporting, Step, Trace, received, sent, start};
#[cfg(feature = "otel")]
pub use otel::{Exporting, Step, Trace, received, sent, start};

/// Where events come from.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The subject as the binding has it.
    pub subject: &'a str,
    /// The stream.
    pub stream: &'a str,
    /// The durable.
    pub consumer: &'a str,
}
