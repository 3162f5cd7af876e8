//! The kinds of value a manifest is made of. Each says in the user's words what it takes, and how
//! it looks in the JSON Schema.

use std::{borrow::Cow, fmt, marker::PhantomData, num::NonZeroU64, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{
        Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

use super::{
    cpu,
    rate::{self, Rate},
    size,
};
use crate::duration;

/// A scalar that only a text can give.
pub(super) trait FromText: Sized {
    /// Completes "takes …".
    const TAKES: &'static str;
    fn from_text(text: &str) -> Result<Self, String>;
    /// A number that stands for a value, if any does.
    fn from_number(number: u64) -> Option<Result<Self, String>>;
    /// A fraction that stands for a value, if any does.
    fn from_fraction(_: f64) -> Option<Result<Self, String>> {
        None
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::TAKES)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        match T::from_number(number) {
            Some(result) => result.map_err(E::custom),
            None => Err(E::invalid_type(serde::de::Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        match T::from_fraction(number) {
            Some(result) => result.map_err(E::custom),
            None => Err(E::invalid_type(serde::de::Unexpected::Float(number), &self)),
        }
    }
}

macro_rules! text_leaf {
    ($name:ident, $schema:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextVisitor(PhantomData))
            }
        }

        leaf_schema!($name, $schema);
    };
}

macro_rules! leaf_schema {
    ($name:ident, $schema:expr) => {
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

/// Any text.
#[derive(Debug, Clone)]
pub(super) struct Text(pub(super) String);

impl FromText for Text {
    const TAKES: &'static str = "text";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }

    fn from_number(_: u64) -> Option<Result<Self, String>> {
        None
    }
}

text_leaf!(Text, json_schema!({ "type": "string" }));

/// A duration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl FromText for Span {
    const TAKES: &'static str = "a duration like 250ms, 10s, 5m or 30d";

    fn from_text(text: &str) -> Result<Self, String> {
        duration::parse(text).map(Self)
    }

    fn from_number(number: u64) -> Option<Result<Self, String>> {
        Some(Err(format!(
            "a duration needs its unit: `{number}s` if seconds are meant, else {number}ms, {number}m, …"
        )))
    }
}

text_leaf!(Span, json_schema!({ "type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d))+$|\$\{" }));

/// A size in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) u64);

impl FromText for Size {
    const TAKES: &'static str = "a size like 512KiB, 64MiB or 1GB";

    fn from_text(text: &str) -> Result<Self, String> {
        size::parse(text).map(Self)
    }

    fn from_number(number: u64) -> Option<Result<Self, String>> {
        Some(size::parse(&format!("{number}B")).map(Self))
    }
}

text_leaf!(
    Size,
    json_schema!({
        "type": ["string", "integer"],
        "pattern": r"^[0-9]+ ?(B|KB|MB|GB|KiB|MiB|GiB|Ki|Mi|Gi)$|\$\{",
        "minimum": 0,
    })
);

/// A share of the processors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu(pub(super) u64);

impl FromText for Cpu {
    const TAKES: &'static str = "a share of processors like 500m, 0.5 or 2";

    fn from_text(text: &str) -> Result<Self, String> {
        cpu::parse(text).map(Self)
    }

    fn from_number(number: u64) -> Option<Result<Self, String>> {
        Some(Self::from_text(&number.to_string()))
    }

    fn from_fraction(number: f64) -> Option<Result<Self, String>> {
        Some(Self::from_text(&number.to_string()))
    }
}

text_leaf!(
    Cpu,
    json_schema!({
        "type": ["string", "number"],
        "pattern": r"^([0-9]+m|[0-9]+(\.[0-9]{1,3})?)$|\$\{",
        "minimum": 0,
    })
);

/// How many in a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct PerTime(pub(super) Rate);

impl FromText for PerTime {
    const TAKES: &'static str = "a rate like 100/s, 90/m or 10/h";

    fn from_text(text: &str) -> Result<Self, String> {
        rate::parse(text).map(Self)
    }

    fn from_number(number: u64) -> Option<Result<Self, String>> {
        Some(Err(format!("a rate needs its time: `{number}/s` if calls in a second are meant")))
    }
}

text_leaf!(PerTime, json_schema!({ "type": "string", "pattern": r"^[0-9]+ ?/ ?[smh]$|\$\{" }));

/// Where a new durable starts.
#[derive(Debug, Clone)]
pub(super) enum StartAt {
    Word(String),
    Sequence(u64),
}

impl FromText for StartAt {
    const TAKES: &'static str = "`all`, `new`, a time like 2030-01-31T12:00:00Z or a sequence";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self::Word(text.to_owned()))
    }

    fn from_number(number: u64) -> Option<Result<Self, String>> {
        Some(Ok(Self::Sequence(number)))
    }
}

text_leaf!(StartAt, json_schema!({ "type": ["string", "integer"], "minimum": 1 }));

/// A whole number from 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count(pub(super) u64);

/// A whole number from 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Positive(pub(super) NonZeroU64);

struct NumberVisitor(&'static str);

impl Visitor<'_> for NumberVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        // What the server counts, it counts in an i64.
        i64::try_from(number).map_err(|_| E::custom(format!("`{number}` is too large")))?;
        Ok(number)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor("a whole number")).map(Self)
    }
}

impl<'de> Deserialize<'de> for Positive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = deserializer.deserialize_any(NumberVisitor("a whole number from 1"))?;
        NonZeroU64::new(number)
            .map(Self)
            .ok_or_else(|| D::Error::custom("this must be at least 1, and not 0"))
    }
}

leaf_schema!(
    Count,
    json_schema!({ "type": ["integer", "string"], "minimum": 0, "pattern": r"^\$\{.*\}$" })
);
leaf_schema!(
    Positive,
    json_schema!({ "type": ["integer", "string"], "minimum": 1, "pattern": r"^\$\{.*\}$" })
);

/// `true` or `false`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag(pub(super) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FlagVisitor;
        impl Visitor<'_> for FlagVisitor {
            type Value = bool;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true` or `false`")
            }

            fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
                Ok(value)
            }
        }
        deserializer.deserialize_any(FlagVisitor).map(Self)
    }
}

leaf_schema!(Flag, json_schema!({ "type": ["boolean", "string"], "pattern": r"^\$\{.*\}$" }));

/// One text, or a list of them. An item is `None` when it was wrong.
#[derive(Debug, Clone)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<Option<String>>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor;
        impl<'de> Visitor<'de> for OneOrManyVisitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<OneOrMany, A::Error> {
                let items = Vec::<Option<Text>>::deserialize(SeqAccessDeserializer::new(items))?;
                let texts = items.into_iter().map(|item| item.map(|Text(text)| text));
                Ok(OneOrMany::Many(texts.collect()))
            }
        }
        deserializer.deserialize_any(OneOrManyVisitor)
    }
}

leaf_schema!(
    OneOrMany,
    json_schema!({
        "type": ["string", "array"],
        "items": { "type": "string" },
        "minItems": 1,
    })
);

/// A map whose keys are names that the user chose, in the order written.
#[derive(Debug, Clone)]
pub(super) struct Named<T>(pub(super) Vec<(String, Option<T>)>);

/// A map with keys of ours.
pub(super) trait Block {
    /// Completes "takes …".
    const TAKES: &'static str;
}

/// Deserialises only from a map: a derived `Deserialize` would take a list as well, by position.
#[derive(Debug, Clone)]
pub(super) struct Keys<T>(pub(super) T);

impl<'de, T: Block + Deserialize<'de>> Deserialize<'de> for Keys<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeysVisitor<T>(PhantomData<T>);
        impl<'de, T: Block + Deserialize<'de>> Visitor<'de> for KeysVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::TAKES)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(KeysVisitor(PhantomData)).map(Keys)
    }
}

impl<T: JsonSchema> JsonSchema for Keys<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamedVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from names, like `name: …`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Named(entries))
            }
        }
        deserializer.deserialize_any(NamedVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("NamedOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}
