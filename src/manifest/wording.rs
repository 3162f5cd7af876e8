//! What `serde` says, in the words of someone who writes a manifest.

/// Completes a message of `serde` about the value called `name`; returns it with a hint.
pub(super) fn explain(name: &str, message: &str) -> (String, Option<String>) {
    if let Some((found, wanted)) = mismatch(message) {
        let wanted = match wanted {
            "a sequence" => "a list",
            "a Value::Tagged enum" => "one word",
            "a string" => "text",
            other => other,
        };
        let hint = match found {
            Found::Number(number) if wanted.starts_with("text") => {
                Some(format!("put it in quotes: \"{number}\""))
            }
            Found::Boolean(word) if wanted.starts_with("text") => {
                Some(format!("put it in quotes: \"{word}\""))
            }
            Found::Text if wanted.starts_with("a whole number") || wanted.starts_with("`true`") => {
                Some("write it without quotes, on a line of its own if it is a `${…}`".to_owned())
            }
            Found::Text if wanted == "a list" => Some("write it in brackets: [\"…\"]".to_owned()),
            _ => None,
        };
        return (format!("{name} takes {wanted}, not {}", found.show()), hint);
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let (word, known) = choice(rest);
        let hint = suggest(word, known.iter().map(String::as_str));
        return (format!("{name} cannot be `{word}`"), Some(hint));
    }
    (message.to_owned(), None)
}

/// The keys that `serde` would have taken, when a message is about one it does not know.
pub(super) fn known_keys(message: &str) -> Option<Vec<String>> {
    let rest = message.strip_prefix("unknown field ")?;
    Some(choice(rest).1)
}

/// Whether a message is about a value that should have been text.
pub(super) fn wants_text(message: &str) -> bool {
    mismatch(message).is_some_and(|(_, wanted)| {
        wanted.starts_with("text") || wanted == "a string" || wanted == "a Value::Tagged enum"
    })
}

/// "did you mean …", or all there is to choose from.
pub(super) fn suggest<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match closest(word, known.clone()) {
        Some(close) => format!("did you mean `{close}`?"),
        None => {
            let mut all: Vec<String> = known.map(|known| format!("`{known}`")).collect();
            let more = all.len() > LISTED_MAX;
            all.truncate(LISTED_MAX);
            match all.is_empty() {
                true => "take it out".to_owned(),
                false => format!("there is {}{}", all.join(", "), if more { ", …" } else { "" }),
            }
        }
    }
}

/// Words listed in a hint at most.
const LISTED_MAX: usize = 16;

/// The word that was probably meant.
pub(super) fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
    let word = plain(word);
    known
        .map(|known| (strsim::damerau_levenshtein(&word, &plain(known)), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// What stood in the place of something else.
enum Found<'a> {
    Number(&'a str),
    Boolean(&'a str),
    Text,
    List,
    Map,
    Nothing,
    Other(&'a str),
}

impl Found<'_> {
    fn show(&self) -> String {
        match self {
            Self::Number(number) => format!("the number {number}"),
            Self::Boolean(word) => format!("`{word}`"),
            // Not the text itself: it may be a secret.
            Self::Text => "text".to_owned(),
            Self::List => "a list".to_owned(),
            Self::Map => "a map".to_owned(),
            Self::Nothing => "nothing".to_owned(),
            Self::Other(other) => (*other).to_owned(),
        }
    }
}

fn mismatch(message: &str) -> Option<(Found<'_>, &str)> {
    let rest = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))?;
    // The text that was found may hold the separator too; what is expected never does.
    let (found, wanted) = rest.rsplit_once(", expected ")?;
    let inner = || found.split('`').nth(1).unwrap_or(found);
    let found = match found.split(' ').next().unwrap_or_default() {
        "integer" | "floating" => Found::Number(inner()),
        "boolean" => Found::Boolean(inner()),
        "string" => Found::Text,
        "sequence" => Found::List,
        "map" => Found::Map,
        "unit" => Found::Nothing,
        _ => Found::Other(found),
    };
    Some((found, wanted))
}

/// The word that was found and those that were expected: "`x`, expected one of `a`, `b`".
fn choice(text: &str) -> (&str, Vec<String>) {
    let (word, known) = text.rsplit_once("`, expected ").unwrap_or((text, ""));
    let known = known.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    (word.trim_start_matches('`'), known)
}
