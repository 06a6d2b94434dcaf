//! How are lines exchanged with a process, so that neither side can block or flood the other?

use crate::program::{CLOSING, Group, Lines, Program, ProgramError};
use futures_util::StreamExt;
use serde::Serialize;
use std::{collections::VecDeque, process::ExitStatus, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    process::{ChildStderr, ChildStdin, ChildStdout},
};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

/// Answers that a process has asked for and not read. It is not listened to while there are more.
const UNREAD: usize = 4 << 20;
/// How long its last complaints are read after it is gone.
const DRAINING: Duration = Duration::from_millis(500);

/// A process and its three pipes. Dropping it kills the process and all it has started.
pub(super) struct Link {
    group: Group,
    /// None once the process has closed it.
    feed: Option<ChildStdin>,
    unread: VecDeque<u8>,
    lines: FramedRead<ChildStdout, LinesCodec>,
    complaints: Lines<ChildStderr>,
    is_silent: bool,
}

/// What a process did.
#[derive(Debug)]
pub(super) enum Heard {
    /// It said a line.
    Line(String),
    /// It complained.
    Complaint(String),
    /// It is gone, or will never say anything again.
    End(End),
}

/// Why nothing more will be heard.
#[derive(Debug)]
pub(super) enum End {
    /// It has ended.
    Exited(ExitStatus),
    /// It closed its output and lived on.
    Lingered,
    /// It said something that is no line of text.
    Garbage(String),
    /// A line without an end.
    TooLong,
}

impl Link {
    pub(super) fn open(program: &Program) -> Result<Link, ProgramError> {
        let mut group = Group::spawn(program)?;
        let (feed, stdout, stderr) = group.pipes();
        let lines = FramedRead::new(stdout, LinesCodec::new_with_max_length(program.stdout_limit));
        let (unread, complaints) = (VecDeque::new(), Lines::new(stderr));
        Ok(Link { group, feed: Some(feed), unread, lines, complaints, is_silent: false })
    }

    /// Says a line, as soon as the process listens: whoever hears also says.
    pub(super) fn say(&mut self, message: &impl Serialize) {
        let line = serde_json::to_vec(message).expect("text, numbers and ids are always JSON");
        if self.feed.is_some() {
            // Deltas are told byte for byte, and those of another agent may have line ends between their members.
            self.unread.extend(line.into_iter().map(|byte| if byte == b'\n' { b' ' } else { byte }));
            self.unread.push_back(b'\n');
        }
    }

    /// What the process does next. Cancel-safe: what was read is kept, what was not written is written next time.
    pub(super) async fn hear(&mut self) -> Heard {
        loop {
            let is_listened_to = self.unread.len() < UNREAD;
            tokio::select! {
                written = write(&mut self.feed, &self.unread), if self.feed.is_some() && !self.unread.is_empty() => {
                    match written {
                        Some(written) => drop(self.unread.drain(..written)),
                        // That it closed its input is no error: it need not be told more.
                        None => {
                            self.feed = None;
                            self.unread.clear();
                        }
                    }
                }
                line = self.lines.next(), if is_listened_to => return match line {
                    Some(Ok(line)) => Heard::Line(line),
                    Some(Err(LinesCodecError::MaxLineLengthExceeded)) => Heard::End(End::TooLong),
                    Some(Err(LinesCodecError::Io(error))) => Heard::End(End::Garbage(error.to_string())),
                    None => Heard::End(self.ended().await),
                },
                line = self.complaints.next(), if !self.is_silent => match line {
                    Some(line) => return Heard::Complaint(line),
                    None => self.is_silent = true,
                },
            }
        }
    }

    /// How it ended, now that it has closed its output.
    async fn ended(&mut self) -> End {
        match tokio::time::timeout(CLOSING, self.group.wait()).await {
            Ok(Ok(status)) => {
                self.group.kill();
                End::Exited(status)
            }
            _ => End::Lingered,
        }
    }

    /// What it still had to complain of, for errors: asked when it has ended.
    pub(super) async fn last_words(&mut self, mut hear: impl FnMut(&str)) {
        self.group.kill();
        let reading = async {
            while let Some(line) = self.complaints.next().await {
                hear(&line);
            }
        };
        // Somebody who left its group may hold the pipe open; what was said in time is enough.
        let _ = tokio::time::timeout(DRAINING, reading).await;
    }
}

/// Writes some of what is unread; none if the pipe is closed. Cancel-safe, as a single write is.
async fn write(feed: &mut Option<ChildStdin>, unread: &VecDeque<u8>) -> Option<usize> {
    feed.as_mut()?.write(unread.as_slices().0).await.ok().filter(|written| *written > 0)
}
