//! `lambda:` of a function: a command, or keys with one.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

use crate::manifest::{LambdaEvent, leaf::Text};

/// A program that asks the AWS Lambda Runtime API for its events.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LambdaKeys {
    /// The program and its arguments.
    #[schemars(required)]
    command: Option<Vec<Option<Text>>>,
    /// What it is given: the event's `payload`, the event in `cloudevents` JSON, or all events of a
    /// call as `sqs` records, answered by `batchItemFailures`.
    event: Option<LambdaEvent>,
    /// What `_HANDLER` is in its environment.
    handler: Option<Text>,
}

/// A program that asks the AWS Lambda Runtime API for its events.
#[derive(Debug, Default)]
pub(in crate::manifest) struct Lambda {
    /// Whether the command is the whole of it.
    pub(in crate::manifest) short: bool,
    pub(in crate::manifest) command: Option<Vec<Option<Text>>>,
    pub(in crate::manifest) event: Option<LambdaEvent>,
    pub(in crate::manifest) handler: Option<Text>,
}

impl<'de> Deserialize<'de> for Lambda {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LambdaVisitor)
    }
}

struct LambdaVisitor;

impl<'de> Visitor<'de> for LambdaVisitor {
    type Value = Lambda;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, or keys like `command:` and `event:`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Lambda, A::Error> {
        let command = Vec::deserialize(SeqAccessDeserializer::new(list))?;
        Ok(Lambda { short: true, command: Some(command), ..Lambda::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Lambda, A::Error> {
        let LambdaKeys { command, event, handler } =
            LambdaKeys::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Lambda { short: false, command, event, handler })
    }
}

impl JsonSchema for Lambda {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Lambda".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let keys = generator.subschema_for::<LambdaKeys>();
        let words = generator.subschema_for::<Vec<Option<Text>>>();
        json_schema!({ "anyOf": [words, keys] })
    }
}
