//! How does a process give up what the program that it becomes shall not have?
//!
//! It is a child of the launcher, which itself stays as it is: without the program's limits, and outside its walls. A
//! program can therefore neither signal nor trace its launcher from behind them. A launcher that is killed all the same,
//! by whoever may, takes the program with it; what the program has started is then nobody's.

use super::{CONFINED, READY, Sandbox, calls::refuse, files::wall_in, launcher::not_started};
use rustix::{
    process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, nice, set_parent_process_death_signal, setrlimit},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};
use serde::{Deserialize, Serialize};
use std::{
    convert::Infallible,
    error::Error,
    ffi::OsString,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// How much the program yields to its launcher, where processes are counted: so that this gets to do it.
const YIELDING: i32 = 10;

/// What a process is told that becomes a program, as its first argument. The program and its arguments follow; without
/// any it only puts up the walls and says whether they stand.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Bounds {
    /// With whom it ends.
    pub(super) launcher: i32,
    pub(super) sandbox: Sandbox,
    /// The private temporary folder; none: there are no walls.
    pub(super) temporary: Option<PathBuf>,
}

impl Bounds {
    /// The command that becomes this program within these bounds.
    pub(super) fn command(&self, argv: &[OsString]) -> serde_json::Result<Command> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(CONFINED).arg(serde_json::to_string(self)?).args(argv);
        for variable in ["TMPDIR", "HOME"] {
            if let (Some(folder), None) = (&self.temporary, std::env::var_os(variable)) {
                command.env(variable, folder);
            }
        }
        Ok(command)
    }
}

/// Confines this process, and becomes the program.
pub(super) fn run(mut arguments: impl Iterator<Item = OsString>) -> ! {
    let bounds = arguments.next().unwrap_or_default();
    let Err(error) = become_program(&bounds, &arguments.collect::<Vec<_>>());
    not_started(&*error)
}

fn become_program(bounds: &OsString, argv: &[OsString]) -> Result<Infallible, Box<dyn Error>> {
    let Bounds { launcher, sandbox, temporary } = serde_json::from_slice(bounds.as_encoded_bytes())?;
    if sandbox.processes.is_some() {
        nice(YIELDING)?;
    }
    let missing = confine(&sandbox, temporary.as_deref())?;
    let Some((name, arguments)) = argv.split_first() else {
        write!(io::stdout(), "{READY}{}", missing.join("; "))?;
        std::process::exit(0);
    };
    // Kept over `exec`, which gives nobody more rights here. The launcher has one thread, and ends with it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(Pid::as_raw_pid) != Some(launcher) {
        return Err("its launcher is gone".into());
    }
    let error = Command::new(name).args(arguments).exec();
    Err(format!("{}: {error}", name.display()).into())
}

/// Confines this process and all that it starts, for ever; with walls, if there is a temporary folder within them. It
/// has one thread. Says what is missing, if that is allowed.
fn confine(sandbox: &Sandbox, temporary: Option<&Path>) -> Result<Vec<String>, Box<dyn Error>> {
    limit(sandbox)?;
    set_no_new_privs(true)?;
    let mut missing = Vec::new();
    if let Some(temporary) = temporary {
        missing.extend(wall_in(sandbox, temporary)?);
        let kept = capabilities(None)?.permitted & CapabilitySet::DAC_OVERRIDE;
        set_capabilities(
            None,
            CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
        )?;
        // Last, because it refuses what the others may need.
        match refuse(sandbox.network) {
            Err(error) if sandbox.best_effort => {
                missing.push(format!("system calls cannot be refused here ({error}): there are all, and a network"));
            }
            refused => refused?,
        }
    }
    Ok(missing)
}

fn limit(sandbox: &Sandbox) -> Result<(), rustix::io::Errno> {
    let limits = [
        (Resource::Data, sandbox.memory_bytes),
        (Resource::Fsize, sandbox.file_bytes),
        (Resource::Nofile, sandbox.open_files),
        (Resource::Cpu, sandbox.cpu_seconds),
    ];
    for (resource, limit) in limits {
        if let Some(limit) = limit {
            // Above what we have ourselves there is nothing to give.
            let limit = Some(getrlimit(resource).maximum.map_or(limit, |ours| ours.min(limit)));
            setrlimit(resource, Rlimit { current: limit, maximum: limit })?;
        }
    }
    Ok(())
}
