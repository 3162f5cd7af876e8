//! The JSON Schema of the manifest, for editors.

use serde_json::{Map, Value, json};

use super::{
    defaults::{self, Scalar},
    raw,
};

/// Describes every key that this version takes, with its default.
#[must_use]
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(raw::Manifest).to_value();
    let table = defaults::table();
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), json!("Pelton manifest"));
    }
    for default in table {
        let value = match default.value {
            Scalar::Text(text) => json!(text),
            Scalar::Number(number) => json!(number),
        };
        if let Some(pointer) = pointer(&schema, default.key)
            && let Some(Value::Object(property)) = schema.pointer_mut(&pointer)
        {
            property.insert("default".to_owned(), value);
        }
    }
    unset_nulls(&mut schema);
    schema
}

/// Where the schema of a key is, following references.
fn pointer(schema: &Value, key: &str) -> Option<String> {
    let mut at = String::new();
    for segment in key.split('.') {
        let (name, item) = match segment.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (segment, false),
        };
        at = resolve(schema, at)?;
        at.push_str(&match name {
            "*" => "/additionalProperties".to_owned(),
            name => format!("/properties/{name}"),
        });
        if item {
            at.push_str("/items");
        }
        schema.pointer(&at)?;
    }
    Some(at)
}

/// Follows `$ref`, and `anyOf` to the object in it.
fn resolve(schema: &Value, at: String) -> Option<String> {
    let node = schema.pointer(&at)?;
    if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
        return resolve(schema, reference.strip_prefix('#')?.to_owned());
    }
    if let Some(choices) = node.get("anyOf").and_then(Value::as_array) {
        let index = choices.iter().position(|choice| choice.get("$ref").is_some())?;
        return resolve(schema, format!("{at}/anyOf/{index}"));
    }
    Some(at)
}

/// An absent key and an empty one mean the same, but an editor should not suggest `null`.
fn unset_nulls(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(unset_nulls),
        Value::Object(map) => {
            map.values_mut().for_each(unset_nulls);
            not_null(map);
        }
        _ => {}
    }
}

fn not_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(kinds)) = map.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_slice() {
            let only = only.clone();
            map.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type") != Some(&json!("null")));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            map.remove("anyOf");
            for (key, value) in only {
                map.entry(key).or_insert(value);
            }
        }
    }
}
