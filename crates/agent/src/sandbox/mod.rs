//! What may a program do that an agent starts, and who sees to it?
//!
//! Between us and each program stands a *launcher*: a process of our own executable that starts the program behind the
//! walls of its [`Profile`], and stays. It ends everything that the program has started, however deep and in whatever
//! session, when the program has ended, when we let the program go, and when we are gone, killed with `SIGKILL` too.
//!
//! | | `none` | `workspace` |
//! |---|---|---|
//! | ends with us, all descendants too; no controlling terminal, no core dumps | yes | yes |
//! | `NO_NEW_PRIVS`: set-user-id programs and file capabilities give it nothing | yes | yes |
//! | limits | those that are set | those that are set, for the others [`Sandbox::workspace_limits`] |
//! | files | as its user | reads what programs need to run, and `read`; writes in its folder, `write` and a private temporary folder (`TMPDIR`, `HOME`), which goes with it |
//! | network | as its user | none, unless `network`; no Unix sockets either, for behind those stand other people's servers |
//! | other processes | as its user | traces none, limits none; signals those it started (from Linux 6.12 on) |
//! | system calls | all | none that mount, load modules, make namespaces, reach keys, BPF, io_uring, performance counters, the clock |
//! | as root, which is logged as a warning | with all capabilities | with none but `CAP_DAC_OVERRIDE` |
//!
//! What `workspace` is not: a virtual machine. The kernel is shared, and so are processors and disk space; mode, owner
//! and times of files outside can be changed by whoever owns them; the command lines of other processes can be read.
//!
//! Our executable must know that it may be started as a launcher: call [`launch_if_asked`] first in `main`. Where that
//! is not possible, name one that does with [`use_launcher`]; `windlass-launch` comes with this crate. Without either
//! `workspace` is refused, and `none` is a process group that is killed when a program is let go, and outlives us if we
//! are killed ourselves.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod confine;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod launcher;

use serde::{Deserialize, Serialize};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Once, OnceLock},
};

/// By this name of itself an executable knows that it is started as a launcher.
const LAUNCHER: &str = "windlass-launch";
/// By this name it knows that a launcher has started it to become the program.
const CONFINED: &str = "windlass-confined";
/// How a launcher that was given no program says that its walls stand; what is missing follows.
const READY: &str = "ready ";
/// What is started as a launcher.
static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
/// Once is enough for all agents.
static WARNING: Once = Once::new();

/// The walls around a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// It may do what its user may, within its limits, and dies with us.
    None,
    /// It works in its folder, without a network.
    Workspace,
}

impl Profile {
    /// As it is written in a configuration file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Profile::None => "none",
            Profile::Workspace => "workspace",
        }
    }
}

/// What a program may do, as a configuration file declares it.
///
/// ```
/// use windlass_agent::sandbox::{Profile, Sandbox};
///
/// let sandbox: Sandbox = toml::from_str(r#"
///     profile = "workspace"
///     read = ["/srv/models"]
///     memory_bytes = 1_073_741_824
/// "#)?;
/// assert_eq!(sandbox.profile, Some(Profile::Workspace));
/// assert!(!sandbox.network);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// The walls around it. Default: `workspace` for what a model starts, `none` for programs that you name yourself.
    pub profile: Option<Profile>,
    /// `workspace`: whether it may use the network (IPv4, IPv6).
    pub network: bool,
    /// `workspace`: files and folders that it may read and run, beside those of the system. Absolute.
    pub read: Vec<PathBuf>,
    /// `workspace`: files and folders that it may change, beside the one where it runs. Absolute.
    pub write: Vec<PathBuf>,
    /// The most memory of one process, in bytes: what it may write to and shares with nobody (`RLIMIT_DATA`).
    pub memory_bytes: Option<u64>,
    /// The longest file that it may write, in bytes.
    pub file_bytes: Option<u64>,
    /// The most processes and threads that it and its descendants may have at a time. Counted twenty times a second; if
    /// there are more, all are killed. So that there is time for it, they run at a lower priority (10 less).
    pub processes: Option<u64>,
    /// The most files that one process may have open.
    pub open_files: Option<u64>,
    /// The most processor time of one process, in seconds.
    pub cpu_seconds: Option<u64>,
    /// Where the system cannot make all the walls of the profile: whether to warn, and start programs all the same.
    /// Default: they are refused.
    pub best_effort: bool,
}

/// Why a sandbox cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// A setting cannot be used.
    #[error("invalid_setting: sandbox.{field}: {problem}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// Why, and what would be right.
        problem: String,
    },
    /// The system does not give what the profile promises.
    #[error(
        "sandbox_unavailable: {reason}; set profile = \"none\" to do without, or best_effort = true for what there is"
    )]
    Unavailable {
        /// What is missing.
        reason: String,
    },
}

impl SandboxError {
    /// Stable.
    pub const fn code(&self) -> &'static str {
        match self {
            SandboxError::Invalid { .. } => "invalid_setting",
            SandboxError::Unavailable { .. } => "sandbox_unavailable",
        }
    }
}

/// What a launcher is told, as its first argument. The program and its arguments follow; without any the walls are only
/// put up, and it is said whether they stand.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// With whom everything ends.
    host: u32,
    sandbox: Sandbox,
    /// Where the private temporary folder is made.
    temp: PathBuf,
}

impl Sandbox {
    /// Limits of the profile `workspace` where nothing else is set: no build or script needs more, and what runs away
    /// leaves the machine to others. 4 GiB of memory for a process, files of 4 GiB, 1,024 open files, 1,024 processes
    /// and threads.
    pub fn workspace_limits() -> Sandbox {
        Sandbox {
            memory_bytes: Some(4 << 30),
            file_bytes: Some(4 << 30),
            processes: Some(1024),
            open_files: Some(1024),
            ..Sandbox::default()
        }
    }

    /// The walls around a program.
    pub fn profile(&self) -> Profile {
        self.profile.unwrap_or(Profile::None)
    }

    /// With this profile where none is set, and the limits of the profile where none are.
    #[must_use]
    pub fn or(&self, usual: Profile) -> Sandbox {
        let profile = self.profile.unwrap_or(usual);
        let limits = match profile {
            Profile::None => Sandbox::default(),
            Profile::Workspace => Sandbox::workspace_limits(),
        };
        Sandbox {
            profile: Some(profile),
            memory_bytes: self.memory_bytes.or(limits.memory_bytes),
            file_bytes: self.file_bytes.or(limits.file_bytes),
            processes: self.processes.or(limits.processes),
            open_files: self.open_files.or(limits.open_files),
            ..self.clone()
        }
    }

    /// Whether programs in this folder can be started as promised: puts up the walls for nobody, in a process that ends
    /// at once. Takes a few milliseconds. With `best_effort`, what is missing is logged as a warning.
    ///
    /// # Errors
    /// [`SandboxError`] names the setting, or what the system lacks.
    pub fn check(&self, dir: Option<&Path>) -> Result<(), SandboxError> {
        let invalid = |field, problem: &str| Err(SandboxError::Invalid { field, problem: problem.into() });
        if self.profile() == Profile::None {
            return match () {
                () if self.network => invalid("network", "it is for profile = \"workspace\"; set that or remove it"),
                () if !self.read.is_empty() => invalid("read", "it is for profile = \"workspace\"; remove it"),
                () if !self.write.is_empty() => invalid("write", "it is for profile = \"workspace\"; remove it"),
                () => Ok(()),
            };
        }
        if dir.is_none() {
            return invalid("profile", "workspace needs a folder to work in: set dir");
        }
        for (field, paths) in [("read", &self.read), ("write", &self.write)] {
            if let Some(path) = paths.iter().find(|path| !path.is_absolute() || !path.exists()) {
                return invalid(field, &format!("{} is not there, or not absolute", path.display()));
            }
        }
        match (self.rehearse(), self.best_effort) {
            (Ok(missing), _) if missing.is_empty() => Ok(()),
            (Ok(reason) | Err(reason), true) => {
                tracing::warn!(reason, "programs are started with less of a sandbox than their profile promises");
                Ok(())
            }
            (Ok(reason) | Err(reason), false) => Err(SandboxError::Unavailable { reason }),
        }
    }

    /// Puts up the walls for nobody, and says what is missing.
    fn rehearse(&self) -> Result<String, String> {
        let launcher = EXECUTABLE.get().ok_or(NO_LAUNCHER)?;
        let mut command = Command::new(launcher);
        let output = self.order(&mut command, &[] as &[&OsStr]).env_clear().output();
        let output = output.map_err(|error| format!("the launcher {} does not start: {error}", launcher.display()))?;
        let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        said.strip_prefix(READY).map(str::to_owned).ok_or_else(|| format!("{} ({})", complaint.trim(), output.status))
    }

    /// Makes a command of the launcher's executable start this program.
    fn order<'c>(&self, command: &'c mut Command, argv: &[impl AsRef<OsStr>]) -> &'c mut Command {
        use std::os::unix::process::CommandExt;
        let order = Order { host: std::process::id(), sandbox: self.clone(), temp: std::env::temp_dir() };
        // A path that is no UTF-8 cannot be told; the launcher, told nothing, refuses.
        let order = serde_json::to_string(&order).unwrap_or_default();
        command.arg0(LAUNCHER).arg(order).args(argv)
    }

    /// The command that starts a program, and whether it is a launcher's, which is asked to end by `SIGTERM`.
    pub(crate) fn command(&self, argv: &[impl AsRef<OsStr>]) -> Result<(Command, bool), SandboxError> {
        WARNING.call_once(|| {
            if rustix::process::geteuid().is_root() {
                tracing::warn!("programs of agents run as root; run Windlass as a user of its own");
            }
        });
        match EXECUTABLE.get() {
            Some(launcher) => {
                let mut command = Command::new(launcher);
                self.order(&mut command, argv);
                Ok((command, true))
            }
            None if self.profile() == Profile::None || self.best_effort => {
                let mut argv = argv.iter();
                let mut command = Command::new(argv.next().map_or(OsStr::new(""), AsRef::as_ref));
                command.args(argv);
                Ok((command, false))
            }
            None => Err(SandboxError::Unavailable { reason: NO_LAUNCHER.into() }),
        }
    }
}

const NO_LAUNCHER: &str = if cfg!(target_os = "linux") {
    "this executable is no launcher: call windlass_agent::sandbox::launch_if_asked() first in main"
} else {
    "there is no sandbox but on Linux"
};

/// To be called first in `main`, before threads, files and arguments: where this process was started as a launcher it
/// does that work and never returns. Else programs are started by this executable from now on.
///
/// Does nothing but on Linux.
pub fn launch_if_asked() {
    #[cfg(target_os = "linux")]
    {
        let mut arguments = std::env::args_os();
        match arguments.next() {
            Some(name) if name == LAUNCHER => launcher::run(arguments),
            Some(name) if name == CONFINED => confine::run(arguments),
            _ => {}
        }
        // The very executable that runs, even if its file has been replaced meanwhile.
        use_launcher("/proc/self/exe");
    }
}

/// Lets programs be started by this executable, which calls [`launch_if_asked`]. The first one named stays.
///
/// Does nothing but on Linux.
pub fn use_launcher(executable: impl Into<PathBuf>) {
    if cfg!(target_os = "linux") {
        // Somebody was faster: either does.
        let _ = EXECUTABLE.set(executable.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Program, ProgramError, run};

    #[tokio::test]
    async fn without_a_launcher_walls_are_refused_unless_less_will_do() {
        assert!(EXECUTABLE.get().is_none(), "tests of the library have no launcher");
        let dir = std::env::temp_dir();
        let walls = Sandbox::default().or(Profile::Workspace);
        let less = Sandbox { best_effort: true, ..walls.clone() };
        let told = |sandbox: &Sandbox| sandbox.check(Some(&dir)).map_err(|error| error.code());
        assert_eq!((told(&walls), told(&less)), (Err("sandbox_unavailable"), Ok(())));
        let mut program = Program { dir: Some(dir.clone()), sandbox: walls, ..Program::new(["true"]) };
        let refused = run(&program, b"", |_| ()).await;
        assert!(matches!(refused, Err(ProgramError::Sandbox(SandboxError::Unavailable { .. }))), "{refused:?}");
        program.sandbox = less;
        assert!(run(&program, b"", |_| ()).await.expect("it runs").status.success());
    }

    #[test]
    fn a_profile_brings_limits_for_those_that_are_not_set() {
        let usual = Sandbox::workspace_limits();
        let set = Sandbox { processes: Some(7), ..Sandbox::default() };
        assert_eq!(set.or(Profile::None), Sandbox { profile: Some(Profile::None), ..set.clone() });
        let walled = Sandbox { profile: Some(Profile::Workspace), processes: Some(7), ..usual };
        assert_eq!(set.or(Profile::Workspace), walled);
        assert_eq!(walled.or(Profile::None), walled, "what is set stays");
    }
}
