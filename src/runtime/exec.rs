//! One process per event: the payload on standard input, standard output is the answer, the exit
//! code the verdict.

use std::{process::ExitStatus, time::Duration};

use bytes::Bytes;
use serde::{Serialize, Serializer, ser::SerializeMap};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::{info, warn};

use super::{
    launch::{Launcher, Process, Program},
    logs::{Tail, lines},
};
use crate::{
    event::{Cause, Event, Headers, Outgoing, Verdict},
    handler::{BoxFuture, Call, Fault, Handler, Reply},
    manifest::Function,
};

/// The most a program may answer.
const OUTPUT_MAX: usize = 64 << 20;
/// The kernel takes 128 KiB in one variable, its name included.
const VARIABLE_MAX: usize = 100 * 1024;
/// `EX_DATAERR`: the data was wrong, and will be the next time.
const REJECT: i32 = 65;
/// What shells say of a program that cannot be executed or found.
const UNAVAILABLE: [i32; 2] = [126, 127];
/// How long the rest of the output may take once the program has ended.
const REST: Duration = Duration::from_secs(1);

/// Runs one program, once per event.
pub(super) struct Exec {
    function: String,
    launcher: Launcher,
    program: Program,
}

impl Exec {
    pub(super) fn new(launcher: &Launcher, function: &Function, command: &[String]) -> Self {
        Self {
            function: function.name.clone(),
            launcher: launcher.clone(),
            program: Program {
                command: command.iter().map(Into::into).collect(),
                env: function.env.clone(),
                cwd: function.cwd.clone(),
                limits: super::limits(function),
            },
        }
    }

    async fn run(&self, event: &Event, timeout: Duration) -> Result<Verdict, Fault> {
        let headers = header_json(&event.headers);
        if headers.len() > VARIABLE_MAX {
            let size = headers.len();
            let reason = format!("{size} bytes of headers do not fit the environment of a process");
            return Ok(Verdict::Reject { cause: Cause::Rejected, reason });
        }
        let env = environment(event, headers, timeout);
        let mut process = self
            .launcher
            .spawn(&self.program, &env, std::process::Stdio::piped())
            .await
            .map_err(|err| Fault::Unavailable(format!("cannot start a process: {err}")))?;
        let tail = Tail::default();
        let mut output = Vec::new();
        let ran = self.pump(&mut process, event, &mut output, &tail);
        match tokio::time::timeout(timeout, ran).await {
            Ok(Ok(status)) => judge(&process, status, output, &tail),
            Ok(Err(err)) => Err(Fault::Crash(format!("lost track of the process: {err}"))),
            Err(_) => Err(Fault::Timeout(timeout)),
        }
    }

    async fn pump(
        &self,
        process: &mut Process,
        event: &Event,
        output: &mut Vec<u8>,
        tail: &Tail,
    ) -> std::io::Result<ExitStatus> {
        let (stdin, stdout, stderr) =
            (process.child.stdin.take(), process.child.stdout.take(), process.child.stderr.take());
        let token = process.token().to_owned();
        let feed = async {
            // A program that does not read what it was given has its reasons.
            if let Some(mut stdin) = stdin
                && stdin.write_all(&event.data).await.is_err()
            {
                tracing::trace!(event = %event.id, "did not read all of its input");
            }
        };
        let collect = async {
            if let Some(stdout) = stdout {
                let mut stdout = stdout.take(OUTPUT_MAX as u64 + 1);
                if let Err(err) = stdout.read_to_end(output).await {
                    warn!(event = %event.id, %err, "standard output broke off");
                }
            }
        };
        let log = async {
            let trace_id = event.trace_id();
            let show = |line: &str| {
                tail.push(line);
                if !line.starts_with(&token) {
                    let function = self.function.as_str();
                    info!(target: "function", function, event = %event.id, trace_id, "{line}");
                }
            };
            if let Some(stderr) = stderr {
                lines(stderr, show).await;
            }
        };
        let mut pumps = std::pin::pin!(async { tokio::join!(feed, collect, log) });
        let mut ended = std::pin::pin!(process.ended());
        tokio::select! {
            status = &mut ended => {
                // A program that it started and that got away may hold the pipes open.
                if tokio::time::timeout(REST, pumps).await.is_err() {
                    warn!(event = %event.id, "something outlives the program and holds its output");
                }
                status
            }
            _ = &mut pumps => ended.await,
        }
    }
}

impl Handler for Exec {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Fault>> {
        Box::pin(async move {
            let mut verdicts = Vec::with_capacity(call.events.len());
            for event in call.events.iter() {
                verdicts.push(self.run(event, call.timeout).await?);
            }
            Ok(Reply { verdicts, state: None })
        })
    }
}

fn judge(
    process: &Process,
    status: ExitStatus,
    output: Vec<u8>,
    tail: &Tail,
) -> Result<Verdict, Fault> {
    if let Some(reason) = tail.after(process.token()) {
        return Err(Fault::Unavailable(reason));
    }
    let said = || tail.explain(&process.describe(status));
    match status.code() {
        None => Err(Fault::Crash(said())),
        Some(0) if output.len() > OUTPUT_MAX => {
            Err(Fault::BadReply("more than 64 MiB of output".to_owned()))
        }
        Some(0) if output.is_empty() => Ok(Verdict::Done(Vec::new())),
        Some(0) => {
            let data = Bytes::from(output);
            Ok(Verdict::Done(vec![Outgoing { data, ..Outgoing::default() }]))
        }
        Some(REJECT) => {
            let reason = tail.last().unwrap_or_else(|| process.describe(status));
            Ok(Verdict::Reject { cause: Cause::Rejected, reason })
        }
        Some(code) if UNAVAILABLE.contains(&code) => Err(Fault::Unavailable(said())),
        Some(_) => Ok(Verdict::Retry { reason: said(), after: None }),
    }
}

fn environment(event: &Event, headers: String, timeout: Duration) -> Vec<(&'static str, String)> {
    let attribute =
        |name: &str, default: &str| event.headers.get(name).unwrap_or(default).replace('\0', "");
    let id = event.id.to_string();
    let deadline = (OffsetDateTime::now_utc() + timeout).format(&Rfc3339).unwrap_or_default();
    let source = format!("nats://{}", event.id.stream);
    vec![
        ("CE_ID", attribute("ce-id", &id)),
        ("CE_TYPE", attribute("ce-type", &event.subject)),
        ("CE_SOURCE", attribute("ce-source", &source)),
        ("PELTON_EVENT_ID", id),
        ("PELTON_EVENT_SUBJECT", event.subject.replace('\0', "")),
        ("PELTON_EVENT_ATTEMPT", event.attempt.to_string()),
        ("PELTON_EVENT_DEADLINE", deadline),
        ("PELTON_EVENT_HEADERS", headers),
    ]
}

/// An object of the headers, each with its first value.
fn header_json(headers: &Headers) -> String {
    struct First<'a>(&'a Headers);
    impl Serialize for First<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut seen: Vec<&str> = Vec::new();
            let mut map = serializer.serialize_map(None)?;
            for (name, value) in self.0.iter() {
                if !seen.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                    seen.push(name);
                    map.serialize_entry(name, value)?;
                }
            }
            map.end()
        }
    }
    serde_json::to_string(&First(headers)).unwrap_or_else(|_| "{}".to_owned())
}
