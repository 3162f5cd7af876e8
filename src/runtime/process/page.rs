//! The started page: memory shared with a worker, in which it notes what it has begun. Writing to
//! it costs the worker no system call, and it outlives the worker.

use std::{fs::File, io, os::unix::fs::FileExt, time::Duration};

use rustix::{
    fs::MemfdFlags,
    time::{ClockId, clock_gettime},
};

/// A slot's entry: call number and start time, u64 each.
const ENTRY: usize = 16;

/// The page of one worker.
#[derive(Debug)]
pub(super) struct Page {
    file: File,
    slots: usize,
}

/// A call that a worker says it has begun, and how long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) number: u64,
    pub(super) ago: Duration,
}

impl Page {
    pub(super) fn create(slots: usize) -> io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("pelton-started", MemfdFlags::CLOEXEC)?);
        file.set_len(u64::try_from(slots * ENTRY).map_err(io::Error::other)?)?;
        Ok(Self { file, slots })
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// What has begun, answered calls perhaps included. Nothing if the worker has cut it off.
    pub(super) fn read(&self) -> Option<Vec<Begun>> {
        let mut bytes = vec![0; self.slots * ENTRY];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(
            now.tv_sec.try_into().unwrap_or_default(),
            now.tv_nsec.try_into().unwrap_or_default(),
        );
        let word = |at: &[u8]| at.try_into().map_or(0, u64::from_le_bytes);
        let entries = bytes.as_chunks::<ENTRY>().0.iter();
        let begun = entries
            .map(|entry| {
                let (number, time) = entry.split_at(ENTRY / 2);
                let ago = now.saturating_sub(Duration::from_nanos(word(time)));
                Begun { number: word(number), ago }
            })
            .filter(|begun| begun.number != 0);
        Some(begun.collect())
    }
}
