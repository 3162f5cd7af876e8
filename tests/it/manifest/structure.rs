//! The JSON Schema against the manifests: enough of a validator for the words that it uses.

use serde_json::Value;

use super::{fs, manifests, schema};

#[test]
fn valid_manifests_have_the_structure_of_the_schema() {
    let schema = schema();
    for path in manifests("valid") {
        let text = fs::read_to_string(&path).unwrap();
        let mut value: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        value.apply_merge().unwrap();
        if let Some(map) = value.as_mapping_mut() {
            // The parser takes a key without a value for one that is not there.
            map.retain(|_, value| !value.is_null());
        }
        let value = serde_json::to_value(value).unwrap();
        matches(&schema, &schema, &value)
            .unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display()));
    }
}

#[test]
fn the_schema_refuses_what_the_parser_refuses() {
    let schema = schema();
    for wrong in [
        r#"{"version": 1}"#,
        r#"{"version": 1, "name": "a", "nonsense": 1}"#,
        r#"{"version": 1, "name": "a", "bindings": [{"subject": "a", "function": "f", "order_by": {"jsn": "/a"}}]}"#,
        r#"{"version": 1, "name": "a", "bindings": [{"subject": 5, "function": "f"}]}"#,
        r#"{"version": 1, "name": "a", "streams": {"A": {"subjects": ["a"], "storage": "tape"}}}"#,
        r#"{"version": 1, "name": "a", "functions": {"f": {"exec": "cat"}}}"#,
    ] {
        let value: Value = serde_json::from_str(wrong).unwrap();
        assert!(matches(&schema, &schema, &value).is_err(), "{wrong}");
    }
}

#[test]
fn defaults_are_in_the_schema() {
    let schema = schema();
    let text = schema.to_string();
    let found = text.matches("\"default\":").count();
    let table = pelton::manifest::defaults::table();
    assert!(found >= table.len(), "{found} of {}", table.len());
}

fn matches(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(&reference[1..]).expect("a reference leads somewhere");
        matches(root, target, value)?;
    }
    for word in ["anyOf", "oneOf"] {
        if let Some(choices) = schema.get(word).and_then(Value::as_array)
            && !choices.iter().any(|choice| matches(root, choice, value).is_ok())
        {
            return Err(format!("{value} is none of {word}"));
        }
    }
    if let Some(kinds) = schema.get("type") {
        let kinds = kinds.as_array().cloned().unwrap_or_else(|| vec![kinds.clone()]);
        if !kinds.iter().any(|kind| is(kind.as_str().unwrap(), value)) {
            return Err(format!("{value} is not {kinds:?}"));
        }
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        return Err(format!("{value} is none of {allowed:?}"));
    }
    if let Some(constant) = schema.get("const")
        && constant != value
    {
        return Err(format!("{value} is not {constant}"));
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for value in values {
            matches(root, items, value)?;
        }
    }
    let Some(map) = value.as_object() else { return Ok(()) };
    for key in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !map.contains_key(key.as_str().unwrap()) {
            return Err(format!("{key} is missing"));
        }
    }
    for (key, value) in map {
        let property = schema.get("properties").and_then(|properties| properties.get(key));
        match (property, schema.get("additionalProperties")) {
            (Some(property), _) => matches(root, property, value)?,
            (None, Some(Value::Bool(false))) => return Err(format!("{key} is unknown")),
            (None, Some(other)) => matches(root, other, value)?,
            (None, None) => {}
        }
    }
    Ok(())
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    }
}
