//! The key of an event: what it is ordered by, and what its state is kept under. Pure.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{cloudevents, event::Event, manifest::KeyAt};

/// The key of an event; `None` when it has none: the payload is no JSON or has nothing there, or
/// something that is neither text nor a number, or the header is missing.
#[must_use]
pub fn of(event: &Event, at: &KeyAt) -> Option<String> {
    match at {
        KeyAt::Token(number) => event.subject.split('.').nth(number.get() - 1).map(str::to_owned),
        // Only the attributes of CloudEvents are encoded, and those in a payload are no headers yet.
        KeyAt::Header(name)
            if !name.to_ascii_lowercase().starts_with(cloudevents::PREFIX)
                && !cloudevents::is_structured(&event.headers) =>
        {
            event.headers.get(name).map(str::to_owned)
        }
        KeyAt::Header(name) => {
            let headers = cloudevents::decode(event.headers.clone(), event.data.clone()).ok()?.0;
            headers.get(name).map(str::to_owned)
        }
        KeyAt::Json(steps) => {
            let data = match cloudevents::is_structured(&event.headers) {
                true => cloudevents::decode(event.headers.clone(), event.data.clone()).ok()?.1,
                false => event.data.clone(),
            };
            let mut json = serde_json::Deserializer::from_slice(&data);
            let found = Steps(steps).deserialize(&mut json).ok()?;
            // What follows the value makes the payload no JSON at all.
            json.end().ok().and(found)
        }
    }
}

/// Finds the value at some steps without building anything else.
struct Steps<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Steps<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Steps<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.0.split_first() {
                Some((step, rest)) if **step == *key => found = map.next_value_seed(Steps(rest))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let wanted = self.0.split_first().and_then(|(step, rest)| Some((index(step)?, rest)));
        let mut position = 0_usize;
        loop {
            match wanted {
                Some((index, rest)) if index == position => {
                    match items.next_element_seed(Steps(rest))? {
                        Some(value) => found = value,
                        None => return Ok(found),
                    }
                }
                _ => {
                    if items.next_element::<IgnoredAny>()?.is_none() {
                        return Ok(found);
                    }
                }
            }
            position += 1;
        }
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.is_empty().then(|| text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(self.0.is_empty().then(|| number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(self.0.is_empty().then(|| number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(self.0.is_empty().then(|| number.to_string()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// RFC 6901, section 4: digits without a leading zero.
fn index(step: &str) -> Option<usize> {
    let plain = step == "0" || !step.starts_with(['0', '+']);
    plain.then(|| step.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use time::OffsetDateTime;

    use super::*;
    use crate::event::{EventId, Headers};

    fn event(headers: Headers, data: &'static str) -> Event {
        Event {
            id: EventId { stream: "S".into(), sequence: 1 },
            subject: "orders.4711.placed".to_owned(),
            headers,
            data: data.into(),
            time: OffsetDateTime::UNIX_EPOCH,
            attempt: 1,
        }
    }

    fn json(data: &'static str, steps: &[&str]) -> Option<String> {
        let steps = steps.iter().map(|&step| step.to_owned()).collect();
        of(&event(Headers::new(), data), &KeyAt::Json(steps))
    }

    #[test]
    fn a_pointer_finds_text_and_numbers() {
        assert_eq!(json(r#"{"id": "a\u0062", "x": [1]}"#, &["id"]), Some("ab".to_owned()));
        assert_eq!(json(r#"{"o": {"n": 7}}"#, &["o", "n"]), Some("7".to_owned()));
        assert_eq!(json(r#"{"o": {"n": -7}}"#, &["o", "n"]), Some("-7".to_owned()));
        assert_eq!(json(r#"{"l": ["a", {"k": "b"}]}"#, &["l", "1", "k"]), Some("b".to_owned()));
        assert_eq!(json(r#"{"a/b": {"": "x"}}"#, &["a/b", ""]), Some("x".to_owned()));
    }

    #[test]
    fn nothing_else_is_a_key() {
        for data in ["", "x", "{", r#"{"id": "a"} x"#, r#"{"id": null}"#, r#"{"id": true}"#] {
            assert_eq!(json(data, &["id"]), None, "{data}");
        }
        assert_eq!(json(r#"{"id": {"id": "a"}}"#, &["id"]), None);
        assert_eq!(json(r#"["a"]"#, &["00"]), None);
        assert_eq!(json(r#"["a"]"#, &["-"]), None);
    }

    #[test]
    fn a_structured_event_is_looked_into() {
        let kind = [("content-type", "application/cloudevents+json")];
        let data =
            r#"{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {"id": "k"}}"#;
        let event = event(kind.into_iter().collect(), data);
        assert_eq!(of(&event, &KeyAt::Json(vec!["id".to_owned()])), Some("k".to_owned()));
    }

    #[test]
    fn headers_and_tokens() {
        let event = event([("Order-Id", "4711")].into_iter().collect(), "");
        let token = |number| of(&event, &KeyAt::Token(NonZeroUsize::new(number).unwrap()));
        assert_eq!(of(&event, &KeyAt::Header("order-id".to_owned())), Some("4711".to_owned()));
        assert_eq!(of(&event, &KeyAt::Header("other".to_owned())), None);
        assert_eq!((token(2), token(4)), (Some("4711".to_owned()), None));
    }
}
