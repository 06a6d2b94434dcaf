//! What does the process of a server do when its supervisor speaks to it?

mod common;

use common::{Said, Served, journal_of_has, run, wait_until, windlass};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The command of a server with this grace time, in seconds.
fn with_grace(dir: &Path, seconds: &str) -> Command {
    let mut command = windlass(dir);
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("WINDLASS_SERVER__DRAIN_SECONDS", seconds);
    command
}

/// A request, on a connection of its own.
fn asked(server: &Served, path: &str) -> TcpStream {
    asked_at(server.url.strip_prefix("http://").expect("a plain address"), path)
}

fn asked_at(address: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it listens");
    stream
}

/// Everything until the server closes.
fn rest(mut stream: TcpStream) -> String {
    let mut all = String::new();
    stream.read_to_string(&mut all).expect("a whole answer");
    all
}

/// A prompt that is sent and waited for, once its run is on.
fn running(server: &Served, dir: &Path, prompt: &str) -> std::process::Child {
    let waiting = server.windlass(&["send", "demo", prompt, "--wait=60s"]).spawn().expect("the binary runs");
    wait_until("the run", || journal_of_has(dir, "demo", "run_started"));
    waiting
}

#[test]
fn a_run_ends_and_its_answer_is_given_before_the_process_does() {
    let dir = folder();
    let server = Served::start(dir.path());
    let waiting = running(&server, dir.path(), "/slow 2");
    let streams: Vec<_> = (0..20).map(|_| asked(&server, "/v1/sessions/demo/events")).collect();
    for stream in &streams {
        wait_until("the stream", || stream.peek(&mut [0; 1]).expect("it is open") == 1);
    }
    server.signal("TERM");
    for stream in streams {
        let last = rest(stream);
        assert!(last.contains("event: end") && last.contains("\"draining\""), "{last}");
    }
    assert!(rest(asked(&server, "/readyz")).starts_with("HTTP/1.1 503"), "the run is still on");
    assert_eq!(server.ended(), Some(0));
    let said = Said::of(waiting.wait_with_output().expect("it ends"));
    assert_eq!((said.code, said.out.as_str()), (Some(0), "That took 2 s, one boundary each.\n"), "{said:?}");
    assert!(!journal_of_has(dir.path(), "demo", "released"), "it was not cut off");
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let dir = folder();
    let mut command = windlass(dir.path());
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("WINDLASS_LOG", "debug");
    let mut server = Ended(command.spawn().expect("the binary runs"));
    // A pipe that is open, and holds less than what is logged here.
    let unread = server.0.stderr.take().expect("a pipe");
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().expect("a pipe")).read_line(&mut line).expect("text");
    let address = line.trim_end().strip_prefix("listening on http://").expect("it is ready").to_owned();
    let get = |path: &str, times: usize| {
        let stream = TcpStream::connect(&address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        let mut asking = stream.try_clone().expect("the same connection");
        let asked = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").repeat(times - 1)
            + &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let asking = std::thread::spawn(move || asking.write_all(asked.as_bytes()));
        let answers = rest(stream);
        asking.join().expect("no panic").expect("it listens");
        assert_eq!(answers.matches("HTTP/1.1 200").count(), times);
        answers
    };
    // More than fits into the pipe and into the queue before it.
    get("/livez", 8_000);
    let metrics = get("/metrics", 1);
    let left_out = metrics.lines().find_map(|line| line.strip_prefix("windlass_log_lines_dropped_total{"));
    let left_out = left_out.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    assert!(left_out.is_some_and(|lines| lines > 0), "{metrics}");
    common::signal(server.0.id(), "TERM");
    let mut code = None;
    wait_until("its end", || {
        code = server.0.try_wait().expect("it is ours");
        code.is_some()
    });
    assert_eq!(code.and_then(|code| code.code()), Some(0));
    drop(unread);
}

/// Ends with this value, also where a test fails.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // An error says that it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_run_longer_than_the_grace_time_goes_on_with_the_next_process() {
    let dir = folder();
    let server = Served::by(dir.path(), &mut with_grace(dir.path(), "0.2"));
    let mut waiting = running(&server, dir.path(), "/slow 4");
    wait_until("a boundary", || journal_of_has(dir.path(), "demo", "boundary_committed"));
    let address = server.url.clone();
    let told = Instant::now();
    assert_eq!(server.terminated(), Some(0));
    assert!(told.elapsed() < Duration::from_millis(5_200), "{:?}", told.elapsed());
    assert!(journal_of_has(dir.path(), "demo", "released"));
    assert!(waiting.try_wait().expect("it is ours").is_none(), "who waits asks the next one");
    let next = Served::listening(dir.path(), address.strip_prefix("http://").expect("a plain address"), &[]);
    let said = Said::of(waiting.wait_with_output().expect("it ends"));
    assert_eq!((said.code, said.out.as_str()), (Some(0), "That took 4 s, one boundary each.\n"), "{said:?}");
    assert!(journal_of_has(dir.path(), "demo", "resumes_after="), "after its last boundary");
    drop(next);
}

#[test]
fn a_second_signal_ends_it_at_once_and_nothing_accepted_is_lost() {
    for second in ["TERM", "INT"] {
        let dir = folder();
        let server = Served::by(dir.path(), &mut with_grace(dir.path(), "600"));
        let mut waiting = running(&server, dir.path(), "/slow 3");
        let behind = server.run(&["send", "demo", "/echo behind"]);
        server.signal("TERM");
        wait_until("the drain", || rest(asked(&server, "/readyz")).starts_with("HTTP/1.1 503"));
        let told = Instant::now();
        server.signal(second);
        assert_eq!(server.ended(), Some(130), "{second}");
        assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
        waiting.kill().expect("it waits");
        waiting.wait().expect("it is ours");
        assert_eq!(run(windlass(dir.path()).arg("verify")).code, Some(0));
        let next = Served::start(dir.path());
        let said = next.run(&["wait", "demo", behind.out.trim(), "60s"]);
        assert_eq!((said.code, said.out.as_str()), (Some(0), "behind\n"), "{said:?}");
        assert!(journal_of_has(dir.path(), "demo", "That took 3 s"), "what ran before it came to its end");
    }
}

#[test]
fn a_new_certificate_is_served_after_a_hangup() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../server/tests/fixtures");
    let dir = folder();
    let install = |name: &str| {
        for kind in ["cert", "key"] {
            let to = dir.path().join(format!("{kind}.pem"));
            std::fs::copy(fixtures.join(format!("{name}.{kind}.pem")), to).expect("a fixture");
        }
    };
    install("first");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let server = Served::listening(dir.path(), "127.0.0.1:0", &["--tls-cert", &cert, "--tls-key", &key]);
    let trusts = |name: &str| {
        let certificate = fixtures.join(format!("{name}.cert.pem"));
        run(server.windlass(&["health"]).env("SSL_CERT_FILE", certificate)).code == Some(0)
    };
    assert!(trusts("first") && !trusts("second"));
    install("second");
    server.signal("HUP");
    wait_until("the new certificate", || trusts("second"));
    assert!(!trusts("first"));
    assert_eq!(server.terminated(), Some(0), "it serves on");
}

#[test]
fn a_supervisor_is_told_when_it_is_ready_and_when_it_stops() {
    let dir = folder();
    let place = dir.path().join("notify");
    let supervisor = UnixDatagram::bind(&place).expect("a socket");
    supervisor.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let told = || {
        let mut text = [0; 256];
        let length = supervisor.recv(&mut text).expect("it is told");
        String::from_utf8_lossy(&text[..length]).trim_end().to_owned()
    };
    let server = Served::by(dir.path(), with_grace(dir.path(), "30").env("NOTIFY_SOCKET", &place));
    assert_eq!(told(), "READY=1");
    let waiting = running(&server, dir.path(), "/slow 1");
    server.signal("TERM");
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(server.ended(), Some(0));
    assert_eq!(Said::of(waiting.wait_with_output().expect("it ends")).code, Some(0));
}

/// Another program that never ends its transaction keeps the server from every commit, as a disk does that is gone.
#[test]
fn a_server_whose_store_is_lost_ends_for_its_supervisor_and_says_so() {
    let dir = folder();
    let mut command = windlass(dir.path());
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("WINDLASS_STORE__LOST_SECONDS", "0.5");
    let server = Served::by(dir.path(), &mut command);
    assert_eq!(server.run(&["send", "demo", "/echo kept", "--wait"]).code, Some(0));
    let other = rusqlite::Connection::open(dir.path().join("windlass.db")).expect("a store");
    other.execute_batch("BEGIN IMMEDIATE").expect("its turn comes");
    let began = Instant::now();
    let (code, log) = server.ended_with_log();
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("error: store_lost: ") && log.contains("for 0.5 s (store_unavailable)"), "{log}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    drop(other);
    let server = Served::start(dir.path());
    assert!(server.run(&["inputs", "demo", "--json"]).out.contains("kept"));
}

/// The command of a server that is given this socket as systemd gives it: as descriptor 3, and so many are said to be there.
fn given(dir: &Path, listener: &TcpListener, sockets: u32) -> Command {
    let plain = windlass(dir);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("LISTEN_PID=$$ LISTEN_FDS={sockets} exec \"$0\" \"$@\" 3<&0 4<&0 0</dev/null")]);
    command.arg(plain.get_program()).args(["serve", "--listen", "127.0.0.1:1"]);
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let socket = OwnedFd::from(listener.try_clone().expect("the same socket"));
    command.stdin(socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_socket_that_is_passed_is_listened_on_and_keeps_who_comes_while_no_server_is_there() {
    let dir = folder();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = Served::by(dir.path(), &mut given(dir.path(), &listener, 1));
    assert_eq!(server.url, format!("http://{address}"));
    assert!(rest(asked(&server, "/livez")).starts_with("HTTP/1.1 200"));
    assert_eq!(server.terminated(), Some(0));
    let early = asked_at(&address, "/livez");
    let next = Served::by(dir.path(), &mut given(dir.path(), &listener, 1));
    assert!(rest(early).starts_with("HTTP/1.1 200"), "it waited for the next one");
    assert_eq!(next.terminated(), Some(0));
}

#[test]
fn a_socket_that_is_passed_is_no_way_around_what_is_asked_of_an_address() {
    let dir = folder();
    let (loopback, everywhere) =
        (TcpListener::bind("127.0.0.1:0").expect("a port"), TcpListener::bind("0.0.0.0:0").expect("a port"));
    for (listener, sockets, error) in [(&everywhere, 1, "unsafe_listen"), (&loopback, 2, "socket_unusable")] {
        let refused = Said::of(given(dir.path(), listener, sockets).output().expect("the binary runs"));
        assert_eq!(refused.code, Some(78), "{refused:?}");
        assert!(refused.err.contains(error), "{refused:?}");
    }
}
