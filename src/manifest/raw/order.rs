//! Order, batches and state of a binding.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::manifest::leaf::{Block, Keys, Positive, Size, Span, Text};

/// Where the key of an event is: one of `json`, `header` and `token`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::manifest) struct Key {
    /// A JSON pointer (RFC 6901) into the payload: `/orderId`.
    pub(in crate::manifest) json: Option<Text>,
    /// The name of a header.
    pub(in crate::manifest) header: Option<Text>,
    /// Which token of the subject, counted from 1.
    pub(in crate::manifest) token: Option<Positive>,
}

/// Several events in one call; it closes on whatever comes first.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::manifest) struct Batch {
    /// Events at most.
    pub(in crate::manifest) max: Option<Positive>,
    /// Bytes of payload at most; one event may be larger.
    pub(in crate::manifest) bytes: Option<Size>,
    /// How long the first event waits for others.
    pub(in crate::manifest) wait: Option<Span>,
}

/// State that the function reads and returns for each key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::manifest) struct State {
    /// The key-value bucket that holds it; made when missing.
    #[schemars(required)]
    pub(in crate::manifest) bucket: Option<Text>,
    /// Where the key of an event is; as `order_by` by default.
    pub(in crate::manifest) key: Option<Keys<Key>>,
    /// Age at which the state of a key goes that nobody touches; for ever by default.
    pub(in crate::manifest) max_age: Option<Span>,
}

impl Block for Key {
    const TAKES: &'static str = "one of `json:`, `header:` and `token:`";
}

impl Block for Batch {
    const TAKES: &'static str = "keys like `max:` and `wait:`";
}

impl Block for State {
    const TAKES: &'static str = "the keys `bucket:` and `key:`";
}
