//! How is one program run once, so that it can neither block, flood nor outlive its run?
//!
//! [`run`] feeds standard input while it reads standard output and error, so that no pipe can fill up and stop both
//! sides. Output is capped, and what the program has started is killed when it ends, misbehaves, or when the future is
//! dropped; how far that reaches, [`sandbox`](crate::sandbox) says. What the output means is [`process`](crate::process)'s business.

use crate::{
    sandbox::{Profile, Sandbox, SandboxError},
    secrets::given::cut_off,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use secrecy::{ExposeSecret, SecretString};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    pin::pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::{Instant, sleep_until},
};

/// Variables handed on from our own environment, beside every `LC_*`: what nearly every program needs and no secret.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TMPDIR", "TZ"];
/// How long a program may live on after it closed its standard output.
pub(crate) const CLOSING: Duration = Duration::from_secs(2);
/// How long is still read after the program is gone and its group killed. Only a process that left the group can
/// hold the pipes open then.
const DRAINING: Duration = Duration::from_secs(1);
/// Longer lines of standard error are cut, so that a program without line ends cannot fill memory.
const STDERR_LINE: usize = 4096;
/// The longest time limit: beyond it nobody waits, and a clock cannot count.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// A program and the bounds it runs in.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program and its arguments; no shell is involved.
    pub argv: Vec<OsString>,
    /// Variables set for it, beside the inherited ones: `PATH`, `HOME`, `LANG`, `LC_*`, `TMPDIR`, `TZ`.
    pub env: Vec<(OsString, OsString)>,
    /// Variables whose values are hidden where errors and logs quote it. Those of `env` replace them.
    pub secret_env: Vec<(OsString, SecretString)>,
    /// Where it runs; none: where we run.
    pub dir: Option<PathBuf>,
    /// The most it may write to standard output, in bytes.
    pub stdout_limit: usize,
    /// How long it may take; none: as long as the runtime lets it.
    pub time_limit: Option<Duration>,
    /// What it may do.
    pub sandbox: Sandbox,
}

impl Program {
    /// Most answers of an agent are far below this; what is larger belongs into a file.
    pub const STDOUT_LIMIT: usize = 1 << 20;

    /// A program with its arguments, the default bounds and nothing but the inherited variables.
    pub fn new(argv: impl IntoIterator<Item = impl Into<OsString>>) -> Program {
        let argv = argv.into_iter().map(Into::into).collect();
        Program {
            argv,
            env: Vec::new(),
            secret_env: Vec::new(),
            dir: None,
            stdout_limit: Program::STDOUT_LIMIT,
            time_limit: None,
            sandbox: Sandbox::default(),
        }
    }

    /// The variables that it sees. Behind walls `HOME` and `TMPDIR` are a folder of its own.
    fn variables(&self) -> impl Iterator<Item = (OsString, OsString)> {
        let walled = self.sandbox.profile() == Profile::Workspace;
        let handed_on = move |name: &OsStr| {
            name.as_encoded_bytes().starts_with(b"LC_")
                || INHERITED.iter().any(|known| *known == name) && !(walled && (name == "HOME" || name == "TMPDIR"))
        };
        let secret = self.secret_env.iter().map(|(name, value)| (name.clone(), value.expose_secret().into()));
        env::vars_os().filter(move |(name, _)| handed_on(name)).chain(secret).chain(self.env.iter().cloned())
    }

    /// What it was given and is not to be quoted with.
    pub(crate) fn secrets(&self) -> Vec<SecretString> {
        self.secret_env.iter().map(|(_, value)| value.clone()).collect()
    }

    /// Whether it is there to be started. Asked before its launcher is started, which could tell us in words only.
    fn look_for(&self, name: &OsStr) -> io::Result<()> {
        let executable = |path: &Path| match fs::metadata(path)? {
            found if found.is_file() && found.permissions().mode() & 0o111 != 0 => Ok(()),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        };
        let dir = self.dir.as_deref().unwrap_or(Path::new(""));
        if name.as_encoded_bytes().contains(&b'/') {
            return executable(&dir.join(name));
        }
        let path = self.variables().filter(|(name, _)| name == "PATH").last().map(|(_, path)| path).unwrap_or_default();
        let mut found = Err(io::ErrorKind::NotFound.into());
        for folder in env::split_paths(&path) {
            match executable(&dir.join(folder).join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => found = Err(error),
                Ok(()) => return Ok(()),
            }
        }
        found
    }
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
}

/// Why a program did not end by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("no program is given")]
    Empty,
    #[error("{program} cannot be started: {error}")]
    Spawn { program: String, error: io::Error },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("it wrote more than {limit} bytes to standard output and was killed")]
    TooMuchOutput { limit: usize },
    #[error("it closed its standard output, did not end within {CLOSING:?}, and was killed")]
    Lingered,
    #[error("it took longer than {limit:?} and was killed")]
    TimedOut { limit: Duration },
    #[error("its pipes broke: {0}")]
    Pipe(io::Error),
}

/// Runs the program once. `stderr` hears each line of standard error, cut to a few KiB with `…` for the rest,
/// without its line end.
///
/// Cancel-safe in this sense: a dropped call has the program killed, and everything that it has started.
pub(crate) async fn run(
    program: &Program,
    stdin: &[u8],
    mut stderr: impl FnMut(&str),
) -> Result<Finished, ProgramError> {
    let mut group = Group::spawn(program)?;
    let (mut feed, mut answer, mut complaints) = group.pipes();

    let mut told = false;
    let mut feeding = pin!(async move {
        // A program need not read what it is told; that it closed its end is no error.
        let _ = feed.write_all(stdin).await;
    });
    let mut stdout = None;
    let mut reading = pin!(read_capped(&mut answer, program.stdout_limit));
    let mut silent = false;
    let mut complaints = Lines::new(&mut complaints);
    let mut status = None;
    let mut deadline = program.time_limit.map(|limit| (Instant::now() + limit.min(FOR_EVER), Late::Running(limit)));

    loop {
        let at = deadline.map(|(at, _)| at);
        tokio::select! {
            () = &mut feeding, if !told => told = true,
            line = complaints.next(), if !silent => match line {
                Some(line) => stderr(&line),
                None => silent = true,
            },
            read = &mut reading, if stdout.is_none() => {
                stdout = Some(read?);
                if status.is_none() {
                    let closing = Instant::now() + CLOSING;
                    if at.is_none_or(|at| closing < at) {
                        deadline = Some((closing, Late::Closing));
                    }
                }
            }
            // Cancel-safe: waiting again for a child that has ended gives the same status.
            ended = group.wait(), if status.is_none() => {
                status = Some(ended.map_err(ProgramError::Pipe)?);
                // What it left running in the background holds the pipes open, and has no run any more.
                group.kill();
                deadline = Some((Instant::now() + DRAINING, Late::Draining));
            }
            () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => match deadline {
                Some((_, Late::Running(limit))) => return Err(ProgramError::TimedOut { limit }),
                Some((_, Late::Closing)) => return Err(ProgramError::Lingered),
                Some((_, Late::Draining)) | None => break,
            },
        }
        if status.is_some() && stdout.is_some() && silent {
            break;
        }
    }
    match (status, stdout) {
        (Some(status), Some(stdout)) => Ok(Finished { status, stdout }),
        // Somebody who left the group still holds the pipe: there is no telling whether the answer is whole.
        _ => Err(ProgramError::Lingered),
    }
}

/// What the deadline ends.
#[derive(Clone, Copy)]
enum Late {
    Running(Duration),
    Closing,
    Draining,
}

/// A program and all it starts, killed together when this is dropped.
pub(crate) struct Group {
    /// The program's launcher, or the program itself, which then leads a process group.
    child: Child,
    pid: Pid,
    is_launcher: bool,
    ended: bool,
}

impl Group {
    pub(crate) fn spawn(program: &Program) -> Result<Group, ProgramError> {
        let name = program.argv.first().ok_or(ProgramError::Empty)?;
        let failed = |error| ProgramError::Spawn { program: name.to_string_lossy().into_owned(), error };
        program.look_for(name).map_err(failed)?;
        let (mut command, is_launcher) = program.sandbox.command(&program.argv)?;
        command.env_clear().envs(program.variables());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(dir) = &program.dir {
            command.current_dir(dir);
        }
        if !is_launcher {
            // A launcher leads a session of its own, which who leads a group cannot.
            command.process_group(0);
        }
        let child = Command::from(command).spawn().map_err(failed)?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.expect("a child that nobody has waited for has a number");
        Ok(Group { child, pid, is_launcher, ended: false })
    }

    /// Its pipes: what it is told, says and complains of. To be taken once.
    pub(crate) fn pipes(&mut self) -> (ChildStdin, ChildStdout, ChildStderr) {
        match (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take()) {
            (Some(stdin), Some(stdout), Some(stderr)) => (stdin, stdout, stderr),
            _ => unreachable!("all three were asked to be pipes, and nobody has taken them"),
        }
    }

    /// Waits for the program itself, not for what it left behind: waiting for the whole group would wait for ever for
    /// a background child where we are process 1 of a container. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    pub(crate) fn kill(&mut self) {
        // Once is enough and more would be wrong: when all are gone, their numbers may be given to others. An error
        // means that nobody is left.
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if !self.is_launcher {
            let _ = kill_process_group(self.pid, Signal::KILL);
        } else if self.child.id().is_some() {
            // It kills all the others, even if somebody has stopped it. Once it has ended, they have.
            let _ = kill_process(self.pid, Signal::TERM).and_then(|()| kill_process(self.pid, Signal::CONT));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn read_capped(pipe: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Vec<u8>, ProgramError> {
    let mut read = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    pipe.take(most).read_to_end(&mut read).await.map_err(ProgramError::Pipe)?;
    if read.len() > limit { Err(ProgramError::TooMuchOutput { limit }) } else { Ok(read) }
}

/// The lines of a pipe, cut to a few KiB with `…` for the rest, without their line ends; what is no UTF-8 is replaced.
pub(crate) struct Lines<P> {
    pipe: P,
    chunk: Vec<u8>,
    /// How much of the chunk has been looked at.
    at: usize,
    pending: Vec<u8>,
    /// Whether more than is pending was read of the line.
    is_cut: bool,
}

impl<P: AsyncRead + Unpin> Lines<P> {
    pub(crate) fn new(pipe: P) -> Lines<P> {
        Lines { pipe, chunk: Vec::with_capacity(STDERR_LINE), at: 0, pending: Vec::new(), is_cut: false }
    }

    /// The next line; none when the pipe has ended or broken. Cancel-safe: what was read is kept.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            while self.at < self.chunk.len() {
                let rest = &self.chunk[self.at..];
                let piece = rest.iter().position(|byte| *byte == b'\n').map_or(rest, |end| &rest[..=end]);
                let room = STDERR_LINE - self.pending.len();
                let (kept, dropped) = piece.split_at(piece.len().min(room));
                self.pending.extend_from_slice(kept);
                self.is_cut |= !dropped.trim_ascii_end().is_empty();
                self.at += piece.len();
                if piece.ends_with(b"\n") {
                    return Some(self.take());
                }
            }
            self.at = 0;
            self.chunk.clear();
            match self.pipe.read_buf(&mut self.chunk).await {
                Ok(1..) => {}
                _ if self.pending.is_empty() => return None,
                _ => return Some(self.take()),
            }
        }
    }

    fn take(&mut self) -> String {
        let pending = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.is_cut) {
            return cut_off(&pending);
        }
        String::from_utf8_lossy(&pending).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    fn sh(script: &str) -> Program {
        Program::new(["/bin/sh", "-c", script])
    }

    async fn stdout_of(program: &Program, stdin: &[u8]) -> String {
        let finished = run(program, stdin, |_| ()).await.expect("it ends by itself");
        String::from_utf8(finished.stdout).expect("it writes text")
    }

    /// Waits, by looking, until no process of this number runs any more; a zombie has ended, too.
    async fn gone(pid: &str) {
        let stat = format!("/proc/{}/stat", pid.trim());
        let alive = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "));
        let looked = tokio::time::timeout(Duration::from_secs(10), async {
            while alive() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        looked.await.expect("the process is killed");
    }

    async fn written(path: &Path) -> String {
        let looked = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                match fs::read_to_string(path) {
                    Ok(text) if text.ends_with('\n') => return text,
                    _ => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        });
        looked.await.expect("the program writes its process number")
    }

    #[tokio::test]
    async fn standard_input_is_what_it_is_told_and_ends() {
        assert_eq!(stdout_of(&Program::new(["cat"]), b"hello").await, "hello");
        assert_eq!(stdout_of(&sh("echo deaf"), &vec![b'x'; 1 << 20]).await, "deaf\n");
    }

    #[tokio::test]
    async fn no_pipe_fills_up_and_stops_both_sides() {
        let program = Program { stdout_limit: 4 << 20, ..sh("cat; cat /dev/zero | head -c 3000000 >&2") };
        let long = vec![b'x'; 2 << 20];
        assert_eq!(stdout_of(&program, &long).await.len(), long.len());
    }

    #[tokio::test]
    async fn a_flood_is_cut_off_and_the_program_killed() {
        let limit = 10_000;
        let error = run(&Program { stdout_limit: limit, ..sh("yes") }, b"", |_| ()).await.expect_err("yes never ends");
        assert!(matches!(error, ProgramError::TooMuchOutput { limit: 10_000 }), "{error}");
        let exact = Program { stdout_limit: limit, ..sh("yes | head -c 10000") };
        assert_eq!(stdout_of(&exact, b"").await.len(), limit);
    }

    #[tokio::test]
    async fn lines_of_standard_error_are_heard_and_cut() {
        let mut lines = Vec::new();
        let script = r"printf 'one\ntwo\r\n\377\n' >&2; head -c 100000 /dev/zero | tr '\0' x >&2; printf '\nlast' >&2";
        run(&sh(script), b"", |line: &str| lines.push(line.to_owned())).await.expect("it ends by itself");
        let lengths: Vec<usize> = lines.iter().map(String::len).collect();
        assert_eq!(lengths, [3, 3, 3, STDERR_LINE + "…".len(), 4]);
        assert_eq!((lines[1].as_str(), lines[2].as_str()), ("two", "\u{fffd}"));
    }

    #[tokio::test]
    async fn what_it_leaves_in_the_background_is_killed_when_it_ends() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > '{}'; echo done", file.display());
        assert_eq!(stdout_of(&sh(&script), b"").await, "done\n");
        gone(&fs::read_to_string(file).expect("written before it ended")).await;
    }

    #[tokio::test]
    async fn a_dropped_call_kills_it_and_its_children() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("pids");
        let script = format!("sleep 1000 & echo $$ $! > '{0}.new'; mv '{0}.new' '{0}'; wait", file.display());
        let program = sh(&script);
        let pids = tokio::select! {
            _ = run(&program, b"", |_| ()) => unreachable!("it waits for its child"),
            pids = written(&file) => pids,
        };
        for pid in pids.split_whitespace() {
            gone(pid).await;
        }
    }

    #[tokio::test]
    async fn one_that_closes_its_output_and_lives_on_is_killed() {
        let error = run(&sh("exec >&-; sleep 1000"), b"", |_| ()).await.expect_err("it does not end");
        assert!(matches!(error, ProgramError::Lingered), "{error}");
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed() {
        let program = Program { time_limit: Some(Duration::from_millis(50)), ..sh("sleep 1000") };
        let error = run(&program, b"", |_| ()).await.expect_err("it does not end");
        assert!(matches!(error, ProgramError::TimedOut { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_limit_that_no_clock_can_count_is_none() {
        let program = Program { time_limit: Some(Duration::MAX), ..sh("echo done") };
        assert_eq!(stdout_of(&program, b"").await, "done\n");
    }

    #[tokio::test]
    async fn it_sees_the_allowed_variables_and_its_own() {
        let program = Program { env: vec![("AGENT_KEY".into(), "k".into())], ..Program::new(["/usr/bin/env"]) };
        let seen = stdout_of(&program, b"").await;
        let names: Vec<&str> = seen.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert!(names.contains(&"AGENT_KEY") && names.contains(&"PATH"), "{names:?}");
        let allowed = |name: &&str| INHERITED.contains(name) || name.starts_with("LC_") || *name == "AGENT_KEY";
        assert!(names.iter().all(allowed), "{names:?}");
        assert!(std::env::var_os("CARGO").is_some(), "there is something that it must not see");
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_so() {
        let error = run(&Program::new(["/nowhere/to/be/found"]), b"", |_| ()).await.expect_err("it is not there");
        let ProgramError::Spawn { error, .. } = error else { panic!("{error}") };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let nothing = Program::new(Vec::<OsString>::new());
        assert!(matches!(run(&nothing, b"", |_| ()).await, Err(ProgramError::Empty)));
    }
}
