//! The conversation with one worker: frames both ways over its socket, lines from its pipes.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as Blocking,
    },
    path::Path,
    sync::OnceLock,
    time::Instant,
};

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{ChildStderr, ChildStdout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Spec,
    frame::{self, Outbox, Word},
    life::Plan,
    page::Page,
    pool::Pool,
};
use crate::runtime::{
    lambda::{Shape, api::Api},
    logs::{Tail, lines},
};

/// What is read at once.
const READ: usize = 128 * 1024;
/// What is written at once, in pieces.
const PIECES: usize = 64;

/// Why there is no use in reading on.
#[derive(Debug)]
pub(super) enum Said {
    /// The socket is closed.
    Nothing,
    /// The function cannot be loaded.
    Failed(String),
    /// The worker does not keep to the protocol.
    Nonsense(String),
}

/// What is talked over.
pub(super) enum Line<'a> {
    /// Frames.
    Socket(UnixStream),
    /// The worker asks, and events have this shape.
    Api(Api, &'a Shape),
}

/// One side of the conversation, ours.
pub(super) struct Talk<'a> {
    pub(super) spec: &'a Spec,
    pub(super) pool: &'a Pool,
    pub(super) page: Option<&'a Page>,
    pub(super) token: &'a str,
    pub(super) tail: Tail,
    /// Set once the worker is ready.
    pub(super) ready: OnceLock<()>,
    /// Set once there is nothing more to hear.
    pub(super) said: OnceLock<Said>,
    /// Cancelled with `said`.
    pub(super) hung_up: CancellationToken,
    /// To be cancelled when the worker shall end once it has answered what it has.
    pub(super) eof: CancellationToken,
    /// To be cancelled once the worker has ended.
    pub(super) ended: CancellationToken,
    pub(super) plan: &'a Plan,
    began: Instant,
}

/// Sends the first frame, the started page with it.
pub(super) fn greet(
    socket: OwnedFd,
    spec: &Spec,
    file: Option<&Path>,
    page: Option<&Page>,
) -> io::Result<UnixStream> {
    let slots = spec.limits.slots;
    let init = Outbox::init(&spec.function, file, slots, page.is_some());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let page = page.map(|page| [page.file().as_fd()]);
    if let Some(page) = &page {
        rights.push(SendAncillaryMessage::ScmRights(page));
    }
    let sent =
        rustix::net::sendmsg(&socket, &[IoSlice::new(&init)], &mut rights, SendFlags::NOSIGNAL)?;
    let mut socket = Blocking::from(socket);
    socket.write_all(init.get(sent..).unwrap_or_default())?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        spec: &'a Spec,
        pool: &'a Pool,
        plan: &'a Plan,
        began: Instant,
        page: Option<&'a Page>,
        token: &'a str,
    ) -> Self {
        Self {
            spec,
            pool,
            page,
            token,
            tail: Tail::default(),
            ready: OnceLock::new(),
            said: OnceLock::new(),
            hung_up: CancellationToken::new(),
            eof: CancellationToken::new(),
            ended: CancellationToken::new(),
            plan,
            began,
        }
    }

    /// Talks until line and pipes are closed on both sides.
    pub(super) async fn run(
        &self,
        line: Line<'_>,
        (out, err): (Option<ChildStdout>, Option<ChildStderr>),
    ) {
        let talking = async {
            match line {
                Line::Socket(stream) => self.exchange_frames(stream).await,
                Line::Api(api, shape) => self.answer_questions(api, shape).await,
            }
        };
        let out = async {
            if let Some(out) = out {
                lines(out, |line| self.out(line)).await;
            }
        };
        let err = async {
            if let Some(err) = err {
                lines(err, |line| self.err(line)).await;
            }
        };
        // What was printed before a reply was sent is read before it, and so gets its event's id.
        tokio::join!(biased; out, err, talking);
    }

    async fn exchange_frames(&self, stream: UnixStream) {
        let (reader, writer) = stream.into_split();
        let reading = async {
            let said = self.read(reader).await;
            self.hang_up(said);
        };
        tokio::join!(biased; reading, self.write(writer));
    }

    /// There is nothing more to hear.
    pub(super) fn hang_up(&self, said: Said) {
        self.said.get_or_init(|| said);
        self.hung_up.cancel();
    }

    async fn read(&self, mut reader: OwnedReadHalf) -> Said {
        let mut buffer = BytesMut::with_capacity(READ);
        let mut replies = Vec::new();
        loop {
            if buffer.is_empty() && buffer.capacity() > 4 * READ {
                // One large reply must not cost its size for as long as the worker lives.
                buffer = BytesMut::with_capacity(READ);
            }
            if buffer.capacity() - buffer.len() < READ / 2 {
                buffer.reserve(READ);
            }
            match reader.read_buf(&mut buffer).await {
                // A worker that dies with something unread resets the connection.
                Ok(0) | Err(_) => return Said::Nothing,
                Ok(_) => {}
            }
            let end = loop {
                match frame::next(&mut buffer) {
                    Ok(Some(Word::Reply { number, reply })) => replies.push((number, reply)),
                    Ok(Some(Word::Failed(reason))) => break Some(Said::Failed(reason)),
                    Ok(Some(word)) => self.heed(word),
                    Ok(None) => break None,
                    Err(what) => break Some(Said::Nonsense(what)),
                }
            };
            // All replies of one read take one look at the pool.
            let unknown = match replies.is_empty() {
                true => None,
                false => self.pool.answer(self.plan.worker, &mut replies).err(),
            };
            if let Some(end) = end.or(unknown.map(Said::Nonsense)) {
                return end;
            }
        }
    }

    pub(super) fn heed(&self, word: Word) {
        let name = self.plan.worker;
        match word {
            Word::Ready => {
                if self.ready.set(()).is_ok() {
                    self.spec.metrics.started(self.plan.reason, self.began.elapsed());
                    self.pool.ready(name);
                }
            }
            Word::Started(numbers) => self.pool.begun(name, &numbers),
            Word::Log { level, message, number } => {
                self.pool.sign(name);
                self.log(&level, &message, number);
            }
            Word::Failed(_) | Word::Reply { .. } | Word::Unknown => self.pool.sign(name),
        }
    }

    async fn write(&self, mut writer: OwnedWriteHalf) {
        let mut outbox = Outbox::default();
        loop {
            let last = tokio::select! {
                () = self.plan.bell.outbox.notified() => false,
                () = self.eof.cancelled() => true,
            };
            self.pool.write(self.plan.worker, &mut outbox);
            if let Err(err) = write_all(&mut writer, outbox.take()).await {
                // Its end is noticed by whoever reads.
                debug!(function = %self.spec.function, %err, "a worker does not listen");
                return;
            }
            if last {
                // Dropping our half is the end of file that the worker sees.
                return;
            }
        }
    }

    fn out(&self, line: &str) {
        self.log("info", line, None);
    }

    fn err(&self, line: &str) {
        self.tail.push(line);
        if !line.starts_with(self.token) {
            self.log("warn", line, None);
        }
    }

    pub(super) fn log(&self, level: &str, message: &str, number: Option<u64>) {
        let function = self.spec.function.as_str();
        let begun = match (number, self.page) {
            (None, Some(page)) => page.read(),
            _ => None,
        };
        let about = self.pool.about(self.plan.worker, number, begun.as_deref());
        let event = about.as_ref().map(|about| about.event.to_string());
        let event = event.as_deref();
        let trace_id = about.as_ref().and_then(|about| about.trace_id.as_deref());
        match level {
            "error" => error!(target: "function", function, event, trace_id, "{message}"),
            "warn" | "warning" => warn!(target: "function", function, event, trace_id, "{message}"),
            "debug" => debug!(target: "function", function, event, trace_id, "{message}"),
            _ => info!(target: "function", function, event, trace_id, "{message}"),
        }
    }
}

async fn write_all(writer: &mut OwnedWriteHalf, mut pieces: VecDeque<Bytes>) -> io::Result<()> {
    while let Some(first) = pieces.front_mut() {
        if first.is_empty() {
            pieces.pop_front();
            continue;
        }
        let slices: Vec<IoSlice<'_>> =
            pieces.iter().take(PIECES).map(|piece| IoSlice::new(piece)).collect();
        let mut written = writer.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = pieces.front_mut() {
            let part = written.min(first.len());
            first.advance(part);
            written -= part;
            if !first.is_empty() {
                break;
            }
            pieces.pop_front();
        }
    }
    Ok(())
}
