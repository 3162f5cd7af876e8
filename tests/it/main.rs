//! Everything that needs more than one module to show.

mod manifest;
