//! NATS subjects: tokens between dots, `*` for any one token, `>` for one or more at the end.

/// Whether `subject`, a literal one, matches `pattern`.
#[must_use]
pub fn matches(pattern: &str, subject: &str) -> bool {
    let mut wanted = pattern.split('.');
    let mut tokens = subject.split('.');
    loop {
        match (wanted.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(want), Some(token)) if want == token => {}
            _ => return false,
        }
    }
}

/// Whether some literal subject could match both patterns.
#[must_use]
pub fn overlap(a: &str, b: &str) -> bool {
    let mut left = a.split('.');
    let mut right = b.split('.');
    loop {
        match (left.next(), right.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(l), Some(r)) if l == r || l == "*" || r == "*" => {}
            _ => return false,
        }
    }
}

/// Whether every subject that matches `inner` matches `outer`.
#[must_use]
pub fn covers(outer: &str, inner: &str) -> bool {
    let mut wide = outer.split('.');
    let mut narrow = inner.split('.');
    loop {
        match (wide.next(), narrow.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(_), Some(">")) => return false,
            (Some("*"), Some(_)) => {}
            (Some(want), Some(token)) if want == token => {}
            _ => return false,
        }
    }
}

/// Whether a subject names exactly one subject.
#[must_use]
pub fn is_literal(subject: &str) -> bool {
    !subject.split('.').any(|token| matches!(token, "*" | ">"))
}

/// Says what is wrong with a subject or pattern, if anything.
#[must_use]
pub fn complaint(subject: &str) -> Option<&'static str> {
    if subject.is_empty() {
        return Some("a subject cannot be empty");
    }
    if subject.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some("a subject cannot contain white space");
    }
    let last = subject.split('.').count() - 1;
    subject.split('.').enumerate().find_map(|(index, token)| match token {
        "" => Some(
            "a subject cannot have an empty token: look for two dots in a row or one at an end",
        ),
        ">" if index != last => Some("`>` is allowed only as the last token"),
        "*" | ">" => None,
        _ if token.contains(['*', '>']) => Some("a wildcard must stand alone between dots"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_nats() {
        for (pattern, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.>", "a", false),
            ("a.>", "a.b.c", true),
            (">", "a", true),
            ("*.b", "a.c", false),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn patterns_overlap_when_a_subject_fits_both() {
        for (a, b, expected) in [
            ("a.*", "*.b", true),
            ("a.>", "a.b.c", true),
            ("a.b", "a.c", false),
            ("a", "a.>", false),
            ("*.*", "a.>", true),
        ] {
            assert_eq!(overlap(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_has_all_of() {
        for (outer, inner, expected) in [
            ("a.*", "a.b", true),
            ("a.*", "a.*", true),
            ("a.*", "a.>", false),
            ("a.>", "a.*", true),
            ("a.>", "a.>", true),
            ("a.b", "a.*", false),
            ("*.b", "a.b.c", false),
        ] {
            assert_eq!(covers(outer, inner), expected, "{outer} {inner}");
        }
    }

    #[test]
    fn malformed_subjects_are_named() {
        for wrong in ["", "a..b", ".a", "a.", "a.>.b", "a b", "a.b*", "a\u{7}"] {
            assert!(complaint(wrong).is_some(), "{wrong:?}");
        }
        for right in ["a", "a.b", "a.*.c", ">", "a.>", "$KV.x"] {
            assert_eq!(complaint(right), None);
        }
    }
}
