//! `${…}` inside of a scalar: what it says, not what it stands for.

/// A piece of a scalar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    Reference(Reference),
}

/// A value that comes from outside of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) source: Source,
    pub(super) otherwise: Otherwise,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// `${X}`
    Variable(String),
    /// `${file:/run/secrets/x}`
    File(String),
}

/// What counts when the source has nothing, or nothing but an empty text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// `${X}`: an empty text is as good as any other.
    Nothing,
    /// `${X:-default}`
    Default(String),
    /// `${X:?message}`
    Complain(String),
}

/// Takes a scalar apart; `$${` is a literal `${`, every other `$` stays.
pub(super) fn parse(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let from = from.get(2..).unwrap_or_default();
        if let Some(before) = before.strip_suffix('$') {
            literal.push_str(before);
            literal.push_str("${");
            rest = from;
            continue;
        }
        literal.push_str(before);
        let (inside, after) =
            from.split_once('}').ok_or_else(|| "`${` without its `}`".to_owned())?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Reference(reference(inside)?));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

fn reference(inside: &str) -> Result<Reference, String> {
    if inside.contains("${") {
        return Err("a `${…}` inside of another is not understood".to_owned());
    }
    let (source, path) = match inside.strip_prefix("file:") {
        Some(path) => (path, true),
        None => (inside, false),
    };
    let default = source.find(":-").map(|at| (at, true));
    let complaint = source.find(":?").map(|at| (at, false));
    let mark = [default, complaint].into_iter().flatten().min();
    let (name, otherwise) = match mark {
        None => (source, Otherwise::Nothing),
        Some((at, default)) => {
            let text = source.get(at + 2..).unwrap_or_default().to_owned();
            let otherwise =
                if default { Otherwise::Default(text) } else { Otherwise::Complain(text) };
            (source.get(..at).unwrap_or_default(), otherwise)
        }
    };
    if path {
        let source = Source::File(name.to_owned());
        return if name.is_empty() {
            Err("`${file:…}` names no file".to_owned())
        } else {
            Ok(Reference { source, otherwise })
        };
    }
    let proper = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if proper {
        Ok(Reference { source: Source::Variable(name.to_owned()), otherwise })
    } else {
        Err(format!("`${{{name}}}` names no environment variable"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, otherwise: Otherwise) -> Piece {
        Piece::Reference(Reference { source: Source::Variable(name.to_owned()), otherwise })
    }

    fn literal(text: &str) -> Piece {
        Piece::Literal(text.to_owned())
    }

    #[test]
    fn scalars_are_taken_apart() {
        let default = |text: &str| Otherwise::Default(text.to_owned());
        for (text, expected) in [
            ("a $b $$ c", vec![literal("a $b $$ c")]),
            ("$${A}", vec![literal("${A}")]),
            ("$$${A}", vec![literal("$${A}")]),
            ("${A}", vec![variable("A", Otherwise::Nothing)]),
            ("x.${A}.y", vec![literal("x."), variable("A", Otherwise::Nothing), literal(".y")]),
            ("${A:-nats://h:1}", vec![variable("A", default("nats://h:1"))]),
            ("${A:-}", vec![variable("A", default(""))]),
            ("${A:-x:?y}", vec![variable("A", default("x:?y"))]),
            ("${A:?why:-so}", vec![variable("A", Otherwise::Complain("why:-so".to_owned()))]),
            (
                "${file:/run/x}",
                vec![Piece::Reference(Reference {
                    source: Source::File("/run/x".to_owned()),
                    otherwise: Otherwise::Nothing,
                })],
            ),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn malformed_references_are_refused() {
        for text in
            ["${", "${}", "${A", "${1}", "${A-b}", "${a b}", "${A:-${B}}", "${file:}", "é${"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
