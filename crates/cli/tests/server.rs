//! Does the command line lead a server as it says, over kills of that server too?

mod common;

use common::{Said, Served, journal_of_has, run, wait_until, windlass};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The id of an input that is sent and not waited for.
fn sent(server: &Served, session: &str, text: &str) -> String {
    let said = server.run(&["send", session, text]);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out.trim().to_owned()
}

#[test]
fn a_prompt_is_answered_soon_after_the_start() {
    let dir = folder();
    let begun = Instant::now();
    let server = Served::start(dir.path());
    let said = server.run(&["send", "demo", "hello", "--wait"]);
    let took = begun.elapsed();
    assert_eq!((said.code, said.out.as_str()), (Some(0), "Hello. What would you like to talk about?\n"), "{said:?}");
    assert_eq!(said.err, "", "{said:?}");
    assert!(took < Duration::from_secs(5), "{took:?}, on a machine that does other things too");
    assert_eq!(server.terminated(), Some(0));
}

#[test]
fn a_wait_outlives_the_server() {
    let dir = folder();
    let server = Served::start(dir.path());
    let mut waiting = server.windlass(&["send", "demo", "/slow 3", "--wait=60s"]).spawn().expect("the binary runs");
    wait_until("the first boundary", || journal_of_has(dir.path(), "demo", "boundary_committed"));
    assert!(waiting.try_wait().expect("it is ours").is_none(), "it waits");
    let server = server.killed_and_started();
    let said = Said::of(waiting.wait_with_output().expect("it ends"));
    assert_eq!((said.code, said.out.as_str()), (Some(0), "That took 3 s, one boundary each.\n"), "{said:?}");
    assert!(journal_of_has(dir.path(), "demo", "resumes_after="), "the run went on after its last boundary");
    drop(server);
    assert_eq!(run(windlass(dir.path()).arg("verify")).code, Some(0));
}

#[test]
fn a_killed_server_leaves_no_program_behind() {
    let dir = folder();
    let (config, pids) = (dir.path().join("windlass.toml"), dir.path().join("pids"));
    // A worker, and one that it has started in a session of its own.
    let script = format!("setsid sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; sleep 1000", pids.display());
    let agent =
        format!("[agents.idler]\nkind = \"process\"\nmode = \"worker\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n");
    std::fs::write(&config, agent).expect("a file");
    let mut server = Served::listening(dir.path(), "127.0.0.1:0", &["--config", config.to_str().expect("text")]);
    sent(&server, "demo", "hello");
    wait_until("the worker has started", || pids.exists());
    let pids = std::fs::read_to_string(&pids).expect("text");
    let lives = |pid: &str| Path::new("/proc").join(pid).join("exe").exists();
    assert!(pids.split_whitespace().all(lives) && pids.split_whitespace().count() == 2, "{pids}");
    server.kill();
    let killed = Instant::now();
    wait_until("they end", || !pids.split_whitespace().any(lives));
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
}

#[test]
fn a_tail_outlives_the_server_and_skips_nothing() {
    let dir = folder();
    let server = Served::start(dir.path());
    sent(&server, "demo", "/slow 3");
    let mut tail = server.windlass(&["tail", "demo", "--after", "0", "--json"]).spawn().expect("the binary runs");
    wait_until("the first boundary", || journal_of_has(dir.path(), "demo", "boundary_committed"));
    let server = server.killed_and_started();
    let mut seqs = Vec::new();
    for line in BufReader::new(tail.stdout.take().expect("a pipe")).lines() {
        let event: Value = serde_json::from_str(&line.expect("text")).expect("one document a line");
        if let Some(seq) = event["seq"].as_u64() {
            seqs.push(seq);
        }
        if event["type"] == "run_ended" && event["record"]["run_ended"]["end"].get("completed").is_some() {
            break;
        }
    }
    tail.kill().expect("it follows");
    tail.wait().expect("it is ours");
    assert!(seqs.iter().zip(1..).all(|(seq, expected)| *seq == expected), "{seqs:?}");
    drop(server);
}

#[test]
fn inputs_are_sent_from_a_pipe_once_per_key_and_only_where_allowed() {
    let dir = folder();
    let server = Served::start(dir.path());
    let mut child = server
        .windlass(&["send", "demo", "-", "--wait", "--json", "--key", "k1"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all("/echo größer\n".as_bytes()).expect("it listens");
    let said = Said::of(child.wait_with_output().expect("it ends"));
    let first = said.json();
    assert_eq!(
        (&first["outcome"], &first["result"]["status"], &first["result"]["text"]),
        (&"accepted".into(), &"completed".into(), &"größer".into())
    );
    let again = server.run(&["send", "demo", "/echo größer", "--wait", "--json", "--key", "k1"]).json();
    assert_eq!((&again["outcome"], &again["id"]), (&"deduplicated".into(), &first["id"]));
    let other = server.run(&["send", "demo", "/echo else", "--key", "k1"]);
    assert_eq!((other.code, other.out.as_str()), (Some(5), ""), "{other:?}");
    let missing = server.run(&["send", "nobody", "hello", "--no-create"]);
    assert_eq!(missing.code, Some(3), "{missing:?}");
}

#[test]
fn steering_joins_the_run_that_is_on() {
    let dir = folder();
    let server = Served::start(dir.path());
    sent(&server, "demo", "/slow 2");
    wait_until("the run", || journal_of_has(dir.path(), "demo", "run_started"));
    let said = server.run(&["send", "demo", "and hurry", "--steer", "--wait"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(journal_of_has(dir.path(), "demo", "run_steered"));
}

#[test]
fn a_session_is_made_shown_changed_led_and_removed() {
    let dir = folder();
    let server = Served::start(dir.path());
    let json = |arguments: &[&str]| server.run(&[arguments, &["--json"]].concat()).json();
    let made = json(&["sessions", "new", "desk", "--label", "team=a"]);
    assert_eq!((&made["name"], &made["labels"]["team"]), (&"desk".into(), &"a".into()));
    let changed = json(&["sessions", "set", "desk", "--label", "team=b"]);
    assert_eq!(changed["labels"]["team"], "b");
    assert_eq!(json(&["sessions", "show", "desk"])["id"], made["id"]);
    let listed = json(&["sessions", "--label", "team=b"]);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(json(&["sessions", "ls", "--label", "team=a"])["items"], Value::Array(Vec::new()));
    let table = server.run(&["sessions"]);
    assert!(table.lines()[0].starts_with("ID ") && table.lines()[1].contains(" desk "), "{table:?}");

    assert_eq!(server.run(&["hold", "desk"]).code, Some(0));
    let input = sent(&server, "desk", "/echo later");
    let explained = server.run(&["explain", "desk", &input]);
    assert!(explained.out.contains("because: "), "{explained:?}");
    assert_eq!(json(&["explain", "desk", &input])["cause"], "held");
    let waited = server.run(&["wait", "desk", &input, "100ms"]);
    assert_eq!(waited.code, Some(7), "{waited:?}");
    let open = json(&["inputs", "desk", "--state", "open"]);
    assert_eq!(open["items"][0]["id"], input.as_str(), "{open}");
    let second = sent(&server, "desk", "/echo never");
    assert_eq!(server.run(&["withdraw", "desk", &second]).out, "abandoned\n");
    assert_eq!(server.run(&["release", "desk"]).code, Some(0));
    let waited = server.run(&["wait", "desk", &input]);
    assert_eq!((waited.code, waited.out.as_str()), (Some(0), "later\n"), "{waited:?}");

    for verb in ["recycle", "recover", "reset", "retire", "stop", "destroy"] {
        let report = json(&[verb, "desk"]);
        assert!(report.get("inputs_abandoned").is_some(), "{verb}: {report}");
    }
    let refused = server.run(&["send", "desk", "hello"]);
    assert!(matches!(refused.code, Some(3 | 5)), "{refused:?}");
    assert_eq!(server.run(&["sessions", "rm", "desk"]).code, Some(0));
    assert_eq!(server.run(&["sessions", "show", "desk"]).code, Some(3));
}

/// Runs a command at a terminal where this is typed, and says what it said besides.
fn at_a_terminal(command: &mut std::process::Command, typed: &str) -> Said {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let mut terminal = std::fs::File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal"));
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("it is ours");
    let name = ptsname(&terminal, Vec::new()).expect("a name").into_string().expect("text");
    let other_end = std::fs::File::options().read(true).write(true).open(name).expect("its other end");
    terminal.write_all(typed.as_bytes()).expect("it is typed");
    run(command.stdin(other_end))
}

#[test]
fn what_cannot_be_taken_back_is_asked_for_at_a_terminal_and_shown_before() {
    let dir = folder();
    let server = Served::start(dir.path());
    assert_eq!(server.run(&["sessions", "new", "desk"]).code, Some(0));
    assert_eq!(server.run(&["hold", "desk"]).code, Some(0));
    sent(&server, "desk", "hello");
    let asked = |arguments: &[&str], typed: &str| at_a_terminal(&mut server.windlass(arguments), typed);
    let state = || server.run(&["sessions", "show", "desk", "--json"]).json()["gate"].clone();
    for verb in [&["stop"][..], &["reset"], &["destroy"], &["sessions", "rm"]] {
        let dry = server.run(&[verb, &["desk", "--dry-run", "--json"]].concat());
        assert_eq!((dry.code, &dry.json()["open_inputs"]), (Some(0), &1.into()), "{verb:?}: {dry:?}");
        assert!(dry.err.ends_with("this session; nothing was done\n"), "{verb:?}: {dry:?}");
        for typed in ["n\n", "\n", "yes?\n"] {
            let said = asked(&[verb, &["desk"]].concat(), typed);
            assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{verb:?}, {typed:?}: {said:?}");
            assert!(said.err.contains(" desk, which is open and has 1 open inputs? [y/N] "), "{verb:?}: {said:?}");
        }
    }
    assert_eq!(state(), "open");
    assert_eq!(asked(&["stop", "desk"], "y\n").code, Some(0));
    assert_eq!(state(), "stopped");
    let said = asked(&["destroy", "desk", "--yes"], "");
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    assert_eq!(state(), "destroyed");
}

#[test]
fn whoever_is_asked_is_told_how_to_answer_and_a_stopped_session_is_revived_as_told() {
    let dir = folder();
    let file = dir.path().join("windlass.toml");
    let answer = r#"{"pending":{"tool_name":"ask_human","args":{"question":"Which one?"}}}"#;
    let agent = format!("[agents.asks]\nkind = \"process\"\ncommand = [\"echo\", '{answer}']\n");
    std::fs::write(&file, agent).expect("a file");
    let server = Served::listening(dir.path(), "127.0.0.1:0", &["--config", file.to_str().expect("text")]);
    let said = server.run(&["send", "desk", "choose", "--wait", "--agent", "asks"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "Which one?\n"), "{said:?}");
    assert_eq!(said.err, "it waits for an answer: windlass send desk \"...\" --wait\n");

    assert_eq!(server.run(&["stop", "desk"]).code, Some(0));
    let refused = server.run(&["send", "desk", "hello"]);
    assert_eq!(refused.code, Some(5), "{refused:?}");
    let advice = "  try: windlass sessions new desk --agent asks, which revives it\n";
    assert!(
        refused.err.contains("the session is stopped and takes no inputs") && refused.err.ends_with(advice),
        "{refused:?}"
    );
    let revived = server.run(&["sessions", "new", "desk", "--agent", "asks"]);
    assert_eq!(revived.code, Some(0), "{revived:?}");
    assert_eq!(server.run(&["send", "desk", "hello", "--wait"]).out, "Which one?\n");
}

#[test]
fn a_variable_that_is_empty_says_nothing() {
    let dir = folder();
    let server = Served::start(dir.path());
    sent(&server, "demo", "hello");
    let empty = run(windlass(dir.path()).env("WINDLASS_URL", "").env("WINDLASS_PROFILE", "").args(["journal", "demo"]));
    assert_eq!(empty.code, Some(0), "{empty:?}");
    let shown = server.windlass(&["sessions", "show", "demo"]).env("WINDLASS_TOKEN_FILE", "").output();
    assert!(shown.expect("it runs").status.success());
    let built_in = server.run(&["policy", "list"]);
    assert!(built_in.out.contains("built in") && !built_in.out.contains("1970"), "{built_in:?}");
}

#[test]
fn a_run_is_interrupted_and_the_answer_is_exact() {
    let dir = folder();
    let server = Served::start(dir.path());
    let mut waiting = server.windlass(&["send", "demo", "/slow 60", "--wait"]).spawn().expect("the binary runs");
    wait_until("the run", || journal_of_has(dir.path(), "demo", "run_started"));
    let said = server.run(&["interrupt", "demo", "--json"]);
    assert_eq!((said.code, &said.json()["outcome"]), (Some(0), &"cancelled".into()));
    assert_eq!(waiting.wait().expect("it ends").code(), Some(10));
    let nothing = server.run(&["interrupt", "demo"]);
    assert_eq!((nothing.code, nothing.out.as_str()), (Some(3), "outcome: no_such_run\n"), "{nothing:?}");
}

#[test]
fn a_dead_letter_is_listed_and_redriven() {
    let dir = folder();
    let server = Served::start(dir.path());
    let said = server.run(&["send", "demo", "/panic", "--wait=60s", "--json"]);
    assert_eq!(said.code, Some(10), "{said:?}");
    let id = said.json()["id"].as_str().expect("an id").to_owned();
    let dead = server.run(&["dead", "--json"]).json();
    assert_eq!((&dead["items"][0]["id"], &dead["items"][0]["dead"]), (&id.as_str().into(), &true.into()), "{dead}");
    let redriven = server.run(&["redrive", "demo", &id]);
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    assert_ne!(redriven.out.trim(), id);
    assert_eq!(server.run(&["redrive", "demo", &id]).out, redriven.out, "twice is once");
}

#[test]
fn background_work_is_listed_and_called_off() {
    let dir = folder();
    let server = Served::start(dir.path());
    assert_eq!(server.run(&["send", "demo", "/bg 60 tea", "--wait"]).code, Some(0));
    let listed = server.run(&["ops", "demo", "--json"]).json();
    let operation = &listed["items"][0];
    assert_eq!((&operation["display_name"], &operation["status"]), (&"tea".into(), &"running".into()), "{listed}");
    let id = operation["id"].as_str().expect("an id");
    let cancelled = server.run(&["ops", "demo", id, "--cancel", "--json"]).json();
    assert_eq!(cancelled["id"], id);
    assert!(server.run(&["ops", "demo"]).out.contains("tea"));
}

#[test]
fn what_is_read_without_a_server_is_said_in_the_words_of_the_server() {
    let dir = folder();
    let server = Served::start(dir.path());
    assert_eq!(server.run(&["send", "demo", "/echo one", "--wait"]).code, Some(0));
    assert_eq!(server.run(&["hold", "demo"]).code, Some(0));
    sent(&server, "demo", "/echo two");
    let here = |arguments: &[&str]| run(windlass(dir.path()).args(arguments));
    let inputs = server.run(&["inputs", "demo", "--json"]).json();
    let causes: Vec<Value> = inputs["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|input| {
            let explain = ["explain", "demo", input["id"].as_str().expect("an id"), "--json"];
            let there = server.run(&explain).json();
            assert_eq!(here(&explain).json(), there);
            there["cause"].clone()
        })
        .collect();
    assert!(causes.contains(&"settled".into()) && causes.contains(&"held".into()), "{causes:?}");

    let journal = here(&["journal", "demo", "--output", "jsonl"]);
    let entries = journal.lines().len().to_string();
    let tail = server.run(&["tail", "demo", "--after", "0", "--limit", &entries, "--no-progress", "--output", "jsonl"]);
    assert_eq!(journal.lines(), tail.lines());
    let whole = here(&["journal", "demo", "--json"]).json();
    let items = whole["items"].as_array().expect("items");
    assert!(
        items.iter().zip(tail.lines()).all(|(item, line)| item == &serde_json::from_str::<Value>(line).expect("JSON"))
    );

    let question = ["policy", "explain", "--kind", "peer_request", "--source", "peer", "--busy", "--json"];
    let there = server.run(&[&question[..], &["--name", "default"]].concat());
    assert_eq!(here(&question).json(), there.json());
}

#[test]
fn a_policy_is_kept_asked_and_tried_out() {
    let dir = folder();
    let server = Served::start(dir.path());
    assert_eq!(server.run(&["send", "demo", "/echo one", "--wait"]).code, Some(0));
    let file = dir.path().join("quiet.toml");
    let table = "version = 1\n[[row]]\nkind = \"prompt\"\ndecision = { deliver = \"next_run\", wake = false }\n";
    std::fs::write(&file, table).expect("a file");
    let file = file.to_str().expect("text");
    let saved = server.run(&["policy", "upload", "quiet", file, "--json"]);
    assert_eq!(saved.code, Some(0), "{saved:?}");
    assert_eq!((&saved.json()["name"], &saved.json()["version"]), (&"quiet".into(), &1.into()));
    let listed = server.run(&["policy", "ls", "--json"]).json();
    let names: Vec<_> = listed["items"].as_array().expect("items").iter().map(|policy| &policy["name"]).collect();
    assert!(names.contains(&&"quiet".into()), "{listed}");
    let said = server.run(&["policy", "explain", "--name", "quiet", "--kind", "prompt", "--json"]).json();
    assert_eq!(said["decision"]["wake"], false, "{said}");
    let replayed = server.run(&["policy", "replay", "quiet", "demo"]);
    assert!(
        replayed.out.contains("1 of 1 decisions would differ") && replayed.out.contains("wake: true becomes false"),
        "{replayed:?}"
    );
    std::fs::write(file, "[[row]]\nkind = \"poem\"\n").expect("a file");
    assert_eq!(server.run(&["policy", "upload", "quiet", file]).code, Some(78));
}

#[test]
fn tokens_are_made_before_the_server_and_through_it_and_end_at_once() {
    let dir = folder();
    let made = run(windlass(dir.path()).args(["token", "create", "--name", "operator", "--json"])).json();
    let operator = made["token"].as_str().expect("a token").to_owned();
    assert!(operator.starts_with("wl_"), "{made}");
    let server = Served::start(dir.path());
    let as_operator = |arguments: &[&str]| run(server.windlass(arguments).env("WINDLASS_TOKEN", &operator));
    assert_eq!(server.run(&["sessions"]).code, Some(4), "there is a token, so one is needed");
    assert_eq!(as_operator(&["sessions"]).code, Some(0));

    // No address is named: whoever holds the store is asked.
    let address = server.url.clone();
    let reader = as_operator(&["token", "create", "--scope", "sessions:read"]);
    assert_eq!(reader.code, Some(0), "{reader:?}");
    let file = dir.path().join("reader.token");
    std::fs::write(&file, &reader.out).expect("a file");
    let file = file.to_str().expect("text");
    let config = dir.path().join("config/windlass");
    std::fs::create_dir_all(&config).expect("a folder");
    let profile = format!("[profile.reader]\nurl = {address:?}\ntoken_file = {file:?}\n");
    std::fs::write(config.join("config.toml"), profile).expect("a file");
    let as_reader = |arguments: &[&str]| run(windlass(dir.path()).args(arguments).args(["--profile", "reader"]));
    assert_eq!(as_reader(&["sessions"]).code, Some(0));
    let refused = as_reader(&["send", "demo", "hello"]);
    assert_eq!((refused.code, refused.out.as_str()), (Some(4), ""), "{refused:?}");
    assert!(refused.err.starts_with("error: forbidden_scope: "), "{refused:?}");

    let listed = as_operator(&["token", "ls", "--json"]).json();
    let listed = listed["items"].as_array().expect("items");
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed.iter().all(|token| token.get("token").is_none()));
    let id = reader.out.trim().split('_').nth(1).expect("an id");
    assert_eq!(as_operator(&["token", "revoke", id]).code, Some(0));
    assert_eq!(as_reader(&["sessions"]).code, Some(4), "at once");
}

#[test]
fn a_token_goes_where_the_configuration_says() {
    let dir = folder();
    let config = dir.path().join("w.toml");
    let store = dir.path().join("elsewhere/windlass.db");
    std::fs::write(&config, format!("[store]\npath = {store:?}\n")).expect("a file");
    let here = |arguments: &[&str]| {
        let mut command = windlass(dir.path());
        command.env_remove("WINDLASS_DIR").env("XDG_DATA_HOME", dir.path().join("data"));
        run(command.args(arguments).arg("--config").arg(&config))
    };
    assert_eq!(here(&["token", "create"]).code, Some(0));
    assert!(store.is_file() && !dir.path().join("data").exists(), "in the store that the server would open");
    for (refused, told) in [
        (&["token", "create", "--scope", "everything"][..], "scopes"),
        (&["token", "create", "--session-prefix", "no prefix"], "session_prefix"),
        (&["token", "create", "--expires-in", "999999h"], "expires_in"),
    ] {
        let said = here(refused);
        assert!(said.code == Some(6) && said.err.contains(told), "as over HTTP: {refused:?} {said:?}");
    }
    // A server that is meant is asked: it is not there.
    std::fs::write(&config, "[profile.default]\nurl = \"http://127.0.0.1:9\"\n").expect("a file");
    assert_eq!(here(&["token", "ls"]).code, Some(8));
    assert_eq!(here(&["explain", "demo", "0190b8a0-1111-7222-8333-444455556666"]).code, Some(8));
}

#[test]
fn a_store_that_is_named_wins_over_a_folder_of_the_environment() {
    let dir = folder();
    let store = format!("sqlite:{}", dir.path().join("named.db").display());
    let server = Served::listening(dir.path(), "127.0.0.1:0", &["--store", &store]);
    server.run(&["send", "demo", "hello", "--wait"]);
    assert_eq!(server.terminated(), Some(0));
    assert!(dir.path().join("named.db").is_file() && !dir.path().join("windlass.db").exists());
    // A folder that cannot be made is a matter of the configuration.
    std::fs::write(dir.path().join("file"), "").expect("a file");
    let nowhere = dir.path().join("file/below");
    let said = run(windlass(dir.path()).args(["serve", "--listen", "127.0.0.1:0", "--dir"]).arg(&nowhere));
    assert!(said.code == Some(78) && said.err.contains(&nowhere.display().to_string()), "{said:?}");
}

#[test]
fn a_backup_beside_a_server_restores_what_was_accepted() {
    let dir = folder();
    let server = Served::start(dir.path());
    assert_eq!(server.run(&["send", "demo", "/echo kept", "--wait", "--key", "k"]).code, Some(0));
    let backup = dir.path().join("saved.db");
    let backup = backup.to_str().expect("text");
    let said = server.run(&["backup", backup]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let busy = server.run(&["restore", backup, "--overwrite"]);
    assert_eq!(busy.code, Some(5), "{busy:?}");
    assert_eq!(server.terminated(), Some(0));

    let elsewhere = folder();
    let said = run(windlass(elsewhere.path()).args(["restore", backup]));
    assert_eq!(said.code, Some(0), "{said:?}");
    let server = Served::start(elsewhere.path());
    let again = server.run(&["send", "demo", "/echo kept", "--wait", "--key", "k", "--json"]).json();
    assert_eq!((&again["outcome"], &again["result"]["text"]), (&"deduplicated".into(), &"kept".into()), "{again}");
    drop(server);
    let taken = run(windlass(elsewhere.path()).args(["restore", backup]));
    assert_eq!(taken.code, Some(5), "{taken:?}");
}

#[test]
fn a_doctor_and_a_health_check_say_how_it_is() {
    let dir = folder();
    let nobody = run(windlass(dir.path()).args(["health", "--url", "http://127.0.0.1:9"]));
    assert_eq!(nobody.code, Some(8), "{nobody:?}");
    let server = Served::start(dir.path());
    let health = server.run(&["health", "--json"]);
    assert_eq!((health.code, &health.json()["status"]), (Some(0), &"ready".into()));
    let well = server.run(&["doctor", "--json"]);
    assert_eq!((well.code, &well.json()["ok"]), (Some(0), &true.into()), "{well:?}");
    let names: Vec<_> =
        well.json()["findings"].as_array().expect("findings").iter().map(|f| f["name"].clone()).collect();
    assert_eq!(names, ["config", "clock", "store", "lock", "disk", "sandbox", "server"]);
    let agents = server.run(&["agents", "ls", "--json"]).json();
    let default = agents["items"].as_array().expect("agents").iter().find(|agent| agent["default"] == true);
    let default = default.expect("a default agent")["name"].as_str().expect("a name").to_owned();
    assert_eq!(server.run(&["agents", "test", &default, "--json"]).json()["ok"], true);
    drop(server);

    std::fs::write(dir.path().join("windlass.db"), "no store at all").expect("a file");
    let ill = run(windlass(dir.path()).args(["doctor", "--url", "http://127.0.0.1:9"]));
    assert_eq!(ill.code, Some(1), "{ill:?}");
    assert!(ill.out.contains("WRONG store: ") && ill.out.contains("WRONG server: "), "{ill:?}");
}

#[test]
fn a_configuration_is_begun_checked_and_refused() {
    let dir = folder();
    let template = run(windlass(dir.path()).args(["config", "template"]));
    assert!(template.out.contains("[server]") && template.out.contains("#[profile.default]"), "{template:?}");
    let file = dir.path().join("windlass.toml");
    let check = |text: &str, verb: &[&str]| {
        std::fs::write(&file, text).expect("a file");
        run(windlass(dir.path()).args(verb).args(["--config", file.to_str().expect("text")]))
    };
    assert_eq!(check(&template.out, &["config", "check"]).code, Some(0), "the template can be used as it is");
    let uncommented = template.out.replace("#[profile.default]", "[profile.default]").replace("#url =", "url =");
    assert_eq!(check(&uncommented, &["config", "check"]).code, Some(0));
    let shown = check("[server]\ndrain_seconds = 5\n", &["config", "show", "--json"]).json();
    assert_eq!(shown["server"]["listen"], "127.0.0.1:7420", "{shown}");
    for verb in ["check", "path"] {
        let said = check("[server]\ndrain_seconds = 5\n", &["config", verb, "--json"]).json();
        assert_eq!(said["file"], file.to_str().expect("text"), "{verb}: {said}");
    }
    let key = run(windlass(dir.path()).args(["peers", "id", "--json"])).json();
    assert_eq!(key["key"], run(windlass(dir.path()).args(["peers", "id"])).out.trim(), "{key}");
    for (text, place) in [
        ("[server]\nlisten = 1\n", "windlass.toml:2:"),
        ("[server]\nlsten = \"127.0.0.1:1\"\n", "lsten"),
        ("[sever]\n", "sever"),
        ("[profile.p]\nurl = \"ftp://x\"\n", "profile.p"),
        ("[profile.p]\nurl = \"http://h\"\ntoken = \"t\"\n", "https"),
    ] {
        let said = check(text, &["config", "check"]);
        assert_eq!((said.code, said.out.as_str()), (Some(78), ""), "{text}: {said:?}");
        assert!(said.err.contains(place), "{text}: {said:?}");
    }
    let exposed = run(windlass(dir.path()).args(["serve", "--listen", "0.0.0.0:0"]));
    assert_eq!(exposed.code, Some(78), "{exposed:?}");
    assert!(exposed.err.contains("  try: "), "{exposed:?}");
}

#[test]
fn two_servers_do_not_share_a_store() {
    let dir = folder();
    let _server = Served::start(dir.path());
    let second = run(windlass(dir.path()).args(["serve", "--listen", "127.0.0.1:0"]));
    assert_eq!(second.code, Some(5), "{second:?}");
    assert!(second.err.contains("store_locked"), "{second:?}");
}

#[test]
fn what_a_shell_and_a_reader_need_is_there() {
    let dir = folder();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(windlass(dir.path()).args(["completion", shell]));
        assert!(script.code == Some(0) && script.out.contains("WINDLASS_COMPLETE"), "{shell}");
    }
    let pages = dir.path().join("man");
    assert_eq!(run(windlass(dir.path()).arg("man").arg("--dir").arg(&pages)).code, Some(0));
    for page in ["windlass.1", "windlass-send.1", "windlass-token-create.1"] {
        assert!(Path::new(&pages).join(page).is_file(), "{page}");
    }
    let version = run(windlass(dir.path()).args(["version", "--json"])).json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_shell_completes_what_is_on_the_server() {
    let dir = folder();
    let server = Served::start(dir.path());
    let input = sent(&server, "parlour", "/slow 60");
    sent(&server, "pantry", "hello");
    // As the script of fish asks: a line a candidate.
    let completed = |words: &[&str]| {
        let mut asked = server.windlass(&["--"]);
        let said = run(asked.env("WINDLASS_COMPLETE", "fish").arg("windlass").args(words));
        let mut words: Vec<_> =
            said.lines().iter().map(|line| line.split('\t').next().unwrap_or("").to_owned()).collect();
        words.sort();
        words
    };
    assert_eq!(completed(&["inter"]), ["interrupt"]);
    assert_eq!(completed(&["tail", "pa"]), ["pantry", "parlour"]);
    assert_eq!(completed(&["explain", "parlour", &input[..8]]), [input.as_str()]);
    assert_eq!(completed(&["agents", "test", "bu"]), ["builtin"]);
    drop(server);
    let unasked = run(windlass(dir.path()).env("WINDLASS_COMPLETE", "fish").args(["--", "windlass", "tail", "pa"]));
    assert_eq!(
        (unasked.code, unasked.out.trim()),
        (Some(0), ""),
        "a server that is not there is no error: {unasked:?}"
    );
}

#[test]
fn what_is_read_is_told_as_it_was_asked_for() {
    let dir = folder();
    let server = Served::start(dir.path());
    server.run(&["send", "one", "hello", "--wait"]);
    server.run(&["send", "two", "hello", "--wait"]);
    let json = server.run(&["sessions", "--json"]);
    assert_eq!(server.run(&["sessions", "--output", "json"]).out, json.out);
    assert_eq!(json.json()["items"].as_array().map(Vec::len), Some(2));
    let lines = server.run(&["sessions", "-o", "jsonl", "--limit", "1"]);
    assert_eq!(lines.json(), json.json()["items"][0], "an item a line");
    assert!(lines.err.starts_with("there is more: --cursor "), "{lines:?}");
    let quiet = server.run(&["sessions", "-o", "jsonl", "--limit", "1", "--quiet"]);
    assert_eq!((quiet.out, quiet.err.as_str()), (lines.out, ""));
    let health = server.run(&["health", "-o", "jsonl"]);
    assert_eq!(health.lines().len(), 1, "{health:?}");
    assert_eq!(server.run(&["sessions", "--json", "-o", "text"]).code, Some(2), "one of the two");
    let failed = server.run(&["sessions", "show", "nobody", "--quiet"]);
    assert!(failed.err.starts_with("error: not_found"), "errors are never left out: {failed:?}");
}

#[test]
fn colour_is_told_where_it_is_asked_for() {
    let dir = folder();
    let server = Served::start(dir.path());
    server.run(&["send", "demo", "hello", "--wait"]);
    let always = server.run(&["sessions", "--color", "always"]);
    assert!(always.out.starts_with("\u{1b}[1mID"), "{always:?}");
    let error = server.run(&["--color", "always", "sessions", "show", "nobody"]);
    assert!(error.err.contains("\u{1b}[31merror:"), "{error:?}");
    let never = run(server.windlass(&["--color", "never", "sessions"]).env("CLICOLOR_FORCE", "1"));
    assert!(never.out.starts_with("ID"), "{never:?}");
}

#[test]
fn a_folder_that_a_flag_names_is_not_taken_for_the_server_of_the_environment() {
    let (dir, other) = (folder(), folder());
    let server = Served::start(dir.path());
    let made = run(server.windlass(&["token", "create", "--name", "first", "--dir"]).arg(other.path()));
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(other.path().join("windlass.db").exists(), "it is there");
    assert_eq!(server.run(&["sessions"]).code, Some(0), "and the server still has none");
}

#[test]
fn nothing_is_coloured_where_nobody_sees_it() {
    let dir = folder();
    let server = Served::start(dir.path());
    server.run(&["send", "demo", "hello", "--wait"]);
    for arguments in [&["sessions"][..], &["inputs", "demo"], &["--help"], &["send"]] {
        let said = server.run(arguments);
        assert!(!said.out.contains('\u{1b}') && !said.err.contains('\u{1b}'), "{said:?}");
    }
}

#[test]
fn an_agent_without_its_key_is_told_of_before_anybody_needs_it_and_by_what_waits() {
    let dir = folder();
    let file = dir.path().join("windlass.toml");
    let agent = "[agents.words]\nkind = \"process\"\ncommand = [\"cat\"]\nenv_from = [\"NO_SUCH_KEY\"]\n";
    std::fs::write(&file, agent).expect("a file");
    let config = ["--config", file.to_str().expect("text")];
    let lacking = "agents.words: the environment variable NO_SUCH_KEY is not set, and neither is NO_SUCH_KEY_FILE";

    let checked = run(windlass(dir.path()).args(["config", "check"]).args(config));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.out.contains(&format!("but for {lacking}")), "{checked:?}");
    let checked = run(windlass(dir.path()).args(["config", "check", "--json"]).args(config)).json();
    assert!(checked["lacking"][0].as_str().expect("text").starts_with(lacking), "{checked}");

    let server = Served::listening(dir.path(), "127.0.0.1:0", &config);
    let input = sent(&server, "demo", "hello");
    let said = server.run(&["explain", "demo", &input]);
    assert!(said.out.contains(&format!("executor_unavailable: {lacking}")), "{said:?}");
    let doctor = server.run(&[&["doctor", "--json"][..], &config].concat()).json();
    let note = |name: &str| {
        let findings = doctor["findings"].as_array().expect("findings");
        let finding = findings.iter().find(|finding| finding["name"] == name).expect(name);
        assert_eq!(finding["state"], "note", "{finding}");
        finding["detail"].as_str().expect("text").to_owned()
    };
    assert!(note("agent").starts_with(lacking));
    assert!(note("server").ends_with("sessions whose agent cannot be made: 1"));
}

#[test]
fn what_cannot_be_served_leaves_no_store() {
    let dir = folder();
    let store = dir.path().join("new/windlass.db");
    for (flags, code) in [
        (&["--listen", "0.0.0.0:0"][..], "unsafe_listen: "),
        (&["--listen", "0.0.0.0:0", "--behind-proxy"], "unsafe_listen: "),
        (&["--listen", "127.0.0.1:0", "--tls-cert", "/no/such/cert", "--tls-key", "/no/such/key"], "tls_"),
    ] {
        let at = format!("sqlite:{}", store.display());
        let said = run(windlass(dir.path()).args(["serve", "--store", &at]).args(flags));
        assert_eq!(said.code, Some(78), "{flags:?}: {said:?}");
        assert!(said.err.contains(code), "{flags:?}: {said:?}");
        assert!(!store.parent().expect("a folder").exists(), "{flags:?}");
    }
}
