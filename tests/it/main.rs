//! Tests through the public seams.

mod runtime;
