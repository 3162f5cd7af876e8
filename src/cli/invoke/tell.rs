//! What an answer would lead to, in words.

use std::sync::Arc;

use time::OffsetDateTime;

use pelton::{
    event::{Event, Publish, State, Verdict},
    handler::{Fault, Reply},
    manifest::{Binding, Manifest},
    outputs::{self, Provenance},
    source::Origin,
};

/// What there is to say, and whether everything succeeded.
pub(super) struct Told {
    pub(super) text: String,
    pub(super) succeeded: bool,
}

impl Told {
    fn failure(text: String) -> Self {
        Self { text, succeeded: false }
    }
}

/// Whose policy counts.
#[derive(Clone, Copy)]
pub(super) struct Policy<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) binding: Option<&'a Binding>,
}

impl Policy<'_> {
    /// What the answer to a call with these events would lead to.
    pub(super) fn tell(self, events: &[Event], answer: Result<Reply, Fault>) -> Told {
        let Reply { verdicts, state } = match answer {
            Ok(reply) => reply,
            Err(fault) => return self.fault(events, &fault),
        };
        if verdicts.len() != events.len() {
            let count = format!("{} verdicts for {} events", verdicts.len(), events.len());
            return self.fault(events, &Fault::BadReply(count));
        }
        let mut all = Told { text: String::new(), succeeded: true };
        for (event, verdict) in events.iter().zip(verdicts) {
            let Told { text, succeeded } = self.verdict(event, verdict);
            if !all.text.is_empty() {
                all.text.push('\n');
            }
            if events.len() > 1 {
                all.text.push_str(&format!("{}: ", event.id));
            }
            all.text.push_str(&text);
            all.succeeded &= succeeded;
        }
        if self.binding.is_some_and(|binding| binding.state.is_some()) && all.succeeded {
            all.text.push_str(&match state {
                Some(State(next)) => format!("\n  state → {next}"),
                None => "\n  state stays as it was".to_owned(),
            });
        }
        all
    }

    fn fault(self, events: &[Event], fault: &Fault) -> Told {
        match (fault, events) {
            (Fault::Unavailable(why), _) => Told::failure(format!(
                "unavailable: {why}\n  the event would wait until the function can start"
            )),
            (fault, [event]) => Told::failure(format!("failed: {fault}\n  {}", self.again(event))),
            (fault, events) => Told::failure(format!(
                "failed: {fault}\n  the {} events would be tried in halves, and the one that fails alone is charged",
                events.len()
            )),
        }
    }

    fn again(self, event: &Event) -> String {
        let attempts = self.binding.map_or(1, |binding| binding.retry.attempts.get());
        match event.attempt < attempts {
            true => format!("would be tried again (attempt {} of {attempts})", event.attempt + 1),
            false => {
                format!("would be a dead letter on {}: the last attempt failed", self.letters())
            }
        }
    }

    fn letters(self) -> String {
        format!("{}.{}", self.manifest.dead_letter.subject, self.name())
    }

    fn name(&self) -> &str {
        self.binding.map_or("", |binding| binding.name.as_str())
    }

    fn verdict(self, event: &Event, verdict: Verdict) -> Told {
        let outputs = match verdict {
            Verdict::Retry { reason, .. } => {
                return Told::failure(format!("retry: {reason}\n  {}", self.again(event)));
            }
            Verdict::Reject { reason, .. } => {
                return Told::failure(format!(
                    "reject: {reason}\n  would be a dead letter on {} at once",
                    self.letters()
                ));
            }
            Verdict::Done(outputs) => outputs,
        };
        let origin =
            Origin { stream: Arc::clone(&event.id.stream), created: OffsetDateTime::UNIX_EPOCH };
        let from = Provenance {
            name: &self.manifest.name,
            binding: self.name(),
            origin: &origin,
            event,
            replay: None,
        };
        let publish = self.binding.and_then(|binding| binding.publish.as_ref());
        match outputs::address(outputs, publish, from, OffsetDateTime::now_utc()) {
            Err(why) => Told::failure(format!("bad reply: {why}\n  {}", self.again(event))),
            Ok((messages, discarded)) => {
                let mut text = "done: would be acknowledged".to_owned();
                text.extend(messages.iter().map(show));
                if discarded > 0 {
                    text.push_str(&format!(
                        "\n  {discarded} output(s) discarded: the binding has no `publish`"
                    ));
                }
                Told { text, succeeded: true }
            }
        }
    }
}

fn show(message: &Publish) -> String {
    let kind = message.headers.get("ce-datacontenttype").unwrap_or("no content type");
    let data = match std::str::from_utf8(&message.data) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{} bytes", message.data.len()),
    };
    let own: Vec<String> = message
        .headers
        .iter()
        .filter(|(name, _)| !name.starts_with("ce-"))
        .map(|(name, value)| format!("\n    {name}: {value}"))
        .collect();
    format!("\n  → {} ({kind}){}\n    {data}", message.subject, own.concat())
}
