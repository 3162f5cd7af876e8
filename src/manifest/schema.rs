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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::manifest::{later::LATER, leaf::Keys, wording};

    /// The keys of every map in the schema, by the pattern of its path.
    fn maps(
        schema: &Value,
        at: &str,
        pattern: &str,
        found: &mut BTreeMap<String, BTreeSet<String>>,
    ) {
        let node = schema.pointer(at).unwrap();
        if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
            maps(schema, &reference[1..], pattern, found);
        }
        for index in 0..node.get("anyOf").and_then(Value::as_array).map_or(0, Vec::len) {
            maps(schema, &format!("{at}/anyOf/{index}"), pattern, found);
        }
        if let Some(Value::Object(properties)) = node.get("properties") {
            found.insert(pattern.to_owned(), properties.keys().cloned().collect());
            for key in properties.keys() {
                let dot = if pattern.is_empty() { "" } else { "." };
                let below = format!("{pattern}{dot}{key}");
                maps(schema, &format!("{at}/properties/{key}"), &below, found);
            }
        }
        if node.get("additionalProperties").is_some_and(Value::is_object) {
            let below = format!("{pattern}.*");
            maps(schema, &format!("{at}/additionalProperties"), &below, found);
        }
        if node.get("items").is_some() {
            maps(schema, &format!("{at}/items"), &format!("{pattern}[]"), found);
        }
    }

    /// The keys that the parser says it takes.
    fn parsed(pattern: &str) -> BTreeSet<String> {
        let mut document = json!({ "no such key": 1 });
        for segment in pattern.rsplit('.').filter(|segment| !segment.is_empty()) {
            document = match segment.strip_suffix("[]") {
                Some(name) => json!({ name: [document] }),
                None => json!({ segment: document }),
            };
        }
        let value = serde_yaml::to_value(&document).unwrap();
        let error = serde_path_to_error::deserialize::<_, Keys<raw::Manifest>>(&value).unwrap_err();
        let message = error.into_inner().to_string();
        let known = wording::known_keys(&message).unwrap_or_else(|| panic!("{pattern}: {message}"));
        known.into_iter().collect()
    }

    #[test]
    fn the_schema_has_the_keys_of_the_parser() {
        let schema = schema();
        let mut found = BTreeMap::new();
        maps(&schema, "", "", &mut found);
        assert!(found.len() >= 12, "{found:?}");
        for (pattern, keys) in &found {
            assert_eq!(&parsed(pattern), keys, "`{pattern}`");
            for later in LATER.iter().filter(|later| later.context == pattern) {
                assert!(!keys.contains(later.key), "`{}` is built now", later.key);
            }
        }
    }

    #[test]
    fn every_default_is_where_its_key_is() {
        let schema = schema();
        for default in defaults::table() {
            let at = pointer(&schema, default.key)
                .unwrap_or_else(|| panic!("`{}` is no key", default.key));
            assert!(schema.pointer(&at).unwrap().get("default").is_some(), "{}", default.key);
        }
    }

    #[test]
    fn every_key_is_described() {
        let schema = schema();
        let text = format!("{schema:#}");
        assert!(!text.contains("\"null\""), "{text}");
        let mut found = BTreeMap::new();
        maps(&schema, "", "", &mut found);
        for (pattern, keys) in found {
            for key in keys {
                let dot = if pattern.is_empty() { "" } else { "." };
                let at = pointer(&schema, &format!("{pattern}{dot}{key}")).unwrap();
                let node = schema.pointer(&at).unwrap();
                assert!(node.get("description").is_some(), "`{pattern}{dot}{key}`: {node}");
            }
        }
    }
}
