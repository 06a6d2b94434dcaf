//! How does a thread give up what the programs that it starts shall not have?
//!
//! All of this but the limits is the thread's own: the launcher's other thread stays as it is, outside the walls. A
//! program can therefore neither signal nor trace its launcher from behind them.

use super::{Sandbox, calls::refuse, files::wall_in};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};
use std::{error::Error, path::Path};

/// Confines the calling thread and all that it starts, for ever; with walls, if there is a temporary folder within them.
/// Says what is missing, if that is allowed.
pub(super) fn confine(sandbox: &Sandbox, temporary: Option<&Path>) -> Result<Vec<String>, Box<dyn Error>> {
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
        (Resource::Core, Some(0)),
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
