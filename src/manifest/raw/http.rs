//! `http:` of a function: a URL, or keys with one.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::manifest::{
    HttpMode,
    leaf::{Flag, Named, Size, Text},
};

/// A URL that events are posted to, and how.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HttpKeys {
    /// Where events are posted.
    #[schemars(required)]
    url: Option<Text>,
    /// CloudEvents mode of the requests: `binary` or `structured`.
    mode: Option<HttpMode>,
    /// Headers of every request; secrets by `${X}` or `${file:…}`.
    headers: Option<Named<Text>>,
    /// Roots to trust besides the system's.
    ca_file: Option<Text>,
    /// Largest body of an answer.
    max_response: Option<Size>,
    /// HTTP/2 without asking: for servers that speak it without TLS.
    http2: Option<Flag>,
}

/// A URL that events are posted to, and how.
#[derive(Debug, Default)]
pub(in crate::manifest) struct Http {
    /// Whether the URL is the whole of it.
    pub(in crate::manifest) short: bool,
    pub(in crate::manifest) url: Option<Text>,
    pub(in crate::manifest) mode: Option<HttpMode>,
    pub(in crate::manifest) headers: Option<Named<Text>>,
    pub(in crate::manifest) ca_file: Option<Text>,
    pub(in crate::manifest) max_response: Option<Size>,
    pub(in crate::manifest) http2: Option<Flag>,
}

impl<'de> Deserialize<'de> for Http {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HttpVisitor)
    }
}

struct HttpVisitor;

impl<'de> Visitor<'de> for HttpVisitor {
    type Value = Http;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL, or keys like `url:` and `headers:`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Http, E> {
        Ok(Http { short: true, url: Some(Text(text.to_owned())), ..Http::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Http, A::Error> {
        let keys = HttpKeys::deserialize(MapAccessDeserializer::new(map))?;
        let HttpKeys { url, mode, headers, ca_file, max_response, http2 } = keys;
        Ok(Http { short: false, url, mode, headers, ca_file, max_response, http2 })
    }
}

impl JsonSchema for Http {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Http".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let keys = generator.subschema_for::<HttpKeys>();
        json_schema!({
            "anyOf": [
                { "type": "string", "pattern": r"^https?://|\$\{" },
                keys,
            ]
        })
    }
}
