//! What a Lambda function said, as a verdict. Pure.

use std::collections::BTreeSet;

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

use crate::{
    event::{Cause, Headers, Outgoing, Verdict},
    handler::Fault,
};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// The type of an error that means: never again.
const REJECT: &str = "Reject";
/// The most of an error that is no JSON that counts as its message.
const MESSAGE_MAX: usize = 1024;

/// A response's verdict: nothing, one output, or those in `$pelton`.
pub(super) fn response(body: &Bytes) -> Result<Verdict, Fault> {
    let text = body.trim_ascii();
    if text.is_empty() || text == b"null" {
        return Ok(Verdict::Done(Vec::new()));
    }
    let wrong = |err| Fault::BadReply(format!("the response is no JSON: {err}"));
    let value: &RawValue = serde_json::from_slice(text).map_err(wrong)?;
    if text.starts_with(b"{")
        && let Some(several) = several(value)?
    {
        return several
            .events
            .into_iter()
            .map(outgoing)
            .collect::<Result<_, _>>()
            .map(Verdict::Done);
    }
    Ok(Verdict::Done(vec![Outgoing {
        headers: [("content-type", JSON)].into_iter().collect(),
        data: body.slice_ref(text),
        subject: None,
    }]))
}

/// A verdict for each record of a batch, by AWS's rules for `ReportBatchItemFailures`: those that are
/// named have failed, all others have not. What cannot be understood fails all of them.
pub(super) fn failures(body: &[u8], records: &[String]) -> Result<Vec<Verdict>, Fault> {
    let wrong = |what: String| Fault::BadReply(format!("`batchItemFailures`: {what}"));
    let text = body.trim_ascii();
    let failed = match text.first() {
        None => Vec::new(),
        Some(b'[') => return Err(wrong("an object has it, and no list".to_owned())),
        Some(b'{') => {
            let said: Partial =
                serde_json::from_slice(text).map_err(|err| wrong(err.to_string()))?;
            said.failed.unwrap_or_default()
        }
        // Said by functions that know nothing of it.
        Some(_) => serde_json::from_slice(text)
            .map(|IgnoredAny| Vec::new())
            .map_err(|err| Fault::BadReply(format!("the response is no JSON: {err}")))?,
    };
    let names: BTreeSet<String> = failed.into_iter().map(|item| item.name).collect();
    if let Some(unknown) = names.iter().find(|name| !records.contains(name)) {
        return Err(wrong(format!("there is no record `{unknown}` in this batch")));
    }
    let verdict = |record: &String| match names.contains(record) {
        true => {
            let reason = format!("the function named {record} in batchItemFailures");
            Verdict::Retry { reason, after: None }
        }
        false => Verdict::Done(Vec::new()),
    };
    Ok(records.iter().map(verdict).collect())
}

#[derive(Deserialize)]
struct Partial {
    #[serde(rename = "batchItemFailures", default)]
    failed: Option<Vec<Failed>>,
}

#[derive(Deserialize)]
struct Failed {
    #[serde(rename = "itemIdentifier")]
    name: String,
}

/// The one key of a response that speaks of Pelton.
#[derive(Deserialize)]
struct Marked<'a> {
    #[serde(rename = "$pelton", borrow)]
    pelton: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several<'a> {
    #[serde(borrow)]
    events: Vec<Output<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Output<'a> {
    subject: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    content_type: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, Values>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Many(Vec<String>),
}

fn several(value: &RawValue) -> Result<Option<Several<'_>>, Fault> {
    let wrong = |err| Fault::BadReply(format!("`$pelton` in the response: {err}"));
    let marked: Marked<'_> = serde_json::from_str(value.get()).map_err(wrong)?;
    marked.pelton.map(|pelton| serde_json::from_str(pelton.get()).map_err(wrong)).transpose()
}

fn outgoing(output: Output<'_>) -> Result<Outgoing, Fault> {
    let wrong = |what: String| Fault::BadReply(format!("an event of the response: {what}"));
    let mut headers = Headers::new();
    for (name, values) in output.headers {
        match values {
            Values::One(value) => headers.append(name, value),
            Values::Many(values) => {
                values.into_iter().for_each(|v| headers.append(name.clone(), v))
            }
        }
    }
    if let Some(kind) = output.content_type {
        headers.set("content-type", kind);
    }
    let json = headers.get("content-type").map(|kind| kind.to_ascii_lowercase().contains("json"));
    let (data, kind) = match (output.data, output.data_base64) {
        (Some(_), Some(_)) => {
            return Err(wrong("`data` and `data_base64` exclude each other".to_owned()));
        }
        (None, None) => (Bytes::new(), None),
        (None, Some(text)) => {
            let data = BASE64.decode(text).map_err(|err| wrong(format!("`data_base64`: {err}")))?;
            (data.into(), None)
        }
        (Some(raw), None) => match serde_json::from_str(raw.get()) {
            // As in every language: text is text, unless it is said to be JSON.
            Ok(Value::String(text)) if json != Some(true) => (text.into(), Some(TEXT)),
            _ => (Bytes::copy_from_slice(raw.get().as_bytes()), Some(JSON)),
        },
    };
    if let Some(kind) = kind {
        headers.set_default("content-type", kind);
    }
    Ok(Outgoing { subject: output.subject, headers, data })
}

/// What a runtime posts when the function failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct Failure {
    /// The class of the error, if it has one.
    kind: String,
    message: String,
    /// Where it happened.
    pub(in crate::runtime) trace: Vec<String>,
}

impl Failure {
    /// From the body of an error; `kind` is what the header says, for a body that does not.
    pub(super) fn read(body: &[u8], kind: Option<&str>) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let text =
            |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let shown = || {
            let text = String::from_utf8_lossy(body);
            crate::settle::cut(text.trim(), MESSAGE_MAX).to_owned()
        };
        let trace = value.get("stackTrace").and_then(Value::as_array);
        let line = |line: &Value| line.as_str().map_or_else(|| line.to_string(), str::to_owned);
        Self {
            kind: text("errorType").or(kind).unwrap_or_default().to_owned(),
            message: match text("errorMessage") {
                Some(message) => message.to_owned(),
                None if value.is_object() => String::new(),
                None => shown(),
            },
            trace: trace.into_iter().flatten().map(line).collect(),
        }
    }

    /// Type and message, whichever there are.
    pub(in crate::runtime) fn reason(&self) -> String {
        match (self.kind.as_str(), self.message.as_str()) {
            ("", "") => "an error without a word".to_owned(),
            (one, "") | ("", one) => one.to_owned(),
            (kind, message) => format!("{kind}: {message}"),
        }
    }

    /// Some languages write the module before the class.
    fn is_reject(&self) -> bool {
        self.kind.rsplit(['.', ':', '$']).next() == Some(REJECT)
    }
}

impl From<&Failure> for Verdict {
    fn from(failure: &Failure) -> Self {
        if failure.is_reject() {
            let message = Some(&failure.message).filter(|message| !message.is_empty());
            let reason = message.cloned().unwrap_or_else(|| failure.reason());
            return Self::Reject { cause: Cause::Rejected, reason };
        }
        Self::Retry { reason: failure.reason(), after: None }
    }
}

#[cfg(test)]
mod tests;
