//! The frames of the worker protocol; `functions/PROTOCOL.md` describes them.
//!
//! A frame is `u32 meta length, u32 body length` (big endian), that much JSON, that much body.

use std::{collections::VecDeque, path::Path, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, Serializer, de::IgnoredAny};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    event::{Cause, Event, Headers, Outgoing, State, Verdict},
    handler::{Call, Fault, NonEmpty, Reply},
};

/// The most that meta or body of a frame may take.
const PART_MAX: usize = 128 << 20;
const HEAD: usize = 8;
/// Payloads up to this size are copied: that is cheaper than a piece of their own, and does not
/// keep the rest of a read alive.
const COPY_MAX: usize = 8 * 1024;

/// Frames on their way to a worker, written together.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    whole: VecDeque<Bytes>,
    tail: BytesMut,
}

impl Outbox {
    /// The first frame of a worker.
    pub(super) fn init(function: &str, file: Option<&Path>, slots: usize, page: bool) -> Bytes {
        #[derive(Serialize)]
        struct Init<'a> {
            protocol: u32,
            function: &'a str,
            file: Option<std::borrow::Cow<'a, str>>,
            slots: usize,
            page: bool,
        }
        #[derive(Serialize)]
        struct Frame<'a> {
            init: Init<'a>,
        }
        let file = file.map(Path::to_string_lossy);
        let mut outbox = Self::default();
        outbox.meta(&Frame { init: Init { protocol: 1, function, file, slots, page } }, 0);
        outbox.tail.freeze()
    }

    pub(super) fn call(&mut self, number: u64, slot: usize, call: &Call) {
        let body = call.events.iter().map(|event| event.data.len()).sum();
        let frame = CallFrame {
            call: number,
            slot,
            timeout: call.timeout.as_secs_f64(),
            events: &call.events,
            batch: call.batch.then_some(true),
            state: call.state.as_ref().map(|state| WireState { value: &state.0 }),
        };
        self.meta(&frame, body);
        for event in call.events.iter() {
            if event.data.len() <= COPY_MAX {
                self.tail.put_slice(&event.data);
            } else {
                self.whole.push_back(self.tail.split().freeze());
                self.whole.push_back(event.data.clone());
            }
        }
    }

    /// All that is to be written, in order; the outbox is empty afterwards.
    pub(super) fn take(&mut self) -> VecDeque<Bytes> {
        if !self.tail.is_empty() {
            self.whole.push_back(self.tail.split().freeze());
        }
        std::mem::take(&mut self.whole)
    }

    fn meta(&mut self, frame: &impl Serialize, body: usize) {
        let start = self.tail.len();
        self.tail.put_bytes(0, HEAD);
        let mut writer = (&mut self.tail).writer();
        if let Err(err) = serde_json::to_writer(&mut writer, frame) {
            // Only a map with keys that are no strings does that; there is none in a frame.
            tracing::error!(%err, "a frame is no JSON");
        }
        let length = |part: usize| u32::try_from(part).unwrap_or(u32::MAX);
        let meta = length(self.tail.len() - start - HEAD);
        if let Some(mut head) = self.tail.get_mut(start..start + HEAD) {
            head.put_u32(meta);
            head.put_u32(length(body));
        }
    }
}

/// The Python worker knows a call of a single event without state by what stands behind `events`, and
/// where its number and headers are: `call_of` and `_pairs` in the shim.
#[derive(Serialize)]
struct CallFrame<'a> {
    call: u64,
    slot: usize,
    timeout: f64,
    #[serde(serialize_with = "as_events")]
    events: &'a NonEmpty<Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<WireState<'a>>,
}

#[derive(Serialize)]
struct WireState<'a> {
    value: &'a Value,
}

#[derive(Serialize)]
struct WireEvent<'a> {
    #[serde(serialize_with = "as_text")]
    id: &'a crate::event::EventId,
    subject: &'a str,
    #[serde(serialize_with = "as_rfc3339")]
    time: OffsetDateTime,
    attempt: u32,
    #[serde(serialize_with = "as_pairs")]
    headers: &'a Headers,
    size: usize,
}

fn wire_event(event: &Event) -> WireEvent<'_> {
    WireEvent {
        id: &event.id,
        subject: &event.subject,
        time: event.time,
        attempt: event.attempt,
        headers: &event.headers,
        size: event.data.len(),
    }
}

fn as_events<S: Serializer>(events: &&NonEmpty<Event>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(events.iter().map(wire_event))
}

fn as_text<S: Serializer>(id: &&crate::event::EventId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn as_rfc3339<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.format(&Rfc3339).map_err(serde::ser::Error::custom)?)
}

fn as_pairs<S: Serializer>(headers: &&Headers, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.iter())
}

/// What a worker says.
#[derive(Debug, PartialEq)]
pub(super) enum Word {
    /// The function is loaded.
    Ready,
    /// The function cannot be loaded.
    Failed(String),
    /// The answer to a call; a bad one is a fault.
    Reply { number: u64, reply: Result<Reply, Fault> },
    /// These have begun.
    Started(Vec<u64>),
    /// A line for the log.
    Log { level: String, message: String, number: Option<u64> },
    /// Something of a later protocol.
    Unknown,
}

/// The next frame, if all of it is there.
///
/// # Errors
/// What is there is no frame; nothing behind it can be understood either.
pub(super) fn next(buffer: &mut BytesMut) -> Result<Option<Word>, String> {
    let Some(mut head) = buffer.get(..HEAD) else { return Ok(None) };
    let part = |length: u32| usize::try_from(length).unwrap_or(usize::MAX);
    let (meta, body) = (part(head.get_u32()), part(head.get_u32()));
    if meta > PART_MAX || body > PART_MAX {
        return Err(format!("a frame of {meta} + {body} bytes"));
    }
    let size = HEAD + meta + body;
    if buffer.len() < size {
        buffer.reserve(size - buffer.len());
        return Ok(None);
    }
    let mut frame = buffer.split_to(size);
    frame.advance(HEAD);
    let meta = frame.split_to(meta);
    word(&meta, frame).map(Some)
}

#[derive(Deserialize)]
struct WireWord<V> {
    ready: Option<IgnoredAny>,
    failed: Option<String>,
    reply: Option<u64>,
    verdicts: Option<V>,
    state: Option<WireNext>,
    started: Option<Vec<u64>>,
    log: Option<String>,
    message: Option<String>,
    call: Option<u64>,
}

#[derive(Deserialize)]
struct WireNext {
    value: Value,
}

#[derive(Deserialize)]
struct WireVerdict {
    done: Option<Vec<WireOutput>>,
    retry: Option<String>,
    after: Option<f64>,
    reject: Option<String>,
    #[serde(default)]
    undecodable: bool,
    bad: Option<String>,
}

#[derive(Deserialize)]
struct WireOutput {
    size: usize,
    subject: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

fn word(meta: &[u8], body: BytesMut) -> Result<Word, String> {
    let word: WireWord<Vec<WireVerdict>> = match serde_json::from_slice(meta) {
        Ok(word) => word,
        Err(err) => return broken(meta, &err),
    };
    if let Some(number) = word.reply {
        let state = word.state.map(|next| State(next.value));
        let reply = match word.verdicts {
            Some(verdicts) => verdicts_of(verdicts, body),
            None => Err(Fault::BadReply("a reply without verdicts".to_owned())),
        };
        let reply = reply.map(|verdicts| Reply { verdicts, state });
        return Ok(Word::Reply { number, reply });
    }
    Ok(if word.ready.is_some() {
        Word::Ready
    } else if let Some(reason) = word.failed {
        Word::Failed(reason)
    } else if let Some(started) = word.started {
        Word::Started(started)
    } else if let Some(level) = word.log {
        Word::Log { level, message: word.message.unwrap_or_default(), number: word.call }
    } else {
        Word::Unknown
    })
}

/// A frame that does not parse is still the fault of one call, if it says of which.
fn broken(meta: &[u8], err: &serde_json::Error) -> Result<Word, String> {
    #[derive(Deserialize)]
    struct Number {
        reply: u64,
    }
    match serde_json::from_slice::<Number>(meta) {
        Ok(Number { reply: number }) => {
            let reason = format!("the worker's reply cannot be read: {err}");
            Ok(Word::Reply { number, reply: Err(Fault::BadReply(reason)) })
        }
        Err(_) => Err(format!("a frame that cannot be read: {err}")),
    }
}

fn verdicts_of(verdicts: Vec<WireVerdict>, body: BytesMut) -> Result<Vec<Verdict>, Fault> {
    let outputs = verdicts.iter().filter_map(|verdict| verdict.done.as_ref()).flatten();
    let told: usize = outputs.map(|output| output.size).fold(0, usize::saturating_add);
    if told != body.len() {
        let reason = format!("outputs of {told} bytes with a body of {}", body.len());
        return Err(Fault::BadReply(reason));
    }
    let mut body = body.freeze();
    verdicts.into_iter().map(|verdict| verdict_of(verdict, &mut body)).collect()
}

fn verdict_of(verdict: WireVerdict, body: &mut Bytes) -> Result<Verdict, Fault> {
    match verdict {
        WireVerdict { bad: Some(why), .. } => Err(Fault::BadReply(why)),
        WireVerdict { done: Some(outputs), retry: None, reject: None, .. } => {
            Ok(Verdict::Done(outputs.into_iter().map(|output| outgoing(output, body)).collect()))
        }
        WireVerdict { retry: Some(reason), after, done: None, reject: None, .. } => {
            let after = after.map(Duration::try_from_secs_f64).transpose();
            let after = after.map_err(|err| Fault::BadReply(format!("retry after: {err}")))?;
            Ok(Verdict::Retry { reason, after })
        }
        WireVerdict { reject: Some(reason), undecodable, done: None, retry: None, .. } => {
            let cause = if undecodable { Cause::Undecodable } else { Cause::Rejected };
            Ok(Verdict::Reject { cause, reason })
        }
        _ => Err(Fault::BadReply("a verdict that is not one of done, retry, reject".to_owned())),
    }
}

fn outgoing(output: WireOutput, body: &mut Bytes) -> Outgoing {
    let data = body.split_to(output.size);
    let data = if data.len() <= COPY_MAX { Bytes::copy_from_slice(&data) } else { data };
    Outgoing { subject: output.subject, headers: output.headers.into_iter().collect(), data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(meta: &str, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_u32(u32::try_from(meta.len()).unwrap());
        bytes.put_u32(u32::try_from(body.len()).unwrap());
        bytes.put_slice(meta.as_bytes());
        bytes.put_slice(body);
        bytes
    }

    fn reply(verdicts: &str, body: &[u8]) -> Result<Reply, Fault> {
        let meta = format!(r#"{{"reply":7,"verdicts":{verdicts}}}"#);
        match next(&mut frame(&meta, body)).unwrap().unwrap() {
            Word::Reply { number: 7, reply } => reply,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_frame_is_read_once_all_of_it_is_there() {
        let whole = frame(r#"{"started":[1,2]}"#, b"");
        let mut buffer = BytesMut::new();
        for byte in whole.iter().take(whole.len() - 1) {
            buffer.put_u8(*byte);
            assert_eq!(next(&mut buffer), Ok(None));
        }
        buffer.put_u8(whole[whole.len() - 1]);
        assert_eq!(next(&mut buffer), Ok(Some(Word::Started(vec![1, 2]))));
        assert!(buffer.is_empty());
    }

    #[test]
    fn outputs_share_the_body_in_order() {
        let verdicts = r#"[{"done":[{"size":2,"subject":"a","headers":[["K","1"],["k","2"]]}]},
            {"done":[]},{"done":[{"size":0},{"size":1}]}]"#;
        let reply = reply(verdicts, b"xyz").unwrap();
        let first = Outgoing {
            subject: Some("a".to_owned()),
            headers: [("K", "1"), ("k", "2")].into_iter().collect(),
            data: Bytes::from_static(b"xy"),
        };
        let empty = Outgoing::default();
        let last = Outgoing { data: Bytes::from_static(b"z"), ..Outgoing::default() };
        let done = [vec![first], vec![], vec![empty, last]];
        assert_eq!(reply.verdicts, done.map(Verdict::Done));
    }

    #[test]
    fn what_is_no_verdict_is_a_bad_reply() {
        for verdicts in [
            r#"[{"done":[{"size":3}]}]"#,
            r#"[{"done":[{"size":18446744073709551615},{"size":3}]}]"#,
            r#"[{"done":[],"retry":"x"}]"#,
            r#"[{"retry":"x","after":-1}]"#,
            r#"[{"retry":"x","after":1e300}]"#,
            r#"[{"bad":"a set"}]"#,
            r#"[{}]"#,
            r#"[7]"#,
            "7",
        ] {
            assert!(matches!(reply(verdicts, b"xy"), Err(Fault::BadReply(_))), "{verdicts}");
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let huge = [0xff_u8; 16];
        assert!(next(&mut BytesMut::from(huge.as_slice())).is_err());
        assert!(next(&mut frame("nonsense", b"")).is_err());
        assert_eq!(next(&mut frame(r#"{"later":1}"#, b"")), Ok(Some(Word::Unknown)));
    }
}
