//! An answer to several events as a verdict for each. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hyper::http::response::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{check_encoding, failure, structured};
use crate::{
    event::{Cause, Outgoing, Verdict},
    handler::Fault,
};

const JSON: &str = "application/json";
/// The longest delay that is heeded is shorter; beyond this it is no delay at all.
const AFTER_MAX: f64 = 1e9;

/// What an answer says of one event; nothing of it: done.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    #[serde(borrow)]
    done: Option<Vec<&'a RawValue>>,
    retry: Option<String>,
    after: Option<f64>,
    reject: Option<String>,
}

/// The verdicts in the order of `ids`.
///
/// # Errors
/// An answer that is none for these events. A rejection of several is one too: it says nothing of
/// any one of them.
pub(super) fn verdicts(
    head: &Parts,
    body: Bytes,
    ids: &[String],
    reject_on: &BTreeSet<u16>,
    now: SystemTime,
) -> Result<Vec<Verdict>, Fault> {
    if head.status.is_success() {
        return said(head, &body, ids).map_err(Fault::BadReply);
    }
    match failure(head, &body, reject_on, now)? {
        Verdict::Reject { reason, .. } if ids.len() > 1 => Err(Fault::BadReply(reason)),
        verdict => Ok(vec![verdict; ids.len()]),
    }
}

fn said(head: &Parts, body: &Bytes, ids: &[String]) -> Result<Vec<Verdict>, String> {
    check_encoding(&head.headers)?;
    let text = body.trim_ascii();
    let wrong = |err: serde_json::Error| {
        format!(
            "a batch is answered by a list with an item for each event, or an object by event id: {err}"
        )
    };
    let items: Vec<Option<Item<'_>>> = match text.first() {
        None => return Ok(vec![Verdict::Done(Vec::new()); ids.len()]),
        Some(b'{') => {
            let mut by_id: BTreeMap<String, Option<Item<'_>>> =
                serde_json::from_slice(text).map_err(wrong)?;
            let found = ids.iter().map(|id| by_id.remove(id).ok_or(id)).collect::<Result<_, _>>();
            let items = found.map_err(|id| format!("the answer says nothing of {id}"))?;
            if let Some((unknown, _)) = by_id.first_key_value() {
                return Err(format!("the answer speaks of `{unknown}`, which is not in the batch"));
            }
            items
        }
        Some(_) => serde_json::from_slice(text).map_err(wrong)?,
    };
    if items.len() != ids.len() {
        return Err(format!("{} verdicts for {} events", items.len(), ids.len()));
    }
    items
        .into_iter()
        .map(|item| item.map_or(Ok(Verdict::Done(Vec::new())), |item| mean(body, item)))
        .collect()
}

fn mean(body: &Bytes, item: Item<'_>) -> Result<Verdict, String> {
    match item {
        Item { done, retry: None, after: None, reject: None } => done
            .unwrap_or_default()
            .into_iter()
            .map(|event| output(body, event))
            .collect::<Result<_, _>>()
            .map(Verdict::Done),
        Item { done: None, retry: Some(reason), after, reject: None } => {
            let after = after.map(delay).transpose()?;
            Ok(Verdict::Retry { reason, after })
        }
        Item { done: None, retry: None, after: None, reject: Some(reason) } => {
            Ok(Verdict::Reject { cause: Cause::Rejected, reason })
        }
        _ => {
            Err("an item is one of `done`, `retry` (with `after`, or without) and `reject`"
                .to_owned())
        }
    }
}

fn delay(seconds: f64) -> Result<Duration, String> {
    match seconds.is_finite() && (0.0..=AFTER_MAX).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(format!("`after: {seconds}` is no delay in seconds")),
    }
}

/// A `CloudEvent`, or any other value in JSON.
fn output(body: &Bytes, value: &RawValue) -> Result<Outgoing, String> {
    #[derive(Deserialize)]
    struct Marked {
        specversion: Option<serde::de::IgnoredAny>,
    }
    let marked = serde_json::from_str::<Marked>(value.get());
    if value.get().starts_with('{') && marked.is_ok_and(|marked| marked.specversion.is_some()) {
        return structured(body, value);
    }
    Ok(Outgoing {
        subject: None,
        headers: [("content-type", JSON)].into_iter().collect(),
        data: body.slice_ref(value.get().as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str, count: usize) -> Result<Vec<Verdict>, Fault> {
        let response = hyper::Response::builder().status(status).body(()).unwrap();
        let (head, ()) = response.into_parts();
        let ids: Vec<String> = (1..=count).map(|n| format!("IN:{n}")).collect();
        let now = SystemTime::UNIX_EPOCH;
        verdicts(&head, Bytes::from_static(body.as_bytes()), &ids, &[404].into(), now)
    }

    fn done(data: &'static str) -> Verdict {
        let headers = [("content-type", JSON)].into_iter().collect();
        Verdict::Done(vec![Outgoing { subject: None, headers, data: data.into() }])
    }

    fn retry(reason: &str, after: Option<u64>) -> Verdict {
        let after = after.map(Duration::from_millis);
        Verdict::Retry { reason: reason.to_owned(), after }
    }

    fn reject(reason: &str) -> Verdict {
        Verdict::Reject { cause: Cause::Rejected, reason: reason.to_owned() }
    }

    #[test]
    fn a_list_or_an_object_has_a_verdict_for_each() {
        let nothing = Verdict::Done(Vec::new());
        let list =
            r#"[null, {"done": [{"a": 1}]}, {"retry": "so", "after": 1.5}, {"reject": "no"}, {}]"#;
        let all = [
            nothing.clone(),
            done(r#"{"a": 1}"#),
            retry("so", Some(1500)),
            reject("no"),
            nothing.clone(),
        ];
        assert_eq!(answer(200, list, 5), Ok(all.to_vec()));
        let object = r#"{"IN:2": {"retry": "so"}, "IN:1": null}"#;
        assert_eq!(answer(201, object, 2), Ok(vec![nothing.clone(), retry("so", None)]));
        assert_eq!(answer(204, "", 3), Ok(vec![nothing; 3]));
    }

    #[test]
    fn an_output_is_an_event_or_any_value() {
        let event = r#"[{"done": [{"specversion": "1.0", "id": "7", "data": "x", "datacontenttype": "text/plain"}]}]"#;
        let said = answer(200, event, 1);
        let Ok([Verdict::Done(outputs)]) = said.as_deref() else { panic!("{said:?}") };
        assert_eq!((outputs[0].headers.get("ce-id"), &outputs[0].data[..]), (Some("7"), &b"x"[..]));
        assert_eq!(answer(200, r#"[{"done": ["x"]}]"#, 1), Ok(vec![done("\"x\"")]));
    }

    #[test]
    fn what_does_not_answer_for_each_is_no_answer() {
        for body in [
            "[null]",
            "[null, null, null]",
            r#"{"IN:1": null}"#,
            r#"{"IN:1": null, "IN:3": null}"#,
            r#"{"IN:1": null, "IN:2": null, "IN:3": null}"#,
            r#"[null, {"done": [], "retry": "x"}]"#,
            r#"[null, {"after": 1}]"#,
            r#"[null, {"retry": "x", "after": -1}]"#,
            r#"[null, {"n": 1}]"#,
            r#"[null, "x"]"#,
            "null",
            "nonsense",
        ] {
            assert!(matches!(answer(200, body, 2), Err(Fault::BadReply(_))), "{body}");
        }
    }

    #[test]
    fn another_status_is_that_of_the_whole_batch() {
        assert!(matches!(answer(400, "no", 2), Err(Fault::BadReply(why)) if why.contains("no")));
        assert!(matches!(answer(404, "", 2), Err(Fault::BadReply(_))));
        assert!(matches!(answer(302, "", 1), Err(Fault::BadReply(_))));
        assert_eq!(answer(400, "no", 1), Ok(vec![reject("400 Bad Request: no")]));
        let busy = retry("503 Service Unavailable: busy", None);
        assert_eq!(answer(503, "busy", 2), Ok(vec![busy; 2]));
    }
}
