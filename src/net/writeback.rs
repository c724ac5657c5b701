//! Has what is written to a file go to the disk while more is written, so that the sync at its end has little left to do.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Bytes after which it is worth it.
const STEP: u64 = 32 << 20;
/// Files that may wait for the disk.
const WAITING: usize = 4;

/// Files on their way to the disk.
#[derive(Debug)]
pub struct Writeback {
    /// Who brings them there; nobody when there may be no more threads.
    thread: Option<(SyncSender<File>, JoinHandle<io::Result<()>>)>,
    /// Bytes since it was last worth it.
    bytes: u64,
}

impl Default for Writeback {
    fn default() -> Self {
        let (to, files) = sync_channel::<File>(WAITING);
        let thread = Builder::new().spawn(move || {
            let mut ended = Ok(());
            for file in files {
                // the kernel tells of a failure once: it is kept for whoever asks in the end
                let written = file.sync_data();
                ended = ended.and(written);
            }
            ended
        });
        Self { thread: thread.ok().map(|thread| (to, thread)), bytes: 0 }
    }
}

impl Writeback {
    /// Hears that `count` bytes were written to `file`. Waits for nothing.
    pub fn wrote(&mut self, file: &File, count: usize) {
        self.bytes += count as u64;
        let Some((to, _)) = &self.thread else { return };
        if self.bytes >= STEP && file.try_clone().is_ok_and(|file| to.try_send(file).is_ok()) {
            self.bytes = 0;
        }
    }

    /// Has all of `file` go to the disk by [`Writeback::finish`]; waits if many others are on their way.
    pub fn whole(&mut self, file: &File) -> io::Result<()> {
        self.bytes = 0;
        let Some((to, _)) = &self.thread else { return file.sync_data() };
        to.send(file.try_clone()?).map_err(|_| stopped())
    }

    /// Waits until all is there; how it failed if it did.
    pub fn finish(self) -> io::Result<()> {
        let Some((to, thread)) = self.thread else { return Ok(()) };
        drop(to);
        thread.join().map_err(|_| stopped())?
    }
}

fn stopped() -> io::Error {
    io::Error::other("what writes to the disk has stopped")
}
