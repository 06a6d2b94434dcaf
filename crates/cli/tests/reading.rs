//! Do the reading verbs tell what is there, beside a running process, and say no with the right code?

mod common;

use common::{chat, journal_has, run, wait_until, windlass};
use std::{io::Write, path::Path, process::Stdio};

fn talked() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let said = chat(dir.path(), &[], b"Hello\n/echo two\n");
    assert_eq!(said.code, Some(0), "{said:?}");
    dir
}

fn first_input(dir: &Path) -> String {
    let journal = run(windlass(dir).args(["journal", "chat", "--json"])).json();
    let entries = journal["items"].as_array().expect("entries");
    let accepted = entries.iter().find_map(|entry| entry["record"].get("input_accepted")).expect("an input");
    accepted["input"]["header"]["id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_journal_is_one_line_per_entry_or_one_document() {
    let dir = talked();
    let said = run(windlass(dir.path()).args(["journal", "chat"]));
    assert_eq!(said.code, Some(0));
    let lines = said.lines();
    assert!(lines[0].contains("Z write 1 session_created"), "{}", lines[0]);
    assert!(lines.iter().any(|line| line.contains("input_accepted") && line.ends_with(r#""Hello""#)), "{lines:?}");
    let document = run(windlass(dir.path()).args(["journal", "chat", "--json"])).json();
    let entries = document["items"].as_array().expect("entries");
    assert_eq!(entries.len(), lines.len());
    assert!(entries.iter().zip(1..).all(|(entry, seq)| entry["seq"] == seq));
    let rest = run(windlass(dir.path()).args(["journal", "chat", "--after", "2"]));
    assert_eq!(rest.lines(), lines[2..]);
}

#[test]
fn an_input_is_explained_when_it_is_over_and_while_it_waits() {
    let dir = talked();
    let id = first_input(dir.path());
    let said = run(windlass(dir.path()).args(["explain", "chat", &id]));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.lines()[0], format!("input {id} is consumed"));
    assert!(said.lines()[1].starts_with(r#"  outcome: completed "Hello."#), "{said:?}");
    assert_eq!(said.lines().len(), 5, "accepted, started, ended: {said:?}");
    let document = run(windlass(dir.path()).args(["explain", "chat", &id, "--json"])).json();
    assert_eq!(
        (&document["state"], &document["cause"], &document["id"]),
        (&"consumed".into(), &"settled".into(), &id.into())
    );

    let mut child = windlass(dir.path()).arg("chat").stdin(Stdio::piped()).spawn().expect("the binary runs");
    child.stdin.as_mut().expect("a pipe").write_all(b"/slow 60\n").expect("it listens");
    wait_until("the run", || journal_has(dir.path(), r#""/slow 60""#));
    wait_until("its start", || {
        let journal = run(windlass(dir.path()).args(["journal", "chat", "--json"])).json();
        let last = journal["items"].as_array().and_then(|entries| entries.last().cloned()).expect("entries");
        last["record"].get("run_started").or_else(|| last["record"].get("boundary_committed")).is_some()
    });
    let journal = run(windlass(dir.path()).args(["journal", "chat", "--json"])).json();
    let mut latest = journal["items"].as_array().expect("entries").iter().rev();
    let accepted = latest.find_map(|entry| entry["record"].get("input_accepted")).expect("an input");
    let id = accepted["input"]["header"]["id"].as_str().expect("an id");
    let open = run(windlass(dir.path()).args(["explain", "chat", id]));
    assert!(open.out.contains("because: it is running in "), "{open:?}");
    let locked = chat(dir.path(), &[], b"");
    assert_eq!(locked.code, Some(5), "{locked:?}");
    assert!(locked.err.contains("error: store_locked: ") && locked.err.contains("  try: "), "{locked:?}");
    child.kill().expect("it runs");
    child.wait().expect("it is ours");
}

#[test]
fn the_story_of_an_input_has_its_failures() {
    let dir = tempfile::tempdir().expect("a folder");
    chat(dir.path(), &[], b"/fail\n");
    let said = run(windlass(dir.path()).args(["explain", "chat", &first_input(dir.path())]));
    let told = |text: &str| said.out.matches(text).count();
    assert_eq!(
        (told("run_started"), told("failed \"told to fail by /fail, attempt 1\""), told("run_ended")),
        (2, 1, 2),
        "{said:?}"
    );
}

#[test]
fn a_sound_store_verifies_and_a_changed_one_does_not() {
    let dir = talked();
    let sound = run(windlass(dir.path()).args(["verify", "--json"]));
    assert_eq!(sound.code, Some(0), "{sound:?}");
    assert_eq!((&sound.json()["sessions"], &sound.json()["inputs"]), (&1.into(), &2.into()));
    let db = rusqlite::Connection::open(dir.path().join("windlass.db")).expect("a store");
    db.execute("UPDATE journal SET body = replace(body, 'Hello', 'Hallo') WHERE seq = 2", []).expect("a change");
    drop(db);
    let changed = run(windlass(dir.path()).arg("verify"));
    assert_eq!(changed.code, Some(1), "{changed:?}");
    assert!(changed.out.contains("position 2") && changed.err.contains("  try: restore a backup"), "{changed:?}");
}

#[test]
fn what_is_not_there_is_not_found_and_nothing_is_made() {
    let empty = tempfile::tempdir().expect("a folder");
    for verb in [&["journal", "chat"][..], &["explain", "chat", "x"], &["verify"]] {
        let said = run(windlass(empty.path()).args(verb));
        assert_eq!(said.code, Some(3), "{said:?}");
        assert!(said.err.starts_with("error: there is no store at ") && said.err.contains("\n  try: "), "{said:?}");
    }
    assert_eq!(std::fs::read_dir(empty.path()).expect("a folder").count(), 0);
    let dir = talked();
    assert_eq!(run(windlass(dir.path()).args(["journal", "nobody"])).code, Some(3));
    assert_eq!(run(windlass(dir.path()).args(["explain", "chat", "nothing"])).code, Some(3));
    let id = "0190b8a0-1111-7222-8333-444455556666";
    assert_eq!(run(windlass(dir.path()).args(["explain", "chat", id])).code, Some(3));
}

#[test]
fn a_newer_or_foreign_store_is_refused_unchanged() {
    for change in ["PRAGMA user_version = 99", "PRAGMA application_id = 7"] {
        let dir = talked();
        let file = dir.path().join("windlass.db");
        rusqlite::Connection::open(&file).expect("a store").execute_batch(change).expect("a change");
        let before = std::fs::read(&file).expect("a file");
        for verb in [&["journal", "chat"][..], &["verify"], &["chat"]] {
            let said = run(windlass(dir.path()).args(verb));
            assert_eq!(said.code, Some(78), "{change}, {verb:?}: {said:?}");
            assert!(said.err.starts_with("error: store_") && said.err.contains("\n  try: "), "{said:?}");
            assert!(!said.err.contains("None"), "{said:?}");
        }
        assert_eq!(std::fs::read(&file).expect("a file"), before, "{change}");
    }
}

#[test]
fn mistakes_in_usage_are_told_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    for arguments in
        [&[][..], &["dance"], &["journal"], &["policy", "explain"], &["policy", "explain", "--kind", "poem"]]
    {
        let said = run(windlass(dir.path()).args(arguments));
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{arguments:?}");
    }
    let help = run(windlass(dir.path()).arg("--help"));
    assert_eq!(help.code, Some(0));
    assert!(help.out.contains("Exit codes:") && !help.out.contains("demo-worker"), "{help:?}");
    assert_eq!(run(windlass(dir.path()).env("WINDLASS_LOG", "a=b=c").arg("verify")).code, Some(78));
}

#[test]
fn the_binary_says_which_one_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let build = run(windlass(dir.path()).args(["version", "--json"])).json();
    let said = run(windlass(dir.path()).arg("--version")).out;
    let expected = match build["commit"].as_str() {
        Some(commit) => format!("windlass {} ({commit})\n", env!("CARGO_PKG_VERSION")),
        None => format!("windlass {}\n", env!("CARGO_PKG_VERSION")),
    };
    assert_eq!(said, expected);
    assert_eq!(build["version"], env!("CARGO_PKG_VERSION"));
}
