//! Is every exit code reached, and does it mean what is documented?

mod common;

use common::{Served, run, windlass};

#[test]
fn every_exit_code_means_what_is_documented() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Served::start(dir.path());
    assert_eq!(server.run(&["send", "demo", "/echo one", "--key", "k", "--wait"]).code, Some(0));
    let missing = "0190b8a0-1111-7222-8333-444455556666";
    for (arguments, code, told) in [
        (&["sessions", "show", "demo"][..], 0, ""),
        (&["agents", "test", "nobody"], 3, "error: not_found: "),
        (&["send", "demo"], 2, "error: "),
        (&["wait", "demo", "no-id"], 2, "error: invalid value 'no-id' for '<INPUT>': an input is named by its id"),
        (&["explain", "demo", "no-id"], 2, "error: an input is named by its id"),
        (&["withdraw", "demo", "no-id"], 2, "error: invalid value 'no-id' for '<INPUT>': an input is named by its id"),
        (&["tail", "demo", "--after", "x"], 2, "error: --after x: a position is a number"),
        (&["sessions", "--limit", "0"], 2, "error: invalid value '0' for '--limit <N>': 0 is not in 1..=500"),
        (&["sessions", "show", "nobody"], 3, "error: not_found: "),
        (&["explain", "demo", missing], 3, "error: not_found: "),
        (&["send", "demo", "/echo two", "--key", "k"], 5, "error: idempotency_key_reused: "),
        (&["send", "demo", "two", "--key", "not one word"], 6, "error: "),
        (&["sessions", "new", "not a name"], 6, "error: "),
        (&["sessions", "--cursor", "nonsense"], 6, "error: invalid_cursor: "),
        (&["send", "demo", "/slow 60", "--wait=100ms"], 7, "error: "),
        (&["sessions", "--url", "http://127.0.0.1:9"], 8, "error: unreachable: "),
        (&["interrupt", "demo"], 0, ""),
        (&["send", "demo", "/fail always", "--wait=60s"], 10, "error: "),
        (&["backup", "/dev/null"], 5, "error: there is a file already: "),
        (&["restore", "/no/such/backup"], 3, "error: there is no backup at "),
        (&["sessions", "--url", "nonsense"], 78, "error: "),
        (&["sessions", "--profile", "nobody"], 78, "error: there is no [profile.nobody]"),
        (&["sessions", "--token-file", "/no/such/file"], 78, "error: the token cannot be read: "),
    ] {
        let said = server.run(arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
        assert!(said.err.starts_with(told), "{arguments:?}: {said:?}");
        assert_eq!(said.out.is_empty(), code != 0, "{arguments:?}: data on standard output only: {said:?}");
    }
    assert_eq!(server.run(&["token", "create"]).code, Some(0));
    assert_eq!(server.run(&["sessions"]).code, Some(4));
    drop(server);
    std::fs::write(dir.path().join("windlass.db"), "no store").expect("a file");
    assert_eq!(run(windlass(dir.path()).arg("verify")).code, Some(78));
}

#[test]
fn the_exit_codes_are_documented_where_people_look() {
    let dir = tempfile::tempdir().expect("a folder");
    let help = run(windlass(dir.path()).arg("--help")).out;
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/operating.md"));
    let page = page.expect("the operator's page");
    for code in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "10", "70", "78", "130, 143"] {
        assert!(help.contains(&format!(" {code} ")), "{code} in --help: {help}");
        assert!(page.contains(&format!("\n| {code} | ")), "{code} in the guide");
    }
}
