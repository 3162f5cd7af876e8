//! Text to values, through `serde_yaml`, with words of our own for what is no YAML.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor},
};
use serde_yaml::{Mapping, Value};

use super::outline::{Broken, Mark, Outline};

/// A manifest's values and where they are.
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) outline: Outline,
}

/// What keeps a text from being a document.
pub(super) struct Unreadable {
    pub(super) mark: Mark,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// Bytes of a manifest at most; bounds the work that a text can ask for.
pub(super) const BYTES_MAX: usize = 1 << 20;

pub(super) fn read(text: &str) -> Result<Document, Unreadable> {
    // Some editors begin a file with a byte order mark; it is no part of the document.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > BYTES_MAX {
        return Err(unreadable(Mark::START, "a manifest has at most 1 MiB", None));
    }
    let outline = match Outline::read(text) {
        Err(Broken::Excessive(mark, message)) => {
            return Err(unreadable(mark, message, Some("use fewer levels and aliases")));
        }
        other => other,
    };
    let value = match serde_yaml::from_str::<Lenient>(text) {
        Ok(Lenient(value)) => value,
        Err(err) => return Err(syntax(text, &err, outline.err())),
    };
    match outline {
        Ok(outline) => Ok(Document { value, outline }),
        Err(Broken::Syntax(mark, message)) => {
            let hint = hint(text, mark, &message);
            Err(unreadable(mark, &format!("this is no YAML: {message}"), hint))
        }
        Err(Broken::Excessive(mark, message)) => Err(unreadable(mark, message, None)),
    }
}

fn unreadable(mark: Mark, message: &str, hint: Option<&str>) -> Unreadable {
    Unreadable { mark, message: message.to_owned(), hint: hint.map(str::to_owned) }
}

fn syntax(text: &str, err: &serde_yaml::Error, other: Option<Broken>) -> Unreadable {
    let told = match &other {
        // Only the outline knows an alias of itself from mere depth.
        Some(Broken::Syntax(_, message)) if err.to_string().starts_with("recursion") => {
            message.clone()
        }
        _ => err.to_string(),
    };
    let message = told.split(" at line ").next().unwrap_or(&told);
    let mark = match (err.location(), other) {
        (Some(at), _) => Mark { line: at.line(), column: at.column() },
        (None, Some(Broken::Syntax(mark, _))) => mark,
        _ => second_document(text).unwrap_or(Mark::START),
    };
    if let Some(mark) = unquoted_reference(text, mark) {
        return unreadable(
            mark,
            "inside `{}` and `[]`, YAML takes the braces of `${…}` for a map",
            Some("quote it: \"${…}\""),
        );
    }
    let hint = hint(text, mark, message);
    let message = match message {
        _ if message.contains("more than one document") => "there is more than one document",
        _ if message.contains("recursion limit") => "this is nested too deeply",
        _ if message.contains("repetition limit") => "this holds too many values",
        other => other,
    };
    unreadable(mark, &format!("this is no YAML: {message}"), hint)
}

/// What helps against the usual mistakes, by the words of either parser.
fn hint(text: &str, mark: Mark, message: &str) -> Option<&'static str> {
    let line = text.lines().nth(mark.line.saturating_sub(1)).unwrap_or_default();
    if line.trim_start_matches(' ').starts_with('\t') {
        return Some("YAML is indented with spaces, never with tabs");
    }
    let hints = [
        (
            "mapping values are not allowed",
            "a `: ` inside a value needs quotes around the value; else look at the indentation",
        ),
        ("more than one document", "a manifest is one document: take the `---` line out"),
        ("cannot start any token", "a value that begins with `@`, `` ` `` or `%` needs quotes"),
        ("plain scalar cannot start", "put it in quotes"),
        ("must be followed by a valid YAML whitespace", "write a space after the `:`, not a tab"),
        ("invalid indentation", "indent every line of a value further than its key"),
    ];
    hints.iter().find(|(words, _)| message.contains(words)).map(|(_, hint)| *hint)
}

/// The `---` that is not at the beginning.
fn second_document(text: &str) -> Option<Mark> {
    let mut lines = text
        .lines()
        .enumerate()
        .skip_while(|(_, line)| line.trim().is_empty() || line.starts_with(['#', '%', '-']));
    let (index, _) = lines.find(|(_, line)| line.starts_with("---"))?;
    Some(Mark { line: index + 1, column: 1 })
}

/// Finds the first `${` that stands unquoted inside braces or brackets, up to where reading
/// stopped: no parser gets past one.
fn unquoted_reference(text: &str, stopped: Mark) -> Option<Mark> {
    let mut depth = 0_usize;
    for (index, line) in text.lines().enumerate().take(stopped.line) {
        let mut quote = None;
        let mut before = ' ';
        for (column, letter) in line.chars().enumerate() {
            let begins = matches!(before, ' ' | '[' | '{' | ',' | ':');
            match (quote, letter) {
                (Some(mark), _) if mark == letter => quote = None,
                (None, '"' | '\'') if begins => quote = Some(letter),
                (None, '#') if before == ' ' => break,
                (None, '{') if before == '$' && depth > 0 => {
                    return Some(Mark { line: index + 1, column });
                }
                (None, '{' | '[') if begins => depth += 1,
                (None, '}' | ']') => depth = depth.saturating_sub(1),
                _ => {}
            }
            before = letter;
        }
    }
    None
}

/// A value that keeps the first of two equal keys and forgets tags, so that reading goes on to the
/// next mistake; the outline reports both. Merges are done bottom-up, as the outline does them.
struct Lenient(Value);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor).map(Lenient)
    }
}

struct LenientVisitor;

impl<'de> Visitor<'de> for LenientVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    #[expect(clippy::cast_precision_loss, reason = "too large for any key, and refused there")]
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok((value as f64).into())
    }

    #[expect(clippy::cast_precision_loss, reason = "too large for any key, and refused there")]
    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok((value as f64).into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Lenient(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Mapping::new();
        while let Some((Lenient(key), Lenient(value))) = entries.next_entry()? {
            map.entry(key).or_insert(value);
        }
        if let Some(merge) = map.remove("<<") {
            let sources = match merge {
                Value::Sequence(items) => items,
                other => vec![other],
            };
            for source in sources {
                let Value::Mapping(source) = source else { continue };
                for (key, value) in source {
                    map.entry(key).or_insert(value);
                }
            }
        }
        Ok(Value::Mapping(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (_, content) = tagged.variant::<String>()?;
        content.newtype_variant::<Lenient>().map(|Lenient(value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{super::outline::Shape, *};
    use crate::manifest::path::{Path as At, Step};

    /// Panics where the two passes see different things.
    fn agree(value: &Value, outline: &Outline, at: &At) {
        let node = outline.node(at).unwrap_or_else(|| panic!("no position for `{at}`"));
        match (value, &node.shape) {
            (Value::Sequence(items), Shape::List(nodes)) => {
                assert_eq!(items.len(), nodes.len(), "`{at}`");
                for (index, item) in items.iter().enumerate() {
                    agree(item, outline, &at.index(index));
                }
            }
            (Value::Mapping(map), Shape::Map(children)) => {
                let names: Vec<&str> = map.keys().filter_map(Value::as_str).collect();
                let odd = map.len() - names.len();
                assert!(children.len() <= names.len() + odd, "`{at}`");
                for name in names {
                    agree(&map[name], outline, &at.child(Step::Key(name.to_owned())));
                }
            }
            (Value::Sequence(_) | Value::Mapping(_), _) | (_, Shape::List(_) | Shape::Map(_)) => {
                panic!("`{at}` is {value:?} and {node:?}")
            }
            _ => {}
        }
    }

    fn check(text: &str) -> bool {
        let Ok(document) = read(text) else { return false };
        // An odd key is there for the one pass and not for the other; the outline reports it.
        if document.outline.problems.is_empty() && !document.value.is_null() {
            agree(&document.value, &document.outline, &At::root());
        }
        true
    }

    #[test]
    fn the_two_passes_see_one_tree() {
        for text in [
            "a: {b: [1, {c: d}], e: }\nf:\n- g\n- h: i\n  j: |\n    k\n- - l\n",
            "a: &a {b: c}\nd: *a\ne: {<<: *a, f: g}\nh: {<<: [*a, {i: j}], b: k}\n",
            "\"a b\": 'c'\n? d\n: e\nf: >-\n  g\n  h\n",
            "a:\n# comment\n\n  b: ~\n...\n",
            "---\na: \u{e9}\u{1f600}: b\n",
        ] {
            check(text);
        }
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests");
        let mut read = 0;
        for kind in ["valid", "invalid"] {
            for entry in fs::read_dir(manifests.join(kind)).unwrap() {
                let path = entry.unwrap().path();
                let Ok(text) = fs::read_to_string(&path) else { continue };
                if path.extension().is_some_and(|kind| kind == "yaml") {
                    read += usize::from(check(&text));
                    let lines: Vec<&str> = text.split_inclusive('\n').collect();
                    for at in 0..lines.len() {
                        let mut without = lines.clone();
                        without.remove(at);
                        check(&without.concat());
                    }
                }
            }
        }
        assert!(read > 20, "{read}");
    }

    #[test]
    fn what_the_one_pass_takes_the_other_takes() {
        let text = "a: [b, 'c', {d: \"e\"}]\nf: # g\n  - h\n  - i: j\n";
        for at in 0..text.len() {
            for stranger in "{}[]:,-\"'#&*!|>%@`\t\n ~".chars() {
                let mut mutant = text.to_owned();
                mutant.replace_range(at..=at, &stranger.to_string());
                let one = serde_yaml::from_str::<Lenient>(&mutant).is_ok();
                let other = Outline::read(&mutant).is_ok();
                if one != other {
                    // Where the parsers differ the manifest is refused, never read half.
                    assert!(read(&mutant).is_err(), "{mutant}");
                }
                check(&mutant);
            }
        }
    }
}
