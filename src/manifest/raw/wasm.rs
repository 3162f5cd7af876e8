//! The keys of a function that is a WebAssembly component.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::manifest::leaf::{Block, Keys, OneOrMany, Positive, Span};

/// What a WebAssembly component is let through to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::manifest) struct Allow {
    /// Environment variables of the runner.
    pub(in crate::manifest) env: Option<OneOrMany>,
    /// Folders that it may read.
    pub(in crate::manifest) dirs: Option<OneOrMany>,
    /// Servers that it may call: `api.example.com` (over TLS), `https://host:8443`, `http://host`.
    pub(in crate::manifest) http: Option<OneOrMany>,
    /// Key-value buckets that it may read and write; they must exist.
    pub(in crate::manifest) kv: Option<OneOrMany>,
}

/// How the instances of a WebAssembly component are used.
#[derive(Debug)]
pub(in crate::manifest) enum Instance {
    Fresh,
    Reuse(Reuse),
}

/// How the instances of a WebAssembly component are used.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct InstanceKeys {
    /// One call after the other in the same instance, until one fails or a limit is reached.
    reuse: Option<Keys<Reuse>>,
}

/// The limits of an instance that is used again.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::manifest) struct Reuse {
    /// Events that it sees at most.
    pub(in crate::manifest) max_events: Option<Positive>,
    /// How old it grows.
    pub(in crate::manifest) max_age: Option<Span>,
}

impl Block for Allow {
    const TAKES: &'static str = "the keys `env:`, `dirs:`, `http:` and `kv:`";
}

impl Block for Reuse {
    const TAKES: &'static str = "the keys `max_events:` and `max_age:`";
}

impl<'de> Deserialize<'de> for Instance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InstanceVisitor)
    }
}

struct InstanceVisitor;

impl<'de> Visitor<'de> for InstanceVisitor {
    type Value = Instance;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`fresh`, or `{reuse: {max_events: 1000, max_age: 60s}}`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Instance, E> {
        match text {
            "fresh" => Ok(Instance::Fresh),
            "reuse" => Ok(Instance::Reuse(Reuse::default())),
            _ => Err(E::custom(format!("`{text}` is neither `fresh` nor `reuse`"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Instance, A::Error> {
        let InstanceKeys { reuse } = InstanceKeys::deserialize(MapAccessDeserializer::new(map))?;
        Ok(reuse.map_or(Instance::Fresh, |Keys(reuse)| Instance::Reuse(reuse)))
    }
}

impl JsonSchema for Instance {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Instance".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let keys = generator.subschema_for::<InstanceKeys>();
        json_schema!({ "anyOf": [{ "type": "string", "pattern": r"^(fresh|reuse)$|\$\{" }, keys] })
    }
}
