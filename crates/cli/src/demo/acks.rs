//! What was acknowledged, as the one who heard it wrote it down?
//!
//! The parent appends a line for each answer and syncs it before it does anything else, so that its log is true
//! whatever happens to the worker and its store.

use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};
use windlass::{InputId, SessionId};

/// One answer that was heard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ack {
    pub(crate) session: SessionId,
    pub(crate) input: InputId,
    pub(crate) answer: Answer,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Accepted,
    Deduplicated { existing: InputId },
    Rejected { code: String },
}

/// The log, open for writing.
pub(crate) struct AckLog {
    file: File,
}

impl AckLog {
    pub(crate) fn create(dir: &Path) -> io::Result<AckLog> {
        let file = File::options().create_new(true).append(true).open(file(dir))?;
        File::open(dir)?.sync_all()?;
        Ok(AckLog { file })
    }

    pub(crate) fn write(&mut self, ack: &Ack) -> io::Result<()> {
        let mut line = serde_json::to_vec(ack)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()
    }
}

/// Reads the log from disk again.
pub(crate) fn read(dir: &Path) -> io::Result<Vec<Ack>> {
    BufReader::new(File::open(file(dir))?).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

pub(crate) fn file(dir: &Path) -> PathBuf {
    dir.join("acknowledged.jsonl")
}
