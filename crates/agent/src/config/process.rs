//! What can be said of a program that is an agent?

use super::keys::handed_on;
use crate::{
    Crew, ProcessWorker, Program,
    sandbox::{Profile, Sandbox},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

/// An agent that is a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// The program and its arguments. No shell is involved.
    pub command: Vec<String>,
    /// Whether it is started for each run. Default: it is.
    #[serde(default)]
    pub mode: ProcessMode,
    /// Where it runs. Default: where Windlass runs.
    #[serde(default)]
    pub dir: Option<PathBuf>,
    /// Variables set for it. It sees no others, but for `PATH`, `HOME`, `LANG`, `LC_*`, `TMPDIR` and `TZ`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Names of variables handed on to it; where `NAME` is not set, the content of the file that `NAME_FILE` names.
    #[serde(default)]
    pub env_from: Vec<String>,
    /// How long one run may take, in seconds. Default: as long as it shows signs of life.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// The most it may answer (`once`), or say in one line (`worker`), in bytes. Default: 1 MiB.
    #[serde(default = "output_limit")]
    pub output_limit: usize,
    /// The most processes of a worker, and so the most runs at a time. Default: 4.
    #[serde(default)]
    pub processes: Option<usize>,
    /// How long an idle worker stays, in seconds. Default: 300.
    #[serde(default)]
    pub idle_seconds: Option<u64>,
    /// What it may do. Default: what its user may; it dies with Windlass.
    #[serde(default)]
    pub sandbox: Sandbox,
}

/// How a program is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessMode {
    /// One execution per run.
    #[default]
    Once,
    /// A few long-lived processes that speak the process protocol.
    Worker,
}

fn output_limit() -> usize {
    Program::STDOUT_LIMIT
}

impl ProcessConfig {
    pub(super) fn summary(&self) -> String {
        let command = self.command.join(" ");
        let does = match self.mode {
            ProcessMode::Once => format!("runs {command} for each run"),
            ProcessMode::Worker => format!("keeps up to {} of {command}", self.crew().processes),
        };
        match self.walls().profile() {
            Profile::None => does,
            Profile::Workspace => format!("{does}, within its workspace"),
        }
    }

    fn walls(&self) -> Sandbox {
        self.sandbox.or(Profile::None)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err("command is empty; name a program and its arguments: [\"python3\", \"agent.py\"]".into());
        }
        let worker_only = [("processes", self.processes.is_some()), ("idle_seconds", self.idle_seconds.is_some())];
        for (setting, is_set) in worker_only {
            if is_set && self.mode == ProcessMode::Once {
                return Err(format!("{setting} is for mode = \"worker\" only; set the mode or remove it"));
            }
        }
        let counts = [
            ("output_limit", Some(self.output_limit as u64)),
            ("timeout_seconds", self.timeout_seconds),
            ("processes", self.processes.map(|processes| processes as u64)),
        ];
        match counts.iter().find(|(_, count)| *count == Some(0)) {
            Some((setting, _)) => Err(format!("{setting} is 0; it is at least 1")),
            None => self.walls().check(self.dir.as_deref()).map_err(|error| error.to_string()),
        }
    }

    /// What is handed on to the program.
    pub(super) fn keys(&self) -> Result<Vec<(OsString, SecretString)>, String> {
        handed_on(&self.env_from)
    }

    pub(super) fn program(&self) -> Result<Program, String> {
        let mut program = Program::new(&self.command);
        program.secret_env = self.keys()?;
        program.env = self.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        program.dir = self.dir.clone();
        program.stdout_limit = self.output_limit;
        program.time_limit = self.timeout_seconds.map(Duration::from_secs);
        program.sandbox = self.walls();
        Ok(program)
    }

    pub(super) fn worker(&self) -> Result<ProcessWorker, String> {
        Ok(ProcessWorker::new(self.program()?, self.crew()))
    }

    fn crew(&self) -> Crew {
        let usual = Crew::default();
        Crew {
            processes: self.processes.unwrap_or(usual.processes),
            idle_after: self.idle_seconds.map_or(usual.idle_after, Duration::from_secs),
        }
    }
}
