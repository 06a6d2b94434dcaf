//! How does the log get out, when nobody may wait for whoever reads it?
//!
//! A pipe that nobody reads, a terminal that was stopped, a full disk: a write to standard error may wait for ever, and
//! with it whoever logs. Lines go into a queue of bounded length, and a thread of its own writes them. What does not fit
//! is left out, counted, and told in the log as soon as it is read again.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written.
const QUEUED: usize = 4_096;
/// How long the last lines of a process may take.
const LAST_LINES: Duration = Duration::from_secs(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);
static STANDARD_ERROR: OnceLock<SyncSender<Said>> = OnceLock::new();

enum Said {
    Line(Vec<u8>),
    /// Whoever wants to know that all before it was written.
    Flush(SyncSender<()>),
}

/// Lines of the log that were left out since the process began, because nobody read what was before them.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits until what was logged so far is written, a second at most: for the end of a process.
pub fn flush() {
    let Some(queue) = STANDARD_ERROR.get() else { return };
    let (written, wait) = mpsc::sync_channel(1);
    // An error says that the queue is full, or the last second over: then the rest is lost, as it would be.
    if queue.try_send(Said::Flush(written)).is_ok() {
        let _ = wait.recv_timeout(LAST_LINES);
    }
}

/// Standard error, for whoever may not wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlet;

impl<'a> MakeWriter<'a> for Outlet {
    type Writer = Outlet;

    fn make_writer(&'a self) -> Outlet {
        Outlet
    }
}

impl Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let queue = STANDARD_ERROR.get_or_init(|| {
            let (queue, said) = mpsc::sync_channel(QUEUED);
            // Without a thread nothing is written, and all of it counted.
            drop(thread::Builder::new().name("log".into()).spawn(move || write_all(&said, io::stderr())));
            queue
        });
        if queue.try_send(Said::Line(line.to_vec())).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what is said, until nobody can say anything any more.
fn write_all(said: &Receiver<Said>, mut to: impl Write) {
    let mut told = 0;
    for said in said {
        match said {
            // A standard error that is closed is no reason to stop.
            Said::Line(line) => drop(to.write_all(&line)),
            Said::Flush(written) => drop(written.try_send(())),
        }
        let dropped = dropped();
        if dropped > told {
            // As everything is told: into the queue, which has room for it again, or else it is told with the next ones.
            tracing::warn!(lines = dropped - told, "lines of the log were left out");
            told = dropped;
        }
    }
}
