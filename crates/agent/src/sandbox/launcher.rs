//! How does a launcher start a program, and end all that comes of it?
//!
//! It is the subreaper of what it starts: whoever loses its parent becomes a child of the launcher, in whatever session
//! or group it is. So there is an end: kill all children, wait, kill those that took their places, until there are none.
//! A child's number is not given to another process before the launcher has waited for it, so nobody else is hit.
//!
//! The program's limits and walls are not its own: it starts itself once more, as the process that takes them on and then
//! [becomes](super::confine) the program. What a program may have left would else be too little to end it.
//!
//! Its only reasons to end are the program's end, a signal that asks for it, and the end of the process that started it.

use super::{LAUNCHER, Order, Profile, confine::Bounds};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, getppid,
        kill_process, kill_process_group, pidfd_open, set_child_subreaper, setpriority_process, setrlimit, setsid,
        wait, waitid, waitpid,
    },
    stdio::{dup2_stdin, dup2_stdout},
};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    flag,
    low_level::{emulate_default_handler, pipe},
};
use std::{
    convert::Infallible,
    error::Error,
    ffi::OsString,
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixStream,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How often processes are counted, where there is a limit.
const COUNTING: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Who is first to run: the highest priority that is no real-time one.
const FIRST: i32 = -20;
/// How long killed processes are waited for before the next look.
const DYING: Duration = Duration::from_millis(1);
/// The status of what was never started: `EX_CONFIG`, because another try would end the same way.
const NOT_STARTED: i32 = 78;

/// Does the work of a launcher, and ends this process as the program has ended.
pub(super) fn run(mut arguments: impl Iterator<Item = OsString>) -> ! {
    let order = arguments.next().unwrap_or_default();
    let Err(error) = launch(&order, &arguments.collect::<Vec<_>>());
    not_started(&*error)
}

/// Ends this process, which has not become the program, or not started it.
pub(super) fn not_started(error: &dyn Error) -> ! {
    complain(&format!("the program is not started: {error}"));
    std::process::exit(NOT_STARTED)
}

/// Says something to whoever reads the program's complaints.
fn complain(words: &str) {
    // Nobody reads them any more: then nobody wants to know.
    let _ = writeln!(io::stderr(), "{LAUNCHER}: {words}");
}

fn launch(order: &OsString, argv: &[OsString]) -> Result<Infallible, Box<dyn Error>> {
    let Order { host, sandbox, temp } = serde_json::from_slice(order.as_encoded_bytes())?;
    // A leader of a session already, if it was started from a shell.
    let _ = setsid();
    let parent = getppid().ok_or("the process that started it cannot be seen")?;
    let host_fd = pidfd_open(parent, PidfdFlags::empty())?;
    // Whoever is our parent after its end has another number, and is not watched in its place.
    if getppid().map(Pid::as_raw_pid) != i32::try_from(host).ok() {
        return Err("the process that started it is gone".into());
    }
    set_child_subreaper(Some(getpid()))?;
    let children = Children::of(getpid(), getpid());
    let children = children.map_err(|error| format!("this kernel does not list children: {error}"))?;
    // No core dumps, neither of the program nor of us, who end as it does.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let signals = Signals::listen()?;
    let temporary = match sandbox.profile() {
        Profile::None => None,
        Profile::Workspace => Some(Temporary::make(&temp)?),
    };

    let processes = sandbox.processes;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    let folder = temporary.as_ref().map(|temporary| temporary.0.clone());
    let mut command = Bounds { launcher: getpid().as_raw_pid(), sandbox, temporary: folder }.command(argv)?;
    let child = Pid::from_child(&command.process_group(0).spawn()?);
    if processes.is_some() {
        // Before all that multiplies, which else leaves us no time to count it. Only root may.
        let _ = setpriority_process(None, FIRST);
    }
    // Whoever waits for the end of what the program says does not wait for us.
    let watched = dup2_stdin(&nothing)
        .and_then(|()| dup2_stdout(&nothing))
        .map_err(io::Error::from)
        .and_then(|()| watch(child, &children, &host_fd, signals, processes));
    let status = end(child, &children);
    drop(temporary);
    match (watched, processes) {
        (Ok(true), Some(most)) => {
            complain(&format!("there were more than {most} processes and threads, and all were killed"));
        }
        (Ok(_), _) => {}
        (Err(error), _) => complain(&format!("the program could not be watched any more, and was killed: {error}")),
    }
    let status = status?;
    if let Some(signal) = status.terminating_signal() {
        // Does not return, but for signals that end nobody.
        let _ = emulate_default_handler(signal);
    }
    std::process::exit(status.exit_status().unwrap_or(NOT_STARTED))
}

/// Waits until everything is to end; says whether processes have become too many. Reaps those that lose
/// their parents meanwhile.
fn watch(child: Pid, children: &Children, host: &OwnedFd, mut signals: Signals, most: Option<u64>) -> io::Result<bool> {
    loop {
        signals.drain();
        // Not reaped yet, so that the number of its group stays its own.
        let ended = waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)?;
        if ended.is_some() || signals.end.load(Ordering::Relaxed) {
            return Ok(false);
        }
        for orphan in children.list()?.into_iter().filter(|pid| *pid != child) {
            waitpid(Some(orphan), WaitOptions::NOHANG)?;
        }
        if most.is_some_and(are_more) {
            return Ok(true);
        }
        let mut sources = [PollFd::new(host, PollFlags::IN), PollFd::new(&signals.wake, PollFlags::IN)];
        match poll(&mut sources, most.map(|_| &COUNTING)) {
            Ok(_) if !sources[0].revents().is_empty() => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills all there is, and returns how the program has ended.
fn end(child: Pid, children: &Children) -> io::Result<WaitStatus> {
    // At one blow, so that what multiplies in its group has no time to. An error means that the group is empty.
    let _ = kill_process_group(child, Signal::KILL);
    let mut ended = None;
    loop {
        // Where they cannot be listed now, there is another look.
        for pid in children.list().unwrap_or_default() {
            // Not possible for one that is dead and not reaped.
            let _ = kill_process(pid, Signal::KILL);
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == child => ended = Some(status),
                Ok(Some(_)) => {}
                Ok(None) => break,
                // There are none any more.
                Err(_) => return ended.ok_or_else(|| io::Error::other("the program was reaped by somebody else")),
            }
        }
        thread::sleep(DYING);
    }
}

/// The children of a thread of a process: kept open, so that a look at our own needs no file that we may not get.
struct Children(File);

impl Children {
    fn of(process: Pid, thread: Pid) -> io::Result<Children> {
        let (process, thread) = (process.as_raw_pid(), thread.as_raw_pid());
        File::open(format!("/proc/{process}/task/{thread}/children")).map(Children)
    }

    fn list(&self) -> io::Result<Vec<Pid>> {
        let (mut file, mut listed) = (&self.0, String::new());
        file.rewind()?;
        file.read_to_string(&mut listed)?;
        Ok(listed.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
    }
}

/// Whether our descendants have more threads than this, as far as they hold still to be counted. Counts no further: there
/// may be very many. Those that we may not count are more.
fn are_more(than: u64) -> bool {
    // We are the first.
    let (mut threads, mut unseen) = (0, vec![getpid()]);
    while let Some(process) = unseen.pop() {
        match count(process, &mut unseen) {
            Ok(counted) => threads += counted,
            Err(error) if is_gone(&error) => {}
            Err(_) => return true,
        }
        if threads > than.saturating_add(1) {
            return true;
        }
    }
    false
}

/// How many threads a process has; adds its children.
fn count(process: Pid, children: &mut Vec<Pid>) -> io::Result<u64> {
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", process.as_raw_pid()))? {
        let name = thread?.file_name();
        let Some(thread) = name.to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else { continue };
        threads += 1;
        match Children::of(process, thread).and_then(|of_thread| of_thread.list()) {
            Ok(of_thread) => children.extend(of_thread),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(threads)
}

/// Whether what was asked for has ended meanwhile.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Signals of interest.
struct Signals {
    /// Has something to read when there was one.
    wake: UnixStream,
    /// Whether there was one that asks us to end.
    end: Arc<AtomicBool>,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let end = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
            flag::register(signal, Arc::clone(&end))?;
        }
        // After the flag, which is then set before anybody looks.
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCHLD] {
            pipe::register(signal, waker.try_clone()?)?;
        }
        Ok(Signals { wake, end })
    }

    fn drain(&mut self) {
        while matches!(self.wake.read(&mut [0; 64]), Ok(1..)) {}
    }
}

/// The program's own temporary folder, which goes with it.
struct Temporary(PathBuf);

impl Temporary {
    /// Makes one that nobody else can look into.
    fn make(parent: &Path) -> io::Result<Temporary> {
        let pid = std::process::id();
        let mut number = 0_u32;
        loop {
            let path = parent.join(format!("{LAUNCHER}-{pid}-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Temporary(path)),
                // Left by one that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0).or_else(|_| {
            open_up(&self.0)?;
            fs::remove_dir_all(&self.0)
        });
        if let Err(error) = removed {
            complain(&format!("{} is left behind: {error}", self.0.display()));
        }
    }
}

/// Gives us the rights to remove what is in a folder: caches of packages are often made read-only. Follows no links.
fn open_up(folder: &Path) -> io::Result<()> {
    let mut closed = vec![folder.to_owned()];
    while let Some(folder) = closed.pop() {
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                closed.push(entry.path());
            }
        }
    }
    Ok(())
}
