//! What can a program do that an agent starts, and what is left of it?
//!
//! Real programs try. Where the system lacks what the walls are made of, that is said, and that it is refused is shown
//! instead.

use crate::common::{abandoned, adapter, gone, launched, offer, pids, prompt, result_text, session, sh, until};
use std::{
    fs,
    net::TcpListener,
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use windlass_agent::{
    ProcessExecutor, Program,
    sandbox::{Profile, Sandbox, SandboxError},
};
use windlass_core::{CancelOutcome, Disposition};
use windlass_runtime::CompletionOutcome;

/// What each attempt in Python begins with.
const PRELUDE: &str = r#"
import ctypes, errno, mmap, os, resource, signal, socket, stat, subprocess, sys
def call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
def attempt(what):
    try:
        print("done", what() or "")
    except OSError as error:
        print(errno.errorcode[error.errno])
    except MemoryError:
        print("MemoryError")
def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as peer:
        peer.connect(address)
def status(name):
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name + ":"))
"#;

fn python(code: &str) -> Program {
    Program::new(["/usr/bin/python3", "-c", &format!("{PRELUDE}attempt(lambda: {code})")])
}

fn walls() -> Sandbox {
    Sandbox { profile: Some(Profile::Workspace), ..Sandbox::workspace_limits() }
}

async fn outcome(program: Program) -> CompletionOutcome {
    let adapter = adapter(Arc::new(ProcessExecutor::new(program)));
    let session = session(&adapter, 1).await;
    offer(&session, 1, "hello").await.wait().await
}

/// Whether walls can be had here. If not, shows that nothing is started without.
async fn has_walls(dir: &Path) -> bool {
    launched();
    let Err(error) = walls().check(Some(dir)) else { return true };
    eprintln!("NOT SHOWN: {error}");
    assert_eq!(error.code(), "sandbox_unavailable");
    let refused = abandoned(outcome(Program { dir: Some(dir.into()), sandbox: walls(), ..sh("touch started") }).await);
    assert!(refused.starts_with("executor_refused: ") && !dir.join("started").exists(), "{refused}");
    false
}

/// Whether this is Linux 6.12 or later.
fn walls_hold_signals() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|number| number.parse().ok()).take(2).collect();
    numbers >= vec![6, 12]
}

#[tokio::test]
async fn behind_walls_a_program_has_its_folder_and_nothing_else() {
    let (dir, outside) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("another"));
    if !has_walls(dir.path()).await {
        return;
    }
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").expect("written");
    let (listener, local) = (TcpListener::bind("127.0.0.1:0").expect("a port"), outside.path().join("socket"));
    let (port, _unix) =
        (listener.local_addr().expect("an address").port(), UnixListener::bind(&local).expect("a socket"));
    let (secret, local, folder) = (secret.display(), local.display(), outside.path().display());
    let tcp = format!("connect(socket.AF_INET, ('127.0.0.1', {port}))");
    let unix = format!("connect(socket.AF_UNIX, '{local}')");
    let read_secret = format!("open('{secret}').read()");
    let usual = walls();
    let network = Sandbox { network: true, ..walls() };
    let read = Sandbox { read: vec![outside.path().into()], ..walls() };
    let write = Sandbox { write: vec![outside.path().into()], ..walls() };
    for (sandbox, code, expected) in [
        // Files.
        (&usual, "open('/etc/shadow').read()", "EACCES"),
        (&usual, read_secret.as_str(), "EACCES"),
        (&usual, &format!("os.listdir('{folder}')"), "EACCES"),
        (&usual, &format!("open('{folder}/new', 'w')"), "EACCES"),
        (&usual, &format!("os.truncate('{secret}', 0)"), "EACCES"),
        (&usual, &format!("os.unlink('{secret}')"), "EACCES"),
        (&usual, &format!("os.rename('{secret}', 'mine')"), "EXDEV EACCES"),
        (&usual, &format!("os.symlink('{secret}', 'link') or open('link').read()"), "EACCES"),
        (&usual, "os.mknod('device', stat.S_IFBLK | 0o600, os.makedev(8, 0))", "EACCES EPERM"),
        (&usual, "open('/proc/sys/kernel/core_pattern', 'w').write('x')", "EACCES"),
        (&usual, "open('mine', 'w').write('x')", "done 1"),
        (&usual, "open(os.environ['TMPDIR'] + '/mine', 'w').write('x')", "done 1"),
        (&usual, "os.environ['HOME'] == os.environ['TMPDIR']", "done True"),
        (&usual, "open('/dev/null', 'w').write('x')", "done 1"),
        (&usual, "subprocess.run(['ls', '/usr/bin'], stdout=subprocess.DEVNULL).returncode", "done"),
        (&read, read_secret.as_str(), "done secret"),
        (&read, &format!("open('{folder}/new', 'w')"), "EACCES"),
        (&write, &format!("open('{folder}/new', 'w').write('x')"), "done 1"),
        // Network.
        (&usual, tcp.as_str(), "EPERM"),
        (&usual, unix.as_str(), "EPERM"),
        (&usual, "socket.socketpair() and 'a pair'", "done a pair"),
        (&network, tcp.as_str(), "done"),
        (&network, unix.as_str(), "EPERM"),
        // Other processes.
        (&usual, "os.kill(os.getppid(), 0)", "EPERM"),
        (&usual, &format!("os.kill({}, 0)", std::process::id()), "EPERM"),
        (&usual, "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)", "done -1"),
        (&usual, "open(f'/proc/{os.getppid()}/environ').read()", "EACCES"),
        (&usual, "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)", "EPERM"),
        (&usual, "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))", "EPERM"),
        (&usual, "resource.prlimit(0, resource.RLIMIT_NOFILE, (64, 64)) and 'its own'", "done its own"),
        // The kernel. Numbers are those of x86-64: unshare, mount, bpf, keyctl, io_uring_setup, clone3.
        (&usual, "call(272, 0x10000000)", "EPERM"),
        (&usual, "call(165, b'none', b'.', b'tmpfs', 0, 0)", "EPERM"),
        (&usual, "call(321, 0, 0, 0)", "EPERM"),
        (&usual, "call(250, 0, 0)", "EPERM"),
        (&usual, "call(425, 1, 0)", "EPERM"),
        (&usual, "call(435, 0, 0)", "ENOSYS"),
        (&usual, "call(56, 0x10000000 | 17, 0, 0, 0, 0)", "EPERM"),
        // Privileges: at most CAP_DAC_OVERRIDE.
        (&usual, "status('NoNewPrivs')", "done 1"),
        (&usual, "int(status('CapPrm'), 16) | int(status('CapEff'), 16) | 2", "done 2"),
        (&usual, "os.setuid(1)", "EPERM"),
    ] {
        let numbered = code.starts_with("call(") && cfg!(not(target_arch = "x86_64"));
        if numbered || code.starts_with("os.kill(") && !walls_hold_signals() {
            eprintln!("NOT SHOWN on this system: {code}");
            continue;
        }
        let program = Program { dir: Some(dir.path().into()), sandbox: sandbox.clone(), ..python(code) };
        let said = result_text(outcome(program).await);
        assert!(
            expected == said.trim() || expected.split(' ').any(|one| one == said.trim()),
            "{code}: {said}, not {expected}"
        );
    }
    assert_eq!(fs::read_to_string(outside.path().join("secret")).expect("it is there"), "secret");
    let own = Program {
        dir: Some(dir.path().into()),
        sandbox: walls(),
        ..sh("mkdir -p $TMPDIR/a/b; chmod -R a-w $TMPDIR; echo $TMPDIR")
    };
    let own = result_text(outcome(own).await);
    assert!(Path::new(&own).starts_with(std::env::temp_dir()) && !Path::new(&own).exists(), "{own} goes with it");
}

#[tokio::test]
async fn limits_end_what_runs_away() {
    launched();
    let dir = tempfile::tempdir().expect("a folder");
    let unlimited = Sandbox::default();
    for (sandbox, program, expected) in [
        (
            Sandbox { memory_bytes: Some(1 << 30), ..unlimited.clone() },
            python("len(bytearray(2 << 30))"),
            "done: MemoryError",
        ),
        (
            Sandbox { memory_bytes: Some(1 << 30), ..unlimited.clone() },
            python("len(bytearray(1 << 20))"),
            "done: done 1048576",
        ),
        (
            Sandbox { file_bytes: Some(1 << 20), ..unlimited.clone() },
            python("[open('long', 'ab').write(bytes(1 << 19)) for _ in range(3)]"),
            "done: EFBIG",
        ),
        (
            Sandbox { open_files: Some(32), ..unlimited.clone() },
            python("[os.dup(1) for _ in range(64)]"),
            "done: EMFILE",
        ),
        (
            Sandbox { cpu_seconds: Some(1), ..unlimited.clone() },
            sh("while :; do :; done"),
            "executor_failed: signal: 9 (SIGKILL)",
        ),
        (
            Sandbox { processes: Some(60), ..unlimited.clone() },
            sh("bomb() { bomb | bomb & }; bomb; sleep 1000"),
            "executor_failed: signal: 9 (SIGKILL); it said: windlass-launch: there were more than 60 processes",
        ),
        (
            Sandbox { processes: Some(60), ..unlimited.clone() },
            sh("while :; do setsid sleep 1000 & done"),
            "executor_failed: signal: 9 (SIGKILL); it said: windlass-launch: there were more than 60 processes",
        ),
        (
            Sandbox { processes: Some(60), open_files: Some(64), ..unlimited.clone() },
            sh("deep() { if [ $1 = 0 ]; then for _ in $(seq 50); do sleep 9 & done; wait; else (deep $(($1 - 1)); :); fi; }
                deep 55"),
            "executor_failed: signal: 9 (SIGKILL); it said: windlass-launch: there were more than 60 processes",
        ),
        // Limits are the program's, not its launcher's.
        (Sandbox { open_files: Some(10), ..unlimited.clone() }, sh("echo started"), "done: started"),
        (
            Sandbox { open_files: Some(32), cpu_seconds: Some(7), ..unlimited.clone() },
            sh("for pid in $$ $PPID; do grep -cE '^Max (cpu time +7 |open files +32 )' /proc/$pid/limits; done; :"),
            "done: 2\n0",
        ),
        (unlimited.clone(), sh("ulimit -c; grep -cE '^Max core file size +0 +0 ' /proc/$PPID/limits"), "done: 0\n1"),
        (unlimited.clone(), python("status('NoNewPrivs')"), "done: done 1"),
    ] {
        let argv = program.argv.clone();
        let ended = match outcome(Program { dir: Some(dir.path().into()), sandbox, ..program }).await {
            CompletionOutcome::Completed(result) => format!("done: {}", result.text),
            other => abandoned(other),
        };
        assert!(ended.starts_with(expected), "{argv:?}: {ended}");
    }
}

/// Leaves a child, and one in a session of its own that ignores what can be ignored; then waits, or goes on.
fn leaving(file: &Path, then: &str) -> Program {
    let file = file.display();
    sh(&format!(
        "sleep 1000 & echo $! > '{file}.new'
         setsid sh -c 'trap \"\" TERM HUP INT; sleep 1000 & echo $! $$ >> '\"'{file}.new'\"'; mv '\"'{file}.new' '{file}'\"'; while :; do wait; done' &
         while [ ! -e '{file}' ]; do sleep 0.01; done
         {then}"
    ))
}

#[tokio::test]
async fn nothing_is_left_of_a_program_that_ends_or_is_cancelled() {
    launched();
    let dir = tempfile::tempdir().expect("a folder");
    let ended = dir.path().join("ended");
    assert_eq!(result_text(outcome(leaving(&ended, "echo done")).await), "done");
    gone(&pids(&ended).await).await;
    // Whoever takes its launcher's files away.
    let alone = dir.path().join("alone");
    let take = "/usr/bin/python3 -c \"import resource; resource.prlimit($PPID, resource.RLIMIT_NOFILE, (0, 0))\"";
    outcome(leaving(&alone, take)).await;
    gone(&pids(&alone).await).await;

    let cancelled = dir.path().join("cancelled");
    let adapter = adapter(Arc::new(ProcessExecutor::new(leaving(&cancelled, "sleep 1000"))));
    let session = session(&adapter, 1).await;
    let _completion = offer(&session, 1, "hello").await;
    let started = pids(&cancelled).await;
    let answer = session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
    assert!(matches!(answer, CancelOutcome::Cancelled { .. }), "{answer:?}");
    gone(&started).await;
}

/// Not a test by itself: the life of a host that is killed, when there is one.
#[tokio::test]
async fn host() {
    let Ok(folder) = std::env::var("WINDLASS_TEST_SANDBOX_HOST") else { return };
    let folder = Path::new(&folder);
    launched();
    let mut sandbox = Sandbox::default();
    if folder.join("walls").exists() {
        sandbox = walls();
    }
    let program = Program { dir: Some(folder.into()), sandbox, ..leaving(&folder.join("pids"), "sleep 1000") };
    let adapter = adapter(Arc::new(ProcessExecutor::new(program)));
    let session = session(&adapter, 1).await;
    session.accept_with_completion(prompt(1, "hello")).await.expect("an answer").1.expect("accepted").wait().await;
}

#[tokio::test]
async fn nothing_is_left_two_seconds_after_its_host_was_killed() {
    let dir = tempfile::tempdir().expect("a folder");
    let has_walls = has_walls(dir.path()).await;
    for with_walls in [false, true] {
        if with_walls && !has_walls {
            continue;
        }
        let dir = tempfile::tempdir().expect("a folder");
        if with_walls {
            fs::write(dir.path().join("walls"), "").expect("written");
        }
        let mut host = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "sandbox::host", "--nocapture"])
            .env("WINDLASS_TEST_SANDBOX_HOST", dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("a host");
        let started = pids(&dir.path().join("pids")).await;
        assert_eq!(started.len(), 3, "{started:?}");
        host.kill().expect("it lives");
        let killed = Instant::now();
        host.wait().expect("it ends");
        gone(&started).await;
        assert!(killed.elapsed() < Duration::from_secs(2), "walls: {with_walls}: {:?}", killed.elapsed());
    }
}

#[test]
fn what_the_system_cannot_do_is_refused_or_said() {
    launched();
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let check = |sandbox: Sandbox| sandbox.check(Some(dir)).map_err(|error| error.to_string());
    for (sandbox, expected) in [
        (Sandbox { network: true, ..Sandbox::default() }, "invalid_setting: sandbox.network: "),
        (Sandbox { read: vec!["/usr".into()], ..Sandbox::default() }, "invalid_setting: sandbox.read: "),
        (Sandbox { write: vec!["/usr".into()], ..Sandbox::default() }, "invalid_setting: sandbox.write: "),
        (Sandbox { write: vec!["relative".into()], ..walls() }, "invalid_setting: sandbox.write: "),
        (Sandbox { read: vec!["/nowhere/to/be/found".into()], ..walls() }, "invalid_setting: sandbox.read: "),
    ] {
        let refused = check(sandbox).expect_err(expected);
        assert!(refused.starts_with(expected), "{refused}");
    }
    assert!(matches!(walls().check(None), Err(SandboxError::Invalid { field: "profile", .. })));
    // On a system without Landlock; only this thread, and what it starts, is on one.
    #[cfg(target_os = "linux")]
    std::thread::scope(|scope| {
        scope.spawn(|| {
            without(libc::SYS_landlock_create_ruleset);
            let refused = check(walls()).expect_err("there is none");
            assert!(refused.starts_with("sandbox_unavailable: "), "{refused}");
            assert_eq!(check(Sandbox { best_effort: true, ..walls() }), Ok(()));
            assert_eq!(check(Sandbox::default()), Ok(()));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            assert!(!runtime.block_on(has_walls(dir)), "nothing is started there");
        });
    });
}

/// Makes this thread's system one that does not know a call.
#[cfg(target_os = "linux")]
fn without(call: i64) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let arch = std::env::consts::ARCH.try_into().expect("a known one");
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new([(call, Vec::new())].into(), SeccompAction::Allow, unknown, arch);
    let filter = BpfProgram::try_from(filter.expect("a filter")).expect("a program");
    seccompiler::apply_filter(&filter).expect("it stands");
}

#[tokio::test]
async fn a_launcher_that_somebody_stops_still_ends() {
    launched();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pids");
    let script = format!("echo $$ > '{0}.new'; kill -STOP $PPID; mv '{0}.new' '{0}'; sleep 1000", file.display());
    let adapter = adapter(Arc::new(ProcessExecutor::new(sh(&script))));
    let session = session(&adapter, 1).await;
    let _completion = offer(&session, 1, "hello").await;
    let started = pids(&file).await;
    session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
    until(|| fs::read_to_string(format!("/proc/{}/stat", started[0])).is_err().then_some(())).await;
}

#[tokio::test]
async fn a_launcher_that_is_killed_takes_its_program_with_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let has_walls = has_walls(dir.path()).await;
    for sandbox in [Some(Sandbox::default()), has_walls.then(walls)].into_iter().flatten() {
        let file = dir.path().join(sandbox.profile().as_str());
        let script =
            format!("echo $$ $PPID > '{0}.new'; mv '{0}.new' '{0}'; while :; do sleep 0.01; done", file.display());
        let program = Program { dir: Some(dir.path().into()), sandbox, ..sh(&script) };
        let adapter = adapter(Arc::new(ProcessExecutor::new(program)));
        let session = session(&adapter, 1).await;
        let _completion = offer(&session, 1, "hello").await;
        let started = pids(&file).await;
        let killed =
            Command::new("/bin/sh").args(["-c", &format!("kill -KILL {}", started[1])]).status().expect("a shell");
        assert!(killed.success());
        gone(&started).await;
    }
}
