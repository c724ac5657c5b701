//! Syncs files while they are written, so that the final sync has little to do.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Bytes after which a sync is started.
const STEP: u64 = 32 << 20;
/// Files that may wait for the disk.
const WAITING: usize = 4;

/// Syncs files in a thread.
#[derive(Debug)]
pub struct Writeback {
    /// The thread; `None` if no more threads can be started.
    thread: Option<(SyncSender<File>, JoinHandle<io::Result<()>>)>,
    /// Bytes since the last sync was started.
    bytes: u64,
}

impl Default for Writeback {
    fn default() -> Self {
        let (to, files) = sync_channel::<File>(WAITING);
        let thread = Builder::new().spawn(move || {
            let mut ended = Ok(());
            for file in files {
                // the kernel reports a failure only once, so it is kept for the end
                let written = file.sync_data();
                ended = ended.and(written);
            }
            ended
        });
        Self { thread: thread.ok().map(|thread| (to, thread)), bytes: 0 }
    }
}

impl Writeback {
    /// Call this after writing `count` bytes to `file`. It does not block.
    pub fn wrote(&mut self, file: &File, count: usize) {
        self.bytes += count as u64;
        let Some((to, _)) = &self.thread else { return };
        if self.bytes >= STEP && file.try_clone().is_ok_and(|file| to.try_send(file).is_ok()) {
            self.bytes = 0;
        }
    }

    /// Syncs all of `file` by [`Writeback::finish`]; blocks while many others are waiting.
    pub fn whole(&mut self, file: &File) -> io::Result<()> {
        self.bytes = 0;
        let Some((to, _)) = &self.thread else { return file.sync_data() };
        to.send(file.try_clone()?).map_err(|_| stopped())
    }

    /// Waits until all files are synced.
    pub fn finish(self) -> io::Result<()> {
        let Some((to, thread)) = self.thread else { return Ok(()) };
        drop(to);
        thread.join().map_err(|_| stopped())?
    }
}

fn stopped() -> io::Error {
    io::Error::other("the thread that writes to the disk has stopped")
}
